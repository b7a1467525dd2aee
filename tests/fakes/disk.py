"""A disk and an ESP in memory whose power can fail: what was not synced may be lost, bit by bit.

Everything that a medium holds is a map: the sectors of the disk; of the ESP, the clusters, which
clusters a file has, and what each name stands for. A write is one assignment. Until it is synced
it may be kept or lost, whatever becomes of those before and after it: that covers loss, reordering
and tearing (the sectors of one write are assignments of their own). FAT gives no more than that:
the halves of a rename, a file's length, its clusters and their content each go their own way, and
the clusters of a removed file are used again at once.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.agent.esp import full
from pipeline.errors import HostError

SECTOR = 512
CLUSTER = 1024

Key = tuple[str, int | str]
Value = bytes | tuple[int, ...] | tuple[int, int] | None
Op = tuple[Key, Value]


@dataclass
class Medium:
    """What is on the medium for good, and what is on its way to it."""

    durable: dict[Key, Value] = field(default_factory=dict)
    pending: list[Op] = field(default_factory=list)
    before_sync: Callable[[], None] | None = None
    _view: dict[Key, Value] = field(default_factory=dict)

    _lock: Any = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        self._view = {**self.durable, **dict(self.pending)}

    def get(self, kind: str, at: int | str) -> Value:
        """What a running system sees."""
        return self._view.get((kind, at))

    def all(self, kind: str) -> Iterator[tuple[int | str, Value]]:
        """All of one kind that is there."""
        return ((k[1], v) for k, v in self._view.items() if k[0] == kind and v is not None)

    def put(self, kind: str, at: int | str, value: Value) -> None:
        """One write."""
        with self._lock:
            self.pending.append(((kind, at), value))
            self._view[(kind, at)] = value

    def sync(self, kinds: tuple[str, ...]) -> None:
        """Bring what is pending of these kinds to the medium."""
        with self._lock:
            if self.before_sync is not None:
                self.before_sync()
            self.durable.update((key, value) for key, value in self.pending if key[0] in kinds)
            self.pending = [op for op in self.pending if op[0][0] not in kinds]


class FakeDisk:
    """The disk; satisfies :class:`pipeline.agent.blocks.Disk`."""

    name = "/dev/fake"

    def __init__(self, medium: Medium, size: int) -> None:
        self.medium = medium
        self.size = size

    def read(self, offset: int, size: int) -> bytes:
        if offset + size > self.size:
            raise HostError("read past the end")
        first, last = offset // SECTOR, -(-(offset + size) // SECTOR)
        found = b"".join(self._sector(n) for n in range(first, last))
        return found[offset - first * SECTOR :][:size]

    def write(self, offset: int, data: bytes) -> None:
        assert offset % SECTOR == 0, "not a whole sector"
        assert len(data) % SECTOR == 0, "not a whole sector"
        assert offset + len(data) <= self.size
        for at in range(0, len(data), SECTOR):
            new = bytes(data[at : at + SECTOR])
            self.medium.put("sector", (offset + at) // SECTOR, new)

    def sync(self) -> None:
        self.medium.sync(("sector",))

    def forget(self, offset: int, size: int) -> None:
        """Nothing is kept."""

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        yield

    def _sector(self, number: int) -> bytes:
        found = self.medium.get("sector", number)
        return found if isinstance(found, bytes) else bytes(SECTOR)


class FakeEsp:
    """The ESP; satisfies :class:`pipeline.agent.esp.Esp`.

    Args:
        medium: what holds it.
        clusters: how many it has.
    """

    name = "/efi"
    _KINDS = ("name", "chain", "cluster")

    def __init__(self, medium: Medium, clusters: int) -> None:
        self.medium = medium
        self.clusters = clusters
        known = [int(number) for number, _ in medium.all("chain")]
        known += [pair[0] for _, pair in medium.all("name") if pair and isinstance(pair[0], int)]
        self._numbers = itertools.count(max(known, default=0) + 1)

    def files(self, folder: str) -> tuple[str, ...]:
        found = (str(path).rpartition("/") for path, _ in self.medium.all("name"))
        return tuple(sorted(name for parent, _, name in found if parent == folder))

    def size(self, path: str) -> int | None:
        found = self._named(path)
        return None if found is None else found[1]

    def read(self, path: str, offset: int = 0, size: int = 1 << 16) -> bytes:
        found = self._named(path)
        if found is None:
            raise HostError(f"there is no {path}")
        number, length = found
        chain = self._chain(number)
        if len(chain) * CLUSTER < length:
            raise HostError(f"{path} has lost its clusters")
        data = b"".join(self._cluster(each) for each in chain)
        return data[:length][offset : offset + size]

    def target(self, path: str, size: int) -> FakeFile:
        found = self._named(path)
        number = found[0] if found is not None else next(self._numbers)
        chain = self._chain(number)
        missing = -(-size // CLUSTER) - len(chain)
        if missing > 0:
            free = self._free()
            if len(free) < missing:
                raise full(self, path)
            chain = (*chain, *free[:missing])
        else:
            chain = chain[: -(-size // CLUSTER)]
        self.medium.put("chain", number, chain)
        self.medium.put("name", path, (number, size))
        return FakeFile(self, path, size)

    def remove(self, path: str) -> None:
        found = self._named(path)
        if found is not None:
            self.medium.put("name", path, None)
            self.medium.put("chain", found[0], None)

    def rename(self, old: str, new: str) -> None:
        found = self._named(old)
        assert found is not None
        self.medium.put("name", new, found)
        self.medium.put("name", old, None)

    def sync(self) -> None:
        self.medium.sync(self._KINDS)

    def free(self) -> int:
        return len(self._free()) * CLUSTER

    def room(self, size: int) -> int:
        return -(-size // CLUSTER) * CLUSTER

    def store(self, path: str, number: int, offset: int, data: bytes) -> None:
        """Write into a file."""
        chain = self._chain(number)
        while data:
            index, inside = divmod(offset, CLUSTER)
            part = data[: CLUSTER - inside]
            there = bytearray(self._cluster(chain[index]))
            there[inside : inside + len(part)] = part
            self.medium.put("cluster", chain[index], bytes(there))
            offset += len(part)
            data = data[len(part) :]

    def _named(self, path: str) -> tuple[int, int] | None:
        found = self.medium.get("name", path)
        if found is None:
            return None
        assert isinstance(found, tuple)
        return int(found[0]), int(found[1])

    def _chain(self, number: int) -> tuple[int, ...]:
        found = self.medium.get("chain", number)
        return found if isinstance(found, tuple) else ()

    def _cluster(self, number: int) -> bytes:
        found = self.medium.get("cluster", number)
        return found if isinstance(found, bytes) else bytes(CLUSTER)

    def _free(self) -> list[int]:
        chains = (chain for _, chain in self.medium.all("chain") if isinstance(chain, tuple))
        used = set(itertools.chain.from_iterable(chains))
        return [number for number in range(self.clusters) if number not in used]


class FakeFile:
    """A file of a :class:`FakeEsp` that is being filled."""

    def __init__(self, esp: FakeEsp, path: str, size: int) -> None:
        self._esp = esp
        self._path = path
        self.size = size
        found = esp._named(path)
        assert found is not None
        self._number = found[0]

    def read(self, offset: int, size: int) -> bytes:
        return self._esp.read(self._path, offset, size)

    def write(self, offset: int, data: bytes) -> None:
        assert offset + len(data) <= self.size
        self._esp.store(self._path, self._number, offset, bytes(data))

    def sync(self) -> None:
        """The content alone: where it lies and what it is called goes with the ESP's sync."""
        self._esp.medium.sync(("cluster",))

    def forget(self) -> None:
        """Nothing is kept."""

    def close(self) -> None:
        """Nothing is open."""


def cut(durable: Mapping[Key, Value], kept: list[Op]) -> Medium:
    """The medium after a power cut at which these of the pending writes had reached it."""
    return Medium({**durable, **dict(kept)})
