"""A store at which machines look after every write, and threads that work on it at once."""

from __future__ import annotations

import threading
from collections.abc import Callable

from pipeline.store.base import Progress, Store
from pipeline.trust.client import TrustClient
from tests.fakes.team import Team, look


class Watched:
    """A store at which machines look after each write.

    Args:
        inner: the store.
    """

    def __init__(self, inner: Store) -> None:
        self.inner = inner
        self.machines: list[Callable[[], None]] = []
        self.looks = 0
        self.problems: list[Exception] = []
        self._lock = threading.RLock()

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    def create(self, key: str, data: bytes) -> None:
        with self._lock:
            self.inner.create(key, data)
            self._look()

    def replace(self, key: str, data: bytes, *, etag: str) -> str:
        with self._lock:
            new = self.inner.replace(key, data, etag=etag)
            self._look()
            return new

    def put(
        self, key: str, source: bytes, *, sha256: str, progress: Progress | None = None
    ) -> None:
        with self._lock:
            self.inner.put(key, source, sha256=sha256, progress=progress)
            self._look()

    def delete(self, key: str) -> None:
        with self._lock:
            self.inner.delete(key)
            self._look()

    def _look(self) -> None:
        self.looks += 1
        for machine in self.machines:
            try:
                machine()
            except Exception as error:  # for the test to raise where it stands
                self.problems.append(error)


def watch(team: Team, watched: Watched) -> TrustClient:
    """Have a new machine and an old one look after every write from now on."""
    old = team.client(watched.inner)
    look(old)
    watched.machines = [lambda: look(old), lambda: look(team.client(watched.inner))]
    return old


def run_all(
    jobs: list[Callable[[], object]], allowed: tuple[type[BaseException], ...] = ()
) -> None:
    """Run all at once, and raise what goes wrong in any."""
    wrong: list[BaseException] = []

    def run(job: Callable[[], object]) -> None:
        try:
            job()
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads)
    for error in wrong:
        if not isinstance(error, allowed):
            raise error
