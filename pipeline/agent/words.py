"""A machine's status as an explanation to a person on site.

First what runs and whether all is well, in one sentence that begins with a word for it; then why
it has or has not moved; then what to do, if there is anything to be done here.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from pipeline.agent.advice import DATA, FOR_GATES, FOR_TROUBLES, WAIT, WRONG_CLOCK
from pipeline.clock import duration, iso
from pipeline.files import format_size
from pipeline.policy import backoff

if TYPE_CHECKING:
    from pipeline.agent.drift import Drift
    from pipeline.agent.status import Status
    from pipeline.models.device import Attempt

_MOST_DRIFT = 8  # entries that are listed; `--json` has all
_DAY = 86400.0
_DIGITS = 12  # of a digest

_DONE = {
    "chosen": "it was decided on",
    "cleared": "the other slot was cleared",
    "written": "it was written to the other slot",
    "verified": "it was read back, and is what was signed",
    "named": "its slot was named",
    "staged": "its boot file is in place",
    "activated": "it is installed",
    "booted": "it was started",
}
_DOING = {
    "check": "the store is asked",
    "chosen": "it is decided on",
    "cleared": "the other slot is cleared",
    "written": "it is fetched and written to the other slot",
    "verified": "it is read back and verified",
    "named": "its slot is named",
    "staged": "its boot file is put in place",
    "activated": "the boot loader is told",
}
# Gates that time or somebody elsewhere opens: with nothing but these a machine just waits.
_PATIENT = ("wave", "window", "not halted", "not frozen", "confirmed", "obstacles")


@dataclass(frozen=True)
class _Words:
    """What there is to say: a first sentence, reasons, and what to do."""

    first: str
    reasons: tuple[str, ...]
    advice: tuple[str, ...]


def render(status: Status, now: datetime, *, width: int = 80) -> str:
    """The status as text; lines of at most *width* columns, a long word aside.

    Args:
        status: what is to be told.
        now: the present moment: ages are told by it.
        width: columns.
    """
    words = _Words(_first(status), tuple(_reasons(status, now)), tuple(_advice(status)))
    blocks = [_wrapped(words.first, width)]
    if words.reasons:
        blocks.append(_listed(words.reasons, width))
    if words.advice:
        blocks.append("What to do:\n" + _listed(words.advice, width))
    if status.drift is not None:
        blocks.append(_drift(status.drift, width))
    blocks.append(_facts(status, now, width))
    return "\n\n".join(blocks) + "\n"


def _first(status: Status) -> str:
    running, attempt = status.running, status.attempt
    if running is None:
        return "Needs attention: what runs on this machine cannot be told."
    here = f"{running.image} {running.version} runs here"
    names = {each.gate for each in status.waiting}
    if running.trial:
        return f"On trial: {here}, and must still prove healthy."
    if status.leaving and (names or not status.wanted) and not _under_way(status):
        return f"Needs attention: {here}, which is revoked, and it cannot move off it."
    if not status.store or not status.channel:
        return f"Follows nothing: {here}, and it is not told where newer releases come from."
    if _is_ready(status):
        target = attempt.release.version if attempt else status.wanted
        return f"Ready to reboot: {here}, and {target} is installed beside it."
    if "not failed here" in names:
        return f"Went back: {here}, since {status.wanted} failed on this machine."
    if status.trouble is not None:
        return f"{_HEADS[status.trouble.kind]}: {here}, and goes on running."
    if names - {*_PATIENT, "pin"}:
        return f"Needs attention: {here}, and {status.wanted or 'what is wanted'} is refused."
    if names:
        return f"Waiting: {here}, and {status.wanted} does not start yet."
    if _under_way(status):
        target = attempt.release.version if attempt else status.wanted
        return f"Updating: {here}, and {target} is being installed."
    if status.problems:
        return f"Needs attention: {here}, but something is wrong with this machine."
    if status.pin is not None and not status.notes:
        return f"Pinned: {here}, and stays whatever its channel says."
    if status.checked is None and not status.wanted:
        return f"Not asked yet: {here}, and the store was never heard."
    return f"All is well: {here}, and is confirmed."


_HEADS = {
    "network": "No link",
    "expired": "Out of date",
    "trust": "Needs attention",
    "disk": "Needs attention",
    "host": "Needs attention",
    "other": "Needs attention",
}


def _is_ready(status: Status) -> bool:
    attempt = status.attempt
    return attempt is not None and attempt.step == "activated" and status.working is None


def _under_way(status: Status) -> bool:
    attempt = status.attempt
    if status.working is not None and status.working.step != "check":
        return True
    return attempt is not None and attempt.step not in ("booted", "confirmed", "failed")


def _reasons(status: Status, now: datetime) -> Iterable[str]:
    running, attempt = status.running, status.attempt
    if status.leaving and running is not None:
        yield f"{running.version} is revoked: {status.leaving}."
    if status.why and (not status.settled or status.pin is not None):
        yield _sentence(status.why)
    if running is not None and running.trial:
        left = running.tries_left or 0
        yield (
            "It is confirmed once its services and health checks are well; if not, this machine "
            f"goes back by itself ({_count(left, 'try', 'tries')} left)."
        )
    if attempt is not None and _under_way(status):
        yield _progress(status, attempt)
    yield from (_sentence(each.reason) for each in status.waiting)
    if attempt is not None and attempt.step == "failed":
        told = any(attempt.reason and attempt.reason in each.reason for each in status.waiting)
        if not told:
            version = attempt.release.version
            yield f"The last update, to {version}, failed: {_sentence(attempt.reason)}"
    if status.trouble is not None:
        if status.trouble.kind == "network":
            since = status.checked
            yield f"No link since {_moment(since, now)}." if since else "There never was a link."
        yield _sentence(status.trouble.message)
    yield from (_sentence(each) for each in (*status.problems, *status.notes))


def _progress(status: Status, attempt: Attempt) -> str:
    done = _DONE.get(attempt.step, attempt.step)
    text = f"The update to {attempt.release.version}: {done}"
    working = status.working
    if working is None or working.step == "check":
        return f"{text}."
    text += f"; now {_DOING.get(working.step, working.step)}"
    if working.total:
        share = working.done / working.total
        text += f", {format_size(working.done)} of {format_size(working.total)} ({share:.0%})"
    return f"{text}."


def _advice(status: Status) -> Iterable[str]:
    found: list[str] = []
    version = status.wanted or (status.attempt.release.version if status.attempt else "VERSION")
    names = [each.gate for each in status.waiting]
    for name in names:
        if name in FOR_GATES:
            found.append(FOR_GATES[name].format(version=version, channel=status.channel))
    if status.trouble is not None:
        found.append(status.trouble.hint or FOR_TROUBLES[status.trouble.kind])
        if status.trouble.hint and status.trouble.kind in ("network", "expired"):
            found.append(FOR_TROUBLES[status.trouble.kind])
    if any(each.startswith(backoff.WRONG_CLOCK) for each in status.problems):
        found.append(WRONG_CLOCK)
    if status.running is not None and not (status.store and status.channel):
        found.append(
            "Give it the credentials recast.store and recast.channel (and recast.root, unless its "
            "image brings a root of trust), then reboot it."
        )
    if any("/data" in each for each in status.problems):
        found.append(DATA)
    if status.pin is not None:
        found.append("`recast-agent unpin` lets it follow its channel again.")
    if names and all(name in ("wave", "window") for name in names):
        found.insert(0, WAIT)
    return dict.fromkeys(found)


def _drift(drift: Drift, width: int) -> str:
    if drift.trouble:
        return _wrapped(f"What differs from the image is not known: {drift.trouble}.", width)
    kinds = (("changed", drift.changed), ("added", drift.added), ("removed", drift.removed))
    entries = [f"{kind:8} {path}" for kind, paths in kinds for path in paths]
    if not entries:
        text = "Nothing differs from the image."
        return text if drift.complete else f"{text[:-1]} in what there was time to look at."
    lines = ["Differs from the image, and is gone at the next reboot:"]
    lines += [f"  {entry}" for entry in entries[:_MOST_DRIFT]]
    more = len(entries) - _MOST_DRIFT + drift.more if len(entries) > _MOST_DRIFT else drift.more
    if more:
        lines.append(f"  and {more} more")
    if not drift.complete:
        lines.append("  (there was no time to look at everything)")
    return "\n".join(lines)


def _facts(status: Status, now: datetime, width: int) -> str:
    rows = [("device", status.device + (f", site {status.site}" if status.site else ""))]
    if status.labels:
        rows.append(("labels", ", ".join(f"{k}={v}" for k, v in sorted(status.labels.items()))))
    if status.channel:
        rows.append(("channel", f"{status.channel} of {', '.join(status.store) or 'no store'}"))
    if status.running is not None:
        rows.append(("root hash", status.running.root_hash[:_DIGITS]))
        rows.append(("up since", _moment_ago(status.running.uptime)))
    if status.wanted and not status.settled:
        rows.append(("wanted", status.wanted))
    if status.checked is not None:
        rows.append(("heard", _moment(status.checked, now)))
    if status.next is not None and status.store and status.channel:
        rows.append(("next look", _moment(status.next, now)))
    if status.attempt is not None:
        rows.append(("last update", _last(status.attempt)))
    wide = max(len(name) for name, _ in rows) + 2
    lines: list[str] = []
    for name, value in rows:
        lines += textwrap.wrap(
            value,
            width,
            initial_indent=f"{name:{wide}}",
            subsequent_indent=" " * wide,
            break_long_words=False,
            break_on_hyphens=False,
        )
    return "\n".join(lines)


def _last(attempt: Attempt) -> str:
    text = f"{attempt.release.version}, {attempt.step}"
    if attempt.ended is not None:
        text += f" {iso(attempt.ended)}"
    taken = sum(attempt.seconds.values())
    if taken:
        text += f"; {duration(taken)} of work, {format_size(attempt.downloaded)} downloaded"
    return text


def _moment(moment: datetime, now: datetime) -> str:
    """``2026-03-01T12:00:00Z, 5m00s ago``; ``in 5m00s`` for what lies ahead."""
    seconds = (now - moment).total_seconds()
    length = _length(abs(seconds))
    return f"{iso(moment)}, {length} ago" if seconds >= 0 else f"{iso(moment)}, in {length}"


def _moment_ago(seconds: float) -> str:
    return f"{_length(seconds)} ago"


def _length(seconds: float) -> str:
    if seconds < 2 * _DAY:
        return duration(seconds)
    return f"{seconds // _DAY:.0f} days"


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _sentence(text: str) -> str:
    text = text.strip()
    if not text:
        return "no reason is known."
    return text[0].upper() + text[1:] + ("" if text[-1] in ".!?" else ".")


def _wrapped(text: str, width: int) -> str:
    return textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False)


def _listed(entries: Sequence[str], width: int) -> str:
    return "\n".join(
        textwrap.fill(
            each,
            width,
            initial_indent="- ",
            subsequent_indent="  ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        for each in entries
    )
