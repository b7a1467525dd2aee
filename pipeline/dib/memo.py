"""Digests of folders, remembered between runs: a plan of a hundred elements reads none of them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline import digest
from pipeline.files import write_atomically

_SETTLED = 2.0  # seconds; a file younger than this may change again without its stamp changing


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True)

    stamp: str
    digest: str


class Memo(BaseModel):
    """Digests by folder, each valid while the folder's stamp is the same.

    Files count as unchanged while size, mode, inode and times are. The file may vanish, and a
    damaged one is made anew.
    """

    entries: dict[str, _Entry] = {}
    _changed: bool = False

    @classmethod
    def load(cls, file: Path | None) -> Memo:
        """What *file* remembers; nothing if there is none."""
        if file is None:
            return cls()
        try:
            return cls.model_validate_json(file.read_bytes())
        except (OSError, ValidationError):
            return cls()

    def digest(self, folder: Path, how: Callable[[Path], str] | None = None) -> str:
        """The digest of *folder*.

        Args:
            folder: always taken with the same *how*.
            how: works it out from the files below *folder*; all of them count if not given.

        Raises:
            OSError: the folder cannot be read.
        """
        stamp, newest = _stamp(folder)
        entry = self.entries.get(str(folder))
        if entry is not None and entry.stamp == stamp:
            return entry.digest
        settled = newest < time.time() - _SETTLED
        found = (how or digest.of_folder)(folder)
        if settled:
            self.entries[str(folder)] = _Entry(stamp=stamp, digest=found)
            self._changed = True
        return found

    def save(self, file: Path | None) -> None:
        """Remember in *file*, if it can be written."""
        if file is None or not self._changed:
            return
        self.entries = {name: kept for name, kept in self.entries.items() if os.path.isdir(name)}
        try:
            write_atomically(file, self.model_dump_json())
        except OSError:
            return  # it only saves time: a project that cannot be written can be planned


def _stamp(folder: Path) -> tuple[str, float]:
    """What changes when a file below *folder* does, and the time of the latest change."""
    facts: list[tuple[str, int, int, int, int, int]] = []
    newest = 0.0
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        for name in sorted([*folders, *files]):
            path = f"{parent}/{name}"
            info = os.lstat(path)
            newest = max(newest, info.st_mtime, info.st_ctime)
            size = 0 if name in folders else info.st_size
            times = (info.st_mtime_ns, info.st_ctime_ns)
            facts.append((path, info.st_mode, info.st_ino, size, *times))
    return digest.of_data(facts), newest
