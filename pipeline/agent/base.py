"""What an update needs of the machine that it runs on, by capability.

The rules of an update (:mod:`pipeline.agent.update`) know a machine by these Protocols alone; two
hundred simulated machines, and one whose power fails at every write, stand behind them in tests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pipeline.command import Stop
    from pipeline.models.checkin import Checkin
    from pipeline.models.device import Attempt, Running, Step
    from pipeline.models.pointer import PublishedRelease
    from pipeline.policy.verdict import Gate
    from pipeline.transfer.base import Source

Note = Callable[["Attempt"], None]
"""Hears of each finished step; returns when that is on the medium."""

Progress = Callable[[str, int, int], None]
"""Hears how a step goes: its name, bytes done, bytes in all."""


@dataclass(frozen=True)
class Entry:
    """One way to boot, as the boot loader sees it.

    Attributes:
        id: its file name without counter: ``recast-7.conf``, or the factory's ``….efi``.
        release: name of the release that it boots; empty if it does not say.
        root_hash: of that release; empty if it does not say.
        tries_left, tries_done: None and 0 without a counter: it is blessed.
    """

    id: str
    release: str = ""
    root_hash: str = ""
    tries_left: int | None = None
    tries_done: int = 0


class Slots(Protocol):
    """The two places for a release on a machine's disk, and the boot loader's entries."""

    def check(self, release: PublishedRelease) -> Sequence[Gate]:
        """Can *release* be put on this machine at all? Writes nothing.

        Returns:
            The gates ``architecture``, ``slot size``, ``ESP space``, each with a reason in words.

        Raises:
            HostError: the disk or the ESP cannot be read.
        """

    def holds(self, release: PublishedRelease) -> bool:
        """Does the other slot hold *release*, by what its GPT names say? It is read before use."""

    def apply(
        self,
        attempt: Attempt,
        source: Source,
        note: Note,
        *,
        tries: int = 3,
        sequence: int,
        progress: Progress | None = None,
        stop: Stop | None = None,
        until: Step = "activated",
    ) -> Attempt:
        """Go on with *attempt* from the step where it stands until it is ``activated``.

        Whatever happens at whichever instant, the machine boots what it booted before, or the
        complete and verified new release. The running slot is never written.

        Args:
            attempt: where it stands; *note* has been given it.
            source: brings the bytes.
            note: hears of each step that is done.
            tries: how often the boot loader shall try it.
            sequence: number of its boot entry; larger than any before.
            progress: hears how it goes.
            stop: ends it when set; what was done stays done.
            until: the step after which to stop: ``staged`` leaves it to the boot loader to find
                nothing new. One that is past it already is returned as it is.

        Returns:
            The attempt, at *until*.

        Raises:
            DigestError: what was put together is not what was signed.
            DiskFullError: the ESP is full.
            NetworkError, MissingError: the store cannot be read; calling again goes on.
            HostError: the disk failed.
            Interrupted: *stop* was set.
        """

    def entries(self) -> tuple[Entry, ...]:
        """What the boot loader could boot, in its order of preference.

        Raises:
            HostError: the ESP cannot be read.
        """

    def give_up(self, entry: str) -> None:
        """Leave no tries to an entry: the next boot goes to another one.

        Raises:
            HostError: the ESP cannot be written.
        """

    def bless(self, entry: str) -> None:
        """Take the counter from an entry: it is good.

        Raises:
            HostError: the ESP cannot be written.
        """


class Machine(Protocol):
    """The rest of the machine."""

    def running(self) -> Running:
        """What runs now.

        Raises:
            HostError: this is no machine that Recast made.
        """

    def complaints(self) -> tuple[str, ...]:
        """Why this boot is not healthy, in words: failed units and health checks; none if it is."""

    def obstacles(self) -> tuple[str, ...]:
        """What asks for no reboot now: inhibitors, and hooks in ``pre-reboot.d`` that refuse."""

    def reboot(self) -> None:
        """Begin an orderly reboot; returns at once.

        Raises:
            HostError: it could not be begun.
        """

    def wake(self, seconds: float) -> None:
        """Have the agent run again after *seconds*; replaces an earlier call."""


class Reports(Protocol):
    """Where check-ins go."""

    def send(self, checkin: Checkin) -> None:
        """Queue a report, and try to send what is queued; a dead link is no error.

        Args:
            checkin: its number is set here.
        """
