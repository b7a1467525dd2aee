"""Places for bytes in memory: what a slot is to whoever fills it. They count, and fail by name."""

from __future__ import annotations

from pipeline import digest
from pipeline.errors import HostError
from pipeline.models.pointer import PublishedPart, PublishedRelease, StoredObject
from pipeline.store.base import object_key
from pipeline.transfer.segments import digest_of, write_table
from tests.fakes.published import published
from tests.fakes.store import MemoryStore


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
    store: MemoryStore, data: bytes, frame: int, *, compressed: bool = True, indexed: bool = True
) -> PublishedRelease:
    """Publish a release whose root is *data*, in frames of any size."""
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
    part = PublishedPart(
        file="root", digest=digest.of_bytes(data), size=len(data), stored=stored, segments=table
    )
    return published(0).model_copy(update={"parts": {"root": part}})


def _put(store: MemoryStore, data: bytes, encoding: str = "plain") -> StoredObject:
    stored = StoredObject.model_validate(
        {"digest": digest.of_bytes(data), "size": len(data), "encoding": encoding}
    )
    store.put(object_key(stored.digest), data, sha256=stored.digest)
    return stored
