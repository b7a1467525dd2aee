"""Objects on their way into a store: what it has is left alone, the rest goes in parallel."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from pipeline import digest
from pipeline.channels.lease import wait_for_collectors
from pipeline.channels.meter import Meter, Progress
from pipeline.channels.threads import LinkedStop, do_all
from pipeline.errors import BusyError
from pipeline.models.pointer import StoredObject
from pipeline.store.base import Info, MissingError, Store, object_key

_ROUNDS = 3  # of looking whether all is there: somebody may clear up meanwhile


@dataclass
class Uploads:
    """What one release needs in a store.

    Attributes:
        store: where to.
        jobs: uploads at once.
        grace: seconds that an object that nothing refers to is safe from being cleared up.
        progress: hears how far it is.
        stop: ends it when set.
        now: the present moment.
        uploaded: bytes that were sent.
        reused: bytes that the store had already.
    """

    store: Store
    jobs: int
    grace: float
    progress: Callable[[Progress], None] | None
    stop: LinkedStop
    now: Callable[[], datetime]
    uploaded: int = 0
    reused: int = 0
    _sizes: dict[str, int] = field(default_factory=dict)
    _sources: dict[str, Path | bytes] = field(default_factory=dict)

    def add(self, stored: StoredObject, source: Path | bytes | None) -> None:
        """Want *stored* in the store; without a *source* it is known to have been there."""
        self._sizes[stored.digest] = stored.size
        if source is not None:
            self._sources[stored.digest] = source

    def add_bytes(self, data: bytes) -> StoredObject:
        """Want *data* in the store, as they are."""
        stored = StoredObject(digest=digest.of_bytes(data), size=len(data))
        self.add(stored, data)
        return stored

    def has_all(self, wanted: Iterable[StoredObject]) -> bool:
        """Is all of it there, with its size?

        Raises:
            NetworkError, HostError: the store cannot be read.
        """

        def look(each: StoredObject) -> bool:
            return self._is_there(each.digest, each.size, touch=False)

        return all(do_all(look, list(wanted), self.jobs, self.stop))

    def run(self) -> None:
        """Upload what the store lacks, until it lacks nothing.

        Raises:
            BusyError: what was uploaded is gone again.
            DigestError, DiskFullError, NetworkError, HostError, Interrupted: as
                :meth:`pipeline.store.base.Store.put`.
        """
        missing = self._missing(touch=True)
        self.reused += sum(size for name, size in self._sizes.items() if name not in missing)
        for _ in range(_ROUNDS):
            if missing:
                self._put(missing)
            # Whoever clears up and had looked before we touched or wrote ends first.
            if not wait_for_collectors(self.store, self.stop) and not missing:
                return
            missing = self._missing(touch=False)
        if missing:
            raise BusyError(
                f"{object_key(missing[0])} is not in {self.store.url}, and was uploaded just now",
                hint="Somebody else removes objects meanwhile. Once that is over, publish again: "
                "what was uploaded is not uploaded again.",
            )

    def _put(self, missing: list[str]) -> None:
        meter = Meter("uploading", sum(self._sizes[name] for name in missing), self.progress)

        def put(name: str) -> int:
            source = self._sources.get(name)
            if source is None:
                raise BusyError(
                    f"{object_key(name)} was removed from {self.store.url} just now",
                    hint="Publish again: it is then uploaded.",
                )
            self.store.put(
                object_key(name), source, sha256=name, progress=meter.add, stop=self.stop
            )
            return self._sizes[name]

        self.uploaded += sum(do_all(put, missing, self.jobs, self.stop))

    def _missing(self, *, touch: bool) -> list[str]:
        """Digests of what the store lacks, the largest first."""

        def look(name: str) -> bool:
            return self._is_there(name, self._sizes[name], touch=touch)

        names = sorted(self._sizes, key=lambda name: (-self._sizes[name], name))
        there = do_all(look, names, self.jobs, self.stop)
        return [name for name, found in zip(names, there, strict=True) if not found]

    def _is_there(self, name: str, size: int, *, touch: bool) -> bool:
        """Is an object there? One that has not the size that it must have is not."""
        self.stop.check()
        info = self.store.find(object_key(name))
        if info is None or info.size != size:
            return False
        return not touch or self._keep(info)

    def keep(self, key: str) -> bool:
        """Keep an object from being cleared up for a while, if it is there; say whether it is."""
        info = self.store.find(key)
        return info is not None and self._keep(info)

    def _keep(self, info: Info) -> bool:
        """Make an old object young again: what refers to it is yet to be written."""
        if self.now() - info.modified > timedelta(seconds=self.grace / 2):
            try:
                self.store.touch(info.key)
            except MissingError:
                return False
        return True
