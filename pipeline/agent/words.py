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

from pipeline.agent.advice import (
    ASK,
    DATA,
    FOR_GATES,
    FOR_TROUBLES,
    UNKNOWN,
    UNPIN,
    UNSET,
    WRONG_CLOCK,
)
from pipeline.clock import duration, iso
from pipeline.files import format_size
from pipeline.models.site import format_rate
from pipeline.policy import backoff

if TYPE_CHECKING:
    from pipeline.agent.drift import Drift
    from pipeline.agent.status import Status, Waiting
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
_PATIENT = ("wave", "window", "not halted", "not frozen", "confirmed", "reboot")


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
    reasons = tuple(dict.fromkeys(_reasons(status, now)))
    words = _Words(_first(status), reasons, tuple(dict.fromkeys(_advice(status))))
    blocks = [_wrapped(words.first, width)]
    if words.reasons:
        blocks.append(_listed(words.reasons, width))
    advice = [each for each in words.advice if each]
    if advice:
        blocks.append("What to do:\n" + _listed(advice, width))
    if status.drift is not None:
        blocks.append(_drift(status.drift, width))
    blocks.append(_facts(status, now, width))
    return "\n\n".join(blocks) + "\n"


def _first(status: Status) -> str:
    running, attempt = status.running, status.attempt
    if running is None:
        return "Needs attention: what runs on this machine cannot be told."
    here = f"{running.image} {running.version} runs here"
    target = attempt.release.version if attempt else status.wanted
    names = {each.gate for each in status.waiting}
    if running.trial:
        return f"On trial: {here}, and must still prove healthy."
    if _is_ready(status):
        return f"Ready to reboot: {here}, and {target} is installed beside it."
    if status.leaving and names:
        return f"Needs attention: {here}, which is revoked, and it cannot move off it."
    if _unset(status):
        return f"Follows nothing: {here}, and it is not told where newer releases come from."
    if "not failed here" in names:
        return f"Went back: {here}, since {status.wanted} failed on this machine."
    if status.trouble is not None:
        word, clause = _TROUBLES[status.trouble.kind]
        return f"{word}: {here}, and goes on running{clause}."
    if status.pin is not None and not status.notes and (status.settled or "available" in names):
        return f"Pinned: {here}, and stays whatever its channel says."
    if names - set(_PATIENT):
        return f"Needs attention: {here}, and {status.wanted or 'what is wanted'} is refused."
    if _under_way(status) and not names:
        return f"Updating: {here}, and {target} is being installed."
    if status.problems:
        wrong = (
            "its clock is wrong" if _wrong_clock(status) else "something is wrong on this machine"
        )
        return f"Needs attention: {here}, but {wrong}."
    if names:
        return f"Waiting: {here}, and {status.wanted} may not be installed yet."
    if status.checked is None and not status.wanted:
        return f"Not asked yet: {here}, and the store was never heard."
    if not status.settled:
        return f"About to update: {here}, and {status.wanted} is to be installed."
    return f"All is well: {here}, and is confirmed."


_TROUBLES = {
    "network": ("No link", " without it"),
    "store": ("Needs attention", "; its store lacks what it promises"),
    "expired": ("Out of date", "; what its store says has run out"),
    "trust": ("Needs attention", "; what its store gives out is refused"),
    "disk": ("Needs attention", "; there is no room for what is newer"),
    "host": ("Needs attention", "; an update failed on this machine"),
    "other": ("Needs attention", "; an update failed"),
}
_INTRODUCED = {
    "wave": "this machine is {reason}",
    "not halted": "the rollout is {reason}",
    "reboot": "this machine may not reboot yet: {reason}",
    "slot size": "{wanted} does not fit: {reason}",
    "ESP space": "{wanted} does not fit: {reason}",
}


def _wrong_clock(status: Status) -> bool:
    return any(each.startswith(backoff.WRONG_CLOCK) for each in status.problems)


def _unset(status: Status) -> bool:
    """Is it not told whom to follow?"""
    missing = any(each.gate == "configured" for each in status.waiting)
    return missing or not status.store or not status.channel


def _is_ready(status: Status) -> bool:
    attempt = status.attempt
    if attempt is None or status.working is not None:
        return False
    due = any(each.gate in ("window", "reboot") for each in status.waiting)
    return attempt.step == "activated" or (attempt.step == "staged" and due)


def _under_way(status: Status) -> bool:
    attempt = status.attempt
    if status.working is not None and status.working.step != "check":
        return True
    return attempt is not None and attempt.step not in ("booted", "confirmed", "failed")


def _reasons(status: Status, now: datetime) -> Iterable[str]:
    running, attempt = status.running, status.attempt
    if status.leaving and running is not None and status.leaving not in status.why:
        yield f"{running.version} is revoked: {status.leaving}."
    if status.why:
        yield _sentence(status.why)
    if running is not None and running.trial:
        left = running.tries_left or 0
        if attempt is not None and attempt.step == "booted" and attempt.reason:
            yield f"It is given up, and this machine goes back: {_ended(attempt.reason)}"
        else:
            yield (
                "It is confirmed once its services and health checks are well; if they are not, "
                f"this machine goes back by itself ({_count(left, 'try', 'tries')} left)."
            )
    if attempt is not None and _under_way(status):
        yield _progress(status, attempt)
    yield from (_waiting(each, status) for each in status.waiting)
    if attempt is not None and attempt.step == "failed":
        told = any(attempt.reason and attempt.reason in each.reason for each in status.waiting)
        if not told:
            version = attempt.release.version
            yield f"The last update, to {version}, failed: {_ended(attempt.reason)}"
    if status.trouble is not None:
        if status.trouble.kind == "network":
            since = status.checked
            yield f"No link since {_moment(since, now)}." if since else "There never was a link."
        yield _sentence(status.trouble.message)
    yield from (_sentence(each) for each in (*status.problems, *status.notes))


def _waiting(waiting: Waiting, status: Status) -> str:
    text = _INTRODUCED.get(waiting.gate, "{reason}")
    wanted = status.wanted or "what is wanted"
    return _sentence(text.format(reason=waiting.reason, wanted=wanted))


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
    version = status.wanted or (status.attempt.release.version if status.attempt else "VERSION")
    if _wrong_clock(status):
        yield WRONG_CLOCK
    yield from (_for_gate(each, status, version) for each in status.waiting)
    trouble = status.trouble
    if trouble is not None:
        if trouble.hint:
            yield trouble.hint
        if not trouble.hint or trouble.kind in ("network", "expired"):
            yield FOR_TROUBLES[trouble.kind]
    if any("/data" in each for each in status.problems):
        yield DATA
    if status.running is None:
        yield UNKNOWN
    elif _unset(status):
        yield UNSET
    elif status.checked is None and trouble is None:
        yield ASK
    if status.pin is not None:
        yield UNPIN


def _for_gate(waiting: Waiting, status: Status, version: str) -> str:
    name = waiting.gate
    if name == "available" and status.pin is not None and not status.leaving:
        return ""
    if name in ("wave", "window") and _wrong_clock(status):
        return ""  # by that clock it may be years
    if name == "wave" and waiting.opens is None and "opens at" not in waiting.reason:
        name = "not halted"  # it is held before that wave: time alone opens nothing
    return FOR_GATES.get(name, "").format(version=version, channel=status.channel)


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
    if status.bandwidth is not None:
        rate, until = status.bandwidth.rate, status.bandwidth.until
        text = f", until {_moment(until, now)}" if until is not None else ""
        rows.append(("bandwidth", format_rate(rate) + text))
    if status.running is not None:
        rows.append(("root hash", status.running.root_hash[:_DIGITS]))
        rows.append(("up for", _length(status.running.uptime)))
    if status.wanted and not status.settled:
        rows.append(("wanted", status.wanted))
    ahead = status.checked is not None and status.checked > now  # the clock was set back
    if status.checked is not None:
        heard = f"{iso(status.checked)}, which by this clock is still to come"
        rows.append(("heard", heard if ahead else _moment(status.checked, now)))
    if status.next is not None and status.store and status.channel:
        soon = ahead or status.next <= now
        rows.append(("next look", "due now" if soon else _moment(status.next, now)))
    if status.attempt is not None:
        rows.append(("last update", _last(status.attempt)))
        rows += [(f"  its {role}", how) for role, how in sorted(status.attempt.how.items())]
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


def _length(seconds: float) -> str:
    if seconds < 2 * _DAY:
        return duration(seconds)
    return f"{seconds // _DAY:.0f} days"


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _sentence(text: str) -> str:
    """*text* with a capital letter, unless it begins with a name or a path, and a full stop."""
    text = _ended(text)
    first = text.split()[0].rstrip(":,.;")
    return text[0].upper() + text[1:] if first.replace("'", "").isalpha() else text


def _ended(text: str) -> str:
    text = text.strip() or "no reason is known"
    return text if text[-1] in ".!?" else f"{text}."


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
