"""What the engine tells about a run, as it happens, and to whom.

The engine is given a monitor and knows nothing of terminals. Events come from one thread, in
order; each has the moment it speaks of. Their names in :data:`NAMES` are stable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from pipeline.errors import HostError
from pipeline.models.run import RunRecord, StageStatus


@dataclass(frozen=True)
class RunStarted:
    """A run has begun; *record* has all that is going to be done, and what is done already."""

    when: datetime
    record: RunRecord
    stages: tuple[str, ...]


@dataclass(frozen=True)
class Notice:
    """Something worth knowing that belongs to no stage: a leftover removed, a stop asked for."""

    when: datetime
    text: str


@dataclass(frozen=True)
class StageStarted:
    """A stage of an image is being done."""

    when: datetime
    image: str
    stage: str


@dataclass(frozen=True)
class StageProgress:
    """What it is doing just now, in a few words."""

    when: datetime
    image: str
    stage: str
    text: str


@dataclass(frozen=True)
class StageWaiting:
    """It could start, but for somebody else; *why* says for whom."""

    when: datetime
    image: str
    stage: str
    why: str


@dataclass(frozen=True)
class StageFinished:
    """A stage has ended, or will never start (``skipped``).

    Attributes:
        seconds: how long it took; 0 if it never started.
        error: why it failed or was skipped.
        hint: what to do next.
        tail: the last lines of its log, when it failed.
        version: of the image's release, as soon as there is one.
        root_hash: likewise.
        note: what it came to, in a few words; empty if there is nothing to say.
    """

    when: datetime
    image: str
    stage: str
    status: StageStatus
    seconds: float
    error: str = ""
    hint: str = ""
    tail: tuple[str, ...] = ()
    version: str = ""
    root_hash: str = ""
    note: str = ""


@dataclass(frozen=True)
class RunFinished:
    """The run has ended; *record* is what remains of it."""

    when: datetime
    record: RunRecord


Event = (
    RunStarted | Notice | StageStarted | StageProgress | StageWaiting | StageFinished | RunFinished
)

NAMES: dict[type, str] = {
    RunStarted: "run.started",
    Notice: "run.notice",
    StageStarted: "stage.started",
    StageProgress: "stage.progress",
    StageWaiting: "stage.waiting",
    StageFinished: "stage.finished",
    RunFinished: "run.finished",
}
"""The stable name of each kind of event."""

# What a terminal, a pipe or a file that has gone away raises; ValueError: it was closed.
_LOST = (OSError, ValueError, HostError)


class Monitor(Protocol):
    """Somebody who follows a run."""

    def event(self, event: Event) -> None:
        """Something has happened. Must be quick: the engine waits."""

    def tick(self) -> None:
        """Half a second has gone by, or less."""


class FanOut:
    """Passes everything on to several monitors, and lets go of one that fails.

    A terminal that was closed or a pipe that broke is no reason to lose a build.
    """

    def __init__(self, monitors: Sequence[Monitor]) -> None:
        self._monitors = list(monitors)

    def event(self, event: Event) -> None:
        """Pass *event* on."""
        for monitor in list(self._monitors):
            try:
                monitor.event(event)
            except _LOST:
                self._monitors.remove(monitor)

    def tick(self) -> None:
        """Pass the tick on."""
        for monitor in list(self._monitors):
            try:
                monitor.tick()
            except _LOST:
                self._monitors.remove(monitor)
