"""Places for bytes in memory: what a slot is to whoever fills it. They count, and fail by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline import digest
from pipeline.agent.blocks import FileDisk
from pipeline.errors import HostError
from pipeline.models.pointer import Chunks, Delta, PublishedPart, PublishedRelease, StoredObject
from pipeline.store.base import object_key
from pipeline.transfer.chunking import make_chunks
from pipeline.transfer.diff import make_delta
from pipeline.transfer.segments import digest_of, write_table
from tests.fakes.published import published
from tests.fakes.store import MemoryStore


@dataclass(frozen=True)
class NamedDisk:
    """A part that lies on a disk, as a seed.

    Attributes:
        disk: has just that part.
        name: its identity; empty if nobody knows it.
    """

    disk: FileDisk
    name: str

    @property
    def size(self) -> int:
        return self.disk.size

    def read(self, offset: int, size: int) -> bytes:
        return self.disk.read(offset, size)

    def identity(self) -> str:
        return self.name


class Place:
    """A target, or a seed.

    Attributes:
        data: what it holds.
        durable: what it would hold after a power cut that drops all that was not synced.
        writes: (offset, size) of each write.
        read_bytes: how many were read.
        name: its identity.
        unreadable: offsets at which the medium is broken; a write there mends it.
    """

    def __init__(self, data: bytes, size: int | None = None) -> None:
        self.data = bytearray(data.ljust(size or 0, b"\0"))
        self.durable = bytes(self.data)
        self.writes: list[tuple[int, int]] = []
        self.read_bytes = 0
        self.syncs = 0
        self.name = ""
        self.unreadable: set[int] = set()

    @property
    def size(self) -> int:
        return len(self.data)

    @property
    def written(self) -> int:
        return sum(size for _, size in self.writes)

    def identity(self) -> str:
        return self.name

    def read(self, offset: int, size: int) -> bytes:
        if any(offset <= at < offset + size for at in self.unreadable):
            raise HostError("the medium cannot be read")
        self.read_bytes += size
        found = bytes(self.data[offset : offset + size])
        assert len(found) == size, "read beyond the end"
        return found

    def write(self, offset: int, data: bytes) -> None:
        assert isinstance(data, bytes)
        assert offset + len(data) <= len(self.data), "written beyond the end"
        self.unreadable -= set(range(offset, offset + len(data)))
        self.writes.append((offset, len(data)))
        self.data[offset : offset + len(data)] = data

    def sync(self) -> None:
        self.syncs += 1
        self.durable = bytes(self.data)


def framed(
    store: MemoryStore,
    data: bytes,
    frame: int,
    *,
    compressed: bool = True,
    indexed: bool = True,
    bases: Sequence[bytes] = (),
    chunked: Sequence[bytes] | None = None,
) -> PublishedRelease:
    """Publish a release whose root is *data*, in segments of any size.

    Args:
        store: where to.
        data: the root.
        frame: bytes of a segment; a multiple of the block if there are deltas or chunks.
        compressed: are the frames of the whole compressed?
        indexed: is there a table of the segments?
        bases: older roots, :func:`named` by their digests; there is a delta from each.
        chunked: the older roots whose chunks need not be in the pack; None: there are no chunks.
    """
    import zstandard

    entries: list[tuple[int, bytes]] = []
    body = b""
    for at in range(0, len(data), frame):
        block = data[at : at + frame]
        packed = zstandard.ZstdCompressor().compress(block) if compressed else block
        entries.append((len(packed), digest_of(block)))
        body += packed
    stored = _put(store, body, "zstd" if compressed else "plain")
    table = _put(store, write_table(len(data), entries, frame)) if indexed else None
    with TemporaryDirectory() as name:
        scratch = Path(name)
        deltas = [
            _delta(store, base, data, frame, number, scratch) for number, base in enumerate(bases)
        ]
        chunks = _chunks(store, chunked, data, scratch) if chunked is not None else None
    part = PublishedPart(
        file="root",
        digest=digest.of_bytes(data),
        size=len(data),
        stored=stored,
        segments=table,
        deltas=tuple(deltas),
        chunks=chunks,
    )
    return published(0).model_copy(update={"parts": {"root": part}})


def named(data: bytes, size: int | None = None) -> Place:
    """A seed that says which root it is, as :func:`framed` names it."""
    place = Place(data, size)
    place.name = digest.of_bytes(data)
    return place


def _delta(
    store: MemoryStore, base: bytes, data: bytes, frame: int, number: int, scratch: Path
) -> Delta:
    old, new = _files(scratch, base, data)
    made = make_delta(old, new, scratch / "made", segment=frame, level=3, jobs=2)
    return Delta(
        base=digest.of_bytes(base),
        version=published(number).version,
        index=_put(store, made.index, "zstd"),
        stored=_put(store, (scratch / "made").read_bytes()) if made.size else None,
    )


def _chunks(store: MemoryStore, bases: Sequence[bytes], data: bytes, scratch: Path) -> Chunks:
    paths = _files(scratch, data, *bases)
    made = make_chunks(paths[0], paths[1:], scratch / "made", level=3, jobs=2)
    return Chunks(
        index=_put(store, made.index, "zstd"),
        pack=_put(store, (scratch / "made").read_bytes()) if made.size else None,
    )


def _files(scratch: Path, *contents: bytes) -> list[Path]:
    paths = [scratch / str(number) for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    return paths


def _put(store: MemoryStore, data: bytes, encoding: str = "plain") -> StoredObject:
    stored = StoredObject.model_validate(
        {"digest": digest.of_bytes(data), "size": len(data), "encoding": encoding}
    )
    store.put(object_key(stored.digest), data, sha256=stored.digest)
    return stored
