"""What goes on on this machine, for its people and its programs: ``/run/recast/status.json``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal, get_args

from pydantic import Field, ValidationError

from pipeline import __version__
from pipeline.agent import words
from pipeline.agent.drift import Drift
from pipeline.errors import DiskFullError, HostError, NetworkError, RecastError, TrustError
from pipeline.files import write_atomically
from pipeline.models.device import Attempt, Pin, Running, State
from pipeline.models.fields import Moment, Record
from pipeline.models.site import Site
from pipeline.policy.backoff import clock_problem
from pipeline.policy.bandwidth import Limit, limit_at
from pipeline.policy.installation import Wanted
from pipeline.policy.verdict import Gate
from pipeline.policy.window import unknown_zones

PATH = Path("/run/recast/status.json")

_MAX_STATUS = 1 << 20  # bytes

TroubleKind = Literal["network", "store", "expired", "trust", "disk", "host", "other"]


class Trouble(Record):
    """Why the last look at the store, or the last step, failed.

    Attributes:
        kind: what class of thing it is: decides what a person is told to do.
        message, hint: as the error said them.
    """

    kind: TroubleKind = "other"
    message: str
    hint: str = ""

    def __str__(self) -> str:
        """One or two lines, as ``State.trouble`` keeps them; :func:`parse_trouble` reads them."""
        message = " ".join(self.message.splitlines())
        return "\n".join(filter(None, (f"{self.kind}: {message}", self.hint)))


class Waiting(Record):
    """One thing that keeps the machine from what is wanted.

    Attributes:
        gate: its name: ``wave``, ``window``, ``not frozen``.
        reason: in words.
        opens: when time alone will have passed it.
    """

    gate: str
    reason: str
    opens: Moment | None = None


class Working(Record):
    """What is being done right now.

    Attributes:
        step: the step that it leads to, as :data:`pipeline.models.device.Step`, or ``check``.
        done, total: bytes; *total* is 0 where nobody knows.
    """

    step: str
    done: int = 0
    total: int = 0


class Status(Record):
    """What is going on on one machine.

    Attributes:
        made: when this was written down.
        agent: version of Recast.
        device, site, labels, channel, image, store: who it is and what it follows.
        bandwidth: how fast it may fetch at the moment; None: its site sets no limit at any time.
        running: what runs; None if it cannot be told.
        confirmed: is what runs blessed?
        wanted, why, settled: the version that it should run, why that one, and whether it does.
        leaving: what runs is revoked, for this reason.
        notes: what else the channel's say comes to here.
        waiting: why it has not moved.
        working: what is being done right now.
        attempt: the update in progress, or the last one.
        pin: a version that it is held at.
        checked, next: when the store was last heard, and when it is asked again.
        trouble: why the last look or step failed.
        problems: what else is wrong: with its settings, its data partition.
        drift: what differs from the image, where that was asked for.
    """

    made: Moment
    agent: str = ""
    device: str = ""
    site: str = ""
    labels: Mapping[str, str] = {}
    channel: str = ""
    image: str = ""
    store: tuple[str, ...] = ()
    bandwidth: Limit | None = None
    running: Running | None = None
    confirmed: bool = False
    wanted: str = ""
    why: str = ""
    settled: bool = False
    leaving: str = ""
    notes: tuple[str, ...] = ()
    waiting: tuple[Waiting, ...] = ()
    working: Working | None = None
    attempt: Attempt | None = None
    pin: Pin | None = None
    checked: Moment | None = None
    next: Moment | None = None
    trouble: Trouble | None = None
    problems: tuple[str, ...] = ()
    drift: Drift | None = None
    format: int = Field(default=1)


def make_status(
    now: datetime,
    site: Site,
    running: Running | None,
    state: State,
    *,
    wanted: Wanted | None = None,
    waiting: Sequence[Gate] | None = None,
    working: Working | None = None,
    problems: Sequence[str] = (),
    drift: Drift | None = None,
) -> Status:
    """The status of this machine, from what its agent knows.

    Args:
        now: the present moment.
        site: its settings.
        running: what runs; None if it cannot be told: *problems* says why.
        state: what it remembers.
        wanted: what it should run; None: what *state* remembers of that.
        waiting: gates, of which those that passed are left out; None: what *state* remembers
            (lines of :func:`remembered`).
        working: what is being done right now.
        problems: sentences: settings that are wrong, a data partition that cannot be used. Zones
            that are not known here, and a clock that cannot be right, are added.
        drift: what differs from the image.
    """
    gates = [
        Waiting(gate=g.name, reason=g.reason, opens=g.opens) for g in waiting or () if not g.passed
    ]
    version = running.version if running is not None else ""
    return Status(
        made=now,
        agent=__version__,
        device=site.device,
        site=site.site or "",
        labels=site.labels,
        channel=site.channel or "",
        image=site.image or (running.image if running is not None else ""),
        store=site.store,
        bandwidth=find_limit(site, now),
        running=running,
        confirmed=running is not None and not running.trial,
        wanted=wanted.version if wanted is not None else state.wanted,
        why=wanted.why if wanted is not None else "",
        settled=wanted.settled if wanted is not None else state.wanted in ("", version),
        leaving=wanted.leaving if wanted is not None else "",
        notes=wanted.notes if wanted is not None else (),
        waiting=tuple(gates) if waiting is not None else _recalled(state.waiting),
        working=working,
        attempt=state.attempt,
        pin=state.pin,
        checked=state.checked,
        next=state.next,
        trouble=parse_trouble(state.trouble),
        problems=tuple(dict.fromkeys((*problems, *_seen(now, site, state, wanted)))),
        drift=drift,
    )


def find_limit(site: Site, now: datetime) -> Limit | None:
    """How fast a machine may fetch at *now*; None if its site sets no limit at any time."""
    return limit_at(site.bandwidth, now) if site.bandwidth else None


def trouble(error: BaseException) -> Trouble:
    """What a status says of an error; ``str()`` of it is what ``State.trouble`` keeps."""
    message = str(error) or type(error).__name__
    hint = error.hint if isinstance(error, RecastError) else ""
    return Trouble(kind=_kind(error), message=message, hint=hint)


def parse_trouble(text: str) -> Trouble | None:
    """What ``str()`` of a :class:`Trouble` gave; None of an empty text."""
    if not text:
        return None
    first, _, hint = text.partition("\n")
    word, separator, message = first.partition(": ")
    for kind in get_args(TroubleKind):
        if separator and kind == word:
            return Trouble(kind=kind, message=message, hint=hint)
    return Trouble(message=first, hint=hint)


def remembered(gates: Sequence[Gate]) -> tuple[str, ...]:
    """``State.waiting`` for the gates that did not pass: ``<gate>: <reason>``."""
    return tuple(f"{gate.name}: {gate.reason}" for gate in gates if not gate.passed)


def save(status: Status, path: Path = PATH) -> None:
    """Put the status where others find it.

    Raises:
        DiskFullError, OSError: the folder cannot be written.
    """
    write_atomically(path, status.model_dump_json(indent=2) + "\n")


def find(path: Path = PATH) -> Status | None:
    """The status that the agent wrote last in this boot; None if there is none to be read."""
    try:
        with path.open("rb") as file:
            return Status.model_validate_json(file.read(_MAX_STATUS))
    except (OSError, ValidationError):
        return None


def _seen(now: datetime, site: Site, state: State, wanted: Wanted | None) -> Iterator[str]:
    """What is wrong with this machine's settings and clock, as far as that shows here."""
    limited = [each.window for each in site.bandwidth if each.window is not None]
    for name, windows in (("window", site.window), ("bandwidth", limited)):
        for zone in unknown_zones(windows):
            yield f"recast.{name}: the time zone {zone} is not known here, and UTC is taken for it"
    known = [state.attempt.release] if state.attempt is not None else []
    if wanted is not None and wanted.release is not None:
        known.append(wanted.release)
    passed = [moment for each in known for moment in (each.created, each.built)]
    problem = clock_problem(now, passed)
    if problem:
        yield problem


def _recalled(lines: Sequence[str]) -> tuple[Waiting, ...]:
    parts = (line.partition(": ") for line in lines)
    return tuple(
        Waiting(gate=name if separator else "", reason=reason or name)
        for name, separator, reason in parts
    )


def _kind(error: BaseException) -> TroubleKind:
    from pipeline.store.base import MissingError

    if isinstance(error, MissingError):
        return "store"
    if isinstance(error, NetworkError):
        return "network"
    if isinstance(error, TrustError):
        # What has run out says when (pipeline.trust.refusals.ExpiredError), which is not imported
        # for this: it brings TUF's client along.
        return "expired" if isinstance(getattr(error, "expired", None), datetime) else "trust"
    if isinstance(error, DiskFullError):
        return "disk"
    return "host" if isinstance(error, HostError | OSError) else "other"


def render(status: Status, now: datetime, *, width: int = 80) -> str:
    """The status as an explanation to a person on site; see :func:`pipeline.agent.words.render`."""
    return words.render(status, now, width=width)
