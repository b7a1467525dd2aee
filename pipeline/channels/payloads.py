"""What makes a release cheap for machines that have an earlier one: its deltas, and its chunks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import digest
from pipeline.channels.meter import Meter, Progress
from pipeline.files import explained
from pipeline.models.pointer import Chunks, Delta, PublishedPart, PublishedRelease, StoredObject

if TYPE_CHECKING:
    from pipeline.channels.bases import BaseFiles
    from pipeline.channels.uploads import Uploads
    from pipeline.command import Stop

FETCHED = ("root", "uki")
"""Parts that machines fetch: segment by segment, each of which a table names."""

_PAYS = 0.8  # of the whole: what a delta may have, index included; more, and it only takes room
_LEAST = 1 << 20  # bytes of a part that is worth it


@dataclass(frozen=True)
class Payloads:
    """Makes them.

    Args:
        bases: earlier releases that machines come from, the newest first.
        files: has their parts.
        scratch: a folder that exists.
        uploads: gets what is made.
        progress: hears how far it is.
        stop: ends it when set.
    """

    bases: Sequence[PublishedRelease]
    files: BaseFiles
    scratch: Path
    uploads: Uploads
    progress: Callable[[Progress], None] | None
    stop: Stop

    def add(self, release: PublishedRelease, paths: Mapping[str, Path]) -> PublishedRelease:
        """*release* with the deltas that it lacks, and with its chunks.

        Args:
            release: its description.
            paths: its parts as files, by role.

        Raises:
            BuildError, DiskFullError, HostError: a file cannot be read or written.
            NetworkError: the store cannot be reached.
            Interrupted: it was stopped.
        """
        parts = dict(release.parts)
        for role in FETCHED:
            part = parts.get(role)
            if part is not None and part.size > _LEAST and role in paths:
                parts[role] = self._part(release, role, part, paths[role])
        return release.model_copy(update={"parts": parts})

    def _part(
        self, release: PublishedRelease, role: str, part: PublishedPart, path: Path
    ) -> PublishedPart:
        known = {delta.base for delta in part.deltas} | {release.identity(role)}
        lacking: dict[str, PublishedRelease] = {}
        for each in self.bases:
            if role in each.parts and each.identity(role) not in known:
                lacking.setdefault(each.identity(role), each)
        if not lacking and part.chunks is not None:
            return part
        found = {base: self.files.find(each, role) for base, each in lacking.items()}
        files = {base: file for base, file in found.items() if file is not None}
        steps = len(files) + (part.chunks is None)
        meter = Meter(f"comparing {role}s", steps * part.size, self.progress)
        try:
            deltas = [*part.deltas]
            for base, file in files.items():
                made = self._delta(part, lacking[base], role, file, path, meter)
                deltas += [made] if made is not None else []
            chunks = part.chunks
            if chunks is None:
                chunks = self._chunks(role, list(files.values()), path)
                meter.add(part.size)
        finally:
            self.files.forget(list(lacking.values()), role)
        return part.model_copy(update={"deltas": tuple(deltas), "chunks": chunks})

    def _delta(
        self,
        part: PublishedPart,
        base: PublishedRelease,
        role: str,
        old: Path,
        new: Path,
        meter: Meter,
    ) -> Delta | None:
        """The delta from *base*; None if it does not pay."""
        from pipeline.transfer.diff import make_delta

        target = self.scratch / f"{role}.from.{base.version}"
        with explained(target):
            made = make_delta(old, new, target, heard=meter.add, stop=self.stop)
        whole = sum(each.size for each in part.whole)
        if made.size + len(made.index) > _PAYS * whole:
            target.unlink()
            return None
        return Delta(
            base=base.identity(role),
            version=base.version,
            index=self._add(made.index, "zstd"),
            stored=self._add_file(target, made.size),
        )

    def _chunks(self, role: str, bases: Sequence[Path], new: Path) -> Chunks:
        from pipeline.transfer.chunking import make_chunks

        target = self.scratch / f"{role}.pack"
        with explained(target):
            made = make_chunks(new, bases, target, stop=self.stop)
        return Chunks(index=self._add(made.index, "zstd"), pack=self._add_file(target, made.size))

    def _add(self, data: bytes, encoding: str) -> StoredObject:
        stored = self.uploads.add_bytes(data)
        return StoredObject.model_validate({**stored.model_dump(), "encoding": encoding})

    def _add_file(self, path: Path, size: int) -> StoredObject | None:
        if not size:
            path.unlink(missing_ok=True)
            return None
        stored = StoredObject(digest=digest.of_file(path), size=size)
        self.uploads.add(stored, path)
        return stored
