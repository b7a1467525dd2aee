"""What goes on on this machine, for its people and its programs: ``/run/recast/status.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import Field

from pipeline.agent.drift import Drift
from pipeline.models.device import Attempt, Pin, Running, State
from pipeline.models.fields import Moment, Record
from pipeline.models.site import Site
from pipeline.policy.installation import Wanted
from pipeline.policy.verdict import Gate

PATH = Path("/run/recast/status.json")

TroubleKind = Literal["network", "expired", "clock", "trust", "disk", "host", "other"]


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
        """As :attr:`pipeline.models.device.State.trouble` keeps it; :func:`parse_trouble` reads."""
        return "\n".join(filter(None, (f"{self.kind}: {self.message}", self.hint)))


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
    waiting: Sequence[Gate] = (),
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
        waiting: gates; those that passed are left out. With None of them and no *wanted* it is
            what *state* remembers (lines of :func:`remembered`).
        working: what is being done right now.
        problems: sentences: settings that are wrong, a data partition that cannot be used.
        drift: what differs from the image.
    """
    raise NotImplementedError


def trouble(error: BaseException) -> Trouble:
    """What a status says of an error; ``str()`` of it is what ``State.trouble`` keeps."""
    raise NotImplementedError


def parse_trouble(text: str) -> Trouble | None:
    """What ``str()`` of a :class:`Trouble` gave; None of an empty text."""
    raise NotImplementedError


def remembered(gates: Sequence[Gate]) -> tuple[str, ...]:
    """``State.waiting`` for the gates that did not pass: ``<gate>: <reason>``."""
    raise NotImplementedError


def render(status: Status, now: datetime, *, width: int = 80) -> str:
    """The status as an explanation to a person on site; lines of at most *width* columns.

    First what runs and whether all is well; then why it has or has not moved; then what to do, if
    there is anything.
    """
    raise NotImplementedError


def save(status: Status, path: Path = PATH) -> None:
    """Put the status where others find it.

    Raises:
        DiskFullError, OSError: the folder cannot be written.
    """
    raise NotImplementedError


def find(path: Path = PATH) -> Status | None:
    """The status that the agent wrote last in this boot; None if there is none to be read."""
    raise NotImplementedError
