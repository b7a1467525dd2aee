"""Several who work on one store, taking turns at each single operation in an order that is given.

What threads do by chance, and a bug needs once in a million runs, a test asks for by number.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from pipeline.command import Stop
from pipeline.store.base import Info, Progress, Store
from tests.fakes.faulty_store import Cut

_PATIENCE = 60.0  # seconds until a test that hangs is told to be wrong


class Turns:
    """Gives turns to actors, one operation at a time.

    Args:
        schedule: numbers that choose who is next among those who are ready (by modulo); when
            they are used up everybody has a turn in order.
        after_each: called after each operation, while nobody works.

    Attributes:
        failures: what ended an actor, by name.
        alive: the actors that have not ended.
    """

    def __init__(
        self, schedule: Sequence[int], after_each: Callable[[], None] = lambda: None
    ) -> None:
        self._schedule = list(schedule)
        self._after_each = after_each
        self._ready: set[str] = set()
        self._current: str | None = None
        self._abandoned = False
        self._changed = threading.Condition()
        self.failures: dict[str, BaseException] = {}
        self.alive: set[str] = set()

    @contextmanager
    def turn(self, name: str) -> Iterator[None]:
        """Wait for a turn of *name*, and hold it while the block runs."""
        with self._changed:
            self._ready.add(name)
            self._changed.notify_all()
            assert self._changed.wait_for(
                lambda: self._current == name or self._abandoned, _PATIENCE
            )
            self._ready.discard(name)
            if self._abandoned:
                raise Cut
        try:
            yield
        finally:
            with self._changed:
                self._current = None
                self._changed.notify_all()

    def run(self, actors: Mapping[str, Callable[[], object]]) -> None:
        """Let all *actors* work until they have ended."""

        def work(name: str, act: Callable[[], object]) -> None:
            try:
                act()
            except BaseException as error:
                self.failures[name] = error
            finally:
                with self._changed:
                    self.alive.discard(name)
                    self._changed.notify_all()

        self.alive = set(actors)
        threads = [
            threading.Thread(target=work, args=actor, daemon=True) for actor in actors.items()
        ]
        for thread in threads:
            thread.start()
        count = 0
        try:
            while self._give_turn(count):
                self._after_each()
                count += 1
        finally:
            with self._changed:
                self._abandoned = True
                self._changed.notify_all()
            for thread in threads:
                thread.join(_PATIENCE)

    def _give_turn(self, count: int) -> bool:
        with self._changed:
            assert self._changed.wait_for(lambda: self._ready >= self.alive, _PATIENCE)
            ready = sorted(self._ready)
            if not ready:
                return False
            chosen = self._schedule[count] if count < len(self._schedule) else count
            self._current = ready[chosen % len(ready)]
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: self._current is None, _PATIENCE)
            return True


class TurnsStore:
    """A store whose operations are turns of one actor.

    Args:
        inner: the store that does the work.
        turns: gives the turns.
        name: the actor.
        dies_at: the actor is killed instead of doing this operation, counted from 1.
    """

    def __init__(self, inner: Store, turns: Turns, name: str, dies_at: int | None = None) -> None:
        self.inner = inner
        self._turns = turns
        self._name = name
        self._dies_at = dies_at
        self._count = 0

    @property
    def url(self) -> str:
        return self.inner.url

    @property
    def exclusive(self) -> bool:
        return self.inner.exclusive

    def get(self, key: str, *, limit: int) -> bytes:
        with self._turn():
            return self.inner.get(key, limit=limit)

    def get_changed(self, key: str, etag: str, *, limit: int) -> tuple[bytes, str] | None:
        with self._turn():
            return self.inner.get_changed(key, etag, limit=limit)

    def stream(self, key: str, *, start: int = 0, size: int | None = None) -> Iterator[bytes]:
        with self._turn():
            return iter(list(self.inner.stream(key, start=start, size=size)))

    def find(self, key: str) -> Info | None:
        with self._turn():
            return self.inner.find(key)

    def put(
        self,
        key: str,
        source: bytes | Path,
        *,
        sha256: str,
        progress: Progress | None = None,
        stop: Stop | None = None,
    ) -> None:
        with self._turn():
            self.inner.put(key, source, sha256=sha256, progress=progress, stop=stop)

    def create(self, key: str, data: bytes) -> None:
        with self._turn():
            self.inner.create(key, data)

    def replace(self, key: str, data: bytes, *, etag: str) -> str:
        with self._turn():
            return self.inner.replace(key, data, etag=etag)

    def touch(self, key: str) -> None:
        with self._turn():
            self.inner.touch(key)

    def list(self, prefix: str = "") -> Iterator[Info]:
        with self._turn():
            return iter(list(self.inner.list(prefix)))

    def delete(self, key: str) -> None:
        with self._turn():
            self.inner.delete(key)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        self._count += 1
        if self._dies_at is not None and self._count >= self._dies_at:
            raise Cut
        with self._turns.turn(self._name):
            yield
