"""The slots of the machine that this runs on."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.agent.blocks import FileDisk
from pipeline.agent.esp import MountedEsp
from pipeline.agent.slots import DiskSlots, find_disk

if TYPE_CHECKING:
    from pipeline.models.device import Running

ESP = Path("/efi")


def open_slots(running: Running, esp: Path = ESP) -> DiskSlots:
    """The slots of this machine. Its disk is opened when it is used.

    Whoever only looks at boot entries, or gives one up, needs no right to the disk: a release
    that is judged while its disk fails is given up all the same.

    Args:
        running: what runs.
        esp: where the ESP is mounted.
    """
    return DiskSlots(_OwnDisk(running.root_hash), MountedEsp(esp), running)


class _OwnDisk:
    """The disk that the running release is on, opened at its first use."""

    def __init__(self, root_hash: str) -> None:
        self._root_hash = root_hash
        self._opened: FileDisk | None = None

    @property
    def _disk(self) -> FileDisk:
        if self._opened is None:
            self._opened = FileDisk(find_disk(self._root_hash))
        return self._opened

    @property
    def name(self) -> str:
        return self._disk.name

    @property
    def size(self) -> int:
        return self._disk.size

    def read(self, offset: int, size: int) -> bytes:
        return self._disk.read(offset, size)

    def write(self, offset: int, data: bytes) -> None:
        self._disk.write(offset, data)

    def sync(self) -> None:
        self._disk.sync()

    def forget(self, offset: int, size: int) -> None:
        self._disk.forget(offset, size)

    def locked(self) -> AbstractContextManager[None]:
        return self._disk.locked()
