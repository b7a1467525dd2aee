"""What a machine remembers of a store: metadata that it has trusted, and pointers.

::

    metadata/            TUF's client keeps its files here: root_history/<N>.root.json,
                         timestamp.json, snapshot.json, targets.json, <channel>.json
    pointers/            <channel>.<image>.json
    seen.json            the etag of the timestamp, and the newest versions that were seen
    lock                 held while the folder is in use
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import Field, ValidationError
from tuf.api.metadata import Root

from pipeline import digest
from pipeline.errors import DiskFullError, HostError
from pipeline.files import explained, locked, write_atomically
from pipeline.models.fields import Record
from pipeline.trust import layout

_MAX_FILE = 4 << 20  # bytes; more than any file here can honestly have


class Seen(Record):
    """What is remembered beside the metadata itself.

    Attributes:
        etag: of the timestamp, as the store gave it.
        timestamp: SHA-256 of the timestamp's file that *etag* is of.
        root: newest version of the root.
        keys: digest over the ids of the keys that sign timestamp and snapshot.
        versions: newest versions by role, as long as *keys* sign.
    """

    etag: str = ""
    timestamp: str = ""
    root: int = 0
    keys: str = ""
    versions: Mapping[str, int] = Field(default_factory=dict)


@dataclass(frozen=True)
class Cache:
    """One folder, used by one process at a time.

    Args:
        folder: where; made when first used.
    """

    folder: Path
    metadata: Path = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "metadata", self.folder / "metadata")

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Hold the folder; make it if it is not there.

        Raises:
            HostError: it cannot be used.
            DiskFullError: no space is left.
        """
        try:
            with explained(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
                with locked(self.folder / "lock", what="the memory of signed metadata"):
                    yield
        except OSError as error:
            raise HostError(
                f"signed metadata cannot be kept in {self.folder}: {error}",
                hint="Let this user write there, or remove the folder: it is made anew from the "
                "root of trust.",
            ) from error

    def read(self, role: str) -> bytes | None:
        """What is remembered of a role, not verified; None if nothing can be read."""
        return _read(self.metadata / f"{role}.json")

    def known(self) -> dict[str, bytes]:
        """All that is remembered, by role, not verified."""
        files = sorted(self.metadata.glob("*.json"))
        found = {path.stem: _read(path) for path in files}
        return {role: data for role, data in found.items() if data is not None}

    def seen(self) -> Seen:
        """What was seen; nothing if that is lost."""
        try:
            return Seen.model_validate_json(_read(self.folder / "seen.json") or b"{}")
        except ValidationError:
            return Seen()

    def remember(self, seen: Seen) -> None:
        """Keep what was seen, after everything that it tells of is safely on the disk."""
        if seen != self.seen():
            self._sync()
            write_atomically(self.folder / "seen.json", seen.model_dump_json())

    def pointer(self, channel: str, image: str) -> bytes | None:
        """The bytes of a pointer, not verified; None if there are none."""
        return _read(self._pointer(channel, image))

    def keep_pointer(self, channel: str, image: str, data: bytes) -> None:
        """Keep a pointer in place of an older one. That it cannot be kept is no failure."""
        path = self._pointer(channel, image)
        with contextlib.suppress(OSError, DiskFullError):
            _drop(path.parent, unless=path.parent.is_dir())
            _drop(path, unless=path.is_file())
            write_atomically(path, data)

    def repair(self) -> None:
        """Drop what no file of this folder can be; what is left keeps us from being rolled back.

        TUF's client passes over a file that makes no sense, and takes no other damage: it reads
        each whole, and stops at a folder in place of one.
        """
        history = self.metadata / "root_history"
        for folder in (self.metadata, history):
            _drop(folder, unless=folder.is_dir())
            folder.mkdir(exist_ok=True)
        for path in (*self.metadata.iterdir(), *history.iterdir(), self.folder / "seen.json"):
            _drop(path, unless=path == history or _read(path) is not None)

    def _pointer(self, channel: str, image: str) -> Path:
        # Neither name can hold a dot.
        return self.folder / "pointers" / f"{channel}.{image}.json"

    def _sync(self) -> None:
        """Have the disk hold what TUF's client wrote: it renames without it."""
        history = self.metadata / "root_history"
        for path in (*self.metadata.glob("*"), *history.glob("*"), history, self.metadata):
            with contextlib.suppress(FileNotFoundError):
                handle = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(handle)
                finally:
                    os.close(handle)


def signing_keys(root: Root) -> str:
    """What :attr:`Seen.keys` is under this root."""
    roles = (layout.TIMESTAMP, layout.SNAPSHOT)
    return digest.of_data([sorted(root.roles[role].keyids) for role in roles])


def _drop(path: Path, *, unless: bool) -> None:
    if unless:
        return
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _read(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE + 1)
    except OSError:
        return None
    return data if len(data) <= _MAX_FILE else None
