"""What any provider can do: boot the disk image of a release, and give a way in.

Small Protocols by capability. A provider knows no store, no channel and no other provider. Its
contract is a suite (``tests/contract/test_provider.py``) that every implementation passes, the
fake included.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol

from pipeline.command import Stop
from pipeline.ssh import SshTarget

__all__ = ["BootRequest", "Booter", "Machine", "SshTarget"]


@dataclass(frozen=True)
class BootRequest:
    """A machine that is wanted.

    Attributes:
        disk: the raw disk image. It is read, never written.
        name: what the machine is called in process lists and consoles: letters, digits, ``_.-``.
        workdir: a folder for this machine alone; the machine makes it, and removes it on close.
        console: the file that receives the console; it stays after close.
        log: where the provider tells what it does.
        stop: ends a wait when set.
        memory: MiB.
        disk_size: bytes of the machine's disk; never less than the image.
        credentials: systemd credentials by name: identity and keys, never baked into an image.
    """

    disk: Path
    name: str
    workdir: Path
    console: Path
    log: IO[str]
    stop: Stop
    memory: int = 1024
    disk_size: int = 8 << 30
    credentials: Mapping[str, str] = field(default_factory=dict)


class Machine(Protocol):
    """A running machine. Close it in a ``finally``; it also ends when this process ends.

    Made for one thread; :meth:`fault` and :meth:`console` may be asked from another.
    """

    def wait_ready(self, deadline: float) -> float:
        """Wait until a command can be run over ssh.

        Args:
            deadline: seconds from power-on.

        Returns:
            Seconds from power-on to that moment.

        Raises:
            BootError: it was not in time, stopped, or said on its console that it gave up; the
                message has the console's last lines, the hint names the whole console.
            Interrupted: the request's stop was set.
        """

    def ssh_config(self) -> SshTarget:
        """The way in, as root; it may change when the machine's power was cut."""

    def console(self) -> str:
        """All that it has printed since it was first switched on, terminal codes included."""

    def fault(self) -> str | None:
        """Why nothing more can be expected of it: off, stuck, panicked; None while it runs."""

    def reboot_hard(self) -> None:
        """Cut the power and switch on again, at once, with the same disk.

        Raises:
            BootError: it could not be switched on again.
        """

    def close(self) -> None:
        """Switch off and leave nothing behind but the console. May be called again."""


class Booter(Protocol):
    """A provider that can boot a disk image."""

    @property
    def name(self) -> str:
        """One lower-case word, as in ``tests.providers`` of an image definition."""

    def boot(self, request: BootRequest) -> Machine:
        """Switch on a new machine; it is not ready yet.

        Raises:
            HostError: this host, or the account, cannot run it; the hint says what is missing.
            BootError: the machine could not be switched on.
            Interrupted: the request's stop was set.
        """
