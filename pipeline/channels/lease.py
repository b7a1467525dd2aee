"""Clearing up beside those who write: how a collector and a writer keep out of each other's way.

A store cannot remove an object on the condition that nobody has touched it meanwhile. So between
the collector's look at an object (old, not referred to) and its removal a writer may come to rely
on it. This closes the gap, however long it is:

- A collector holds a lease while it removes things, and removes nothing when it could not renew
  it in time.
- A writer first touches what it is going to refer to, and then calls
  :func:`wait_for_collectors`. If there is none, each one that starts later finds the objects
  young. If there is one, the writer waits until it has ended, and looks again whether all is
  there.

All times are the store's: its clock is asked for by touching an object.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from types import TracebackType

from pipeline.command import Stop
from pipeline.errors import BusyError, NetworkError
from pipeline.store.base import ExistsError, MissingError, Store

MARKER = "gc/last.json"
"""Touched to learn the time; says nothing else."""

LEASES = "gc/running/"

LIFE = 300.0
"""Seconds after which a lease that was not renewed counts no more: its collector was killed."""

_RENEW = 60.0  # seconds
_SAFE = 180.0  # seconds of a lease after which nothing is removed; the rest is for a slow answer
_LOOK = 2.0  # seconds between two looks of one who waits


def store_now(store: Store) -> datetime:
    """The present moment by the store's own clock, with which it dates its objects.

    Raises:
        NetworkError, HostError: the store cannot be written.
    """
    for _ in range(2):
        try:
            store.touch(MARKER)
        except MissingError:
            with contextlib.suppress(ExistsError):
                store.create(MARKER, b"{}\n")
        found = store.find(MARKER)
        if found is not None:
            return found.modified
    raise NetworkError(f"{MARKER} in {store.url} was written, and is not there")


class Lease:
    """The right to remove things, for as long as it is renewed.

    Args:
        store: the store.
        monotonic: seconds of a clock that never jumps.
    """

    def __init__(self, store: Store, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._monotonic = monotonic
        self._renewed = -LIFE
        self._lock = threading.Lock()
        self.key = f"{LEASES}{secrets.token_hex(8)}.json"

    def __enter__(self) -> Lease:
        self._renewed = self._monotonic()
        self._store.create(self.key, json.dumps({"life": LIFE}).encode() + b"\n")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Whose lease stays, for it was killed or the store is gone, ends after its life.
        with contextlib.suppress(Exception):
            self._store.delete(self.key)

    def check(self) -> None:
        """Renew the lease if it is time to, before each removal.

        Raises:
            BusyError: it ran out: this process, or the store, stood still for minutes.
            NetworkError, HostError: the store cannot be written.
        """
        with self._lock:
            now = self._monotonic()
            if now - self._renewed > _RENEW:
                self._renew(now)
            if self._monotonic() - self._renewed > _SAFE:
                raise self._lost()

    def _renew(self, now: float) -> None:
        if now - self._renewed > _SAFE:
            raise self._lost()
        try:
            self._store.touch(self.key)
        except MissingError:
            raise self._lost() from None
        self._renewed = now

    def _lost(self) -> BusyError:
        return BusyError(
            f"clearing up {self._store.url} was interrupted for too long",
            hint="Run `recast gc` again: it goes on with what is left.",
        )


def wait_for_collectors(
    store: Store,
    stop: Stop | None = None,
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Wait until nobody removes anything who may not have seen what was touched before this call.

    Args:
        store: the store.
        stop: ends the wait when set.
        sleep: waits for so many seconds.

    Returns:
        Whether there was anybody to wait for: then look again whether everything is there.

    Raises:
        Interrupted: *stop* was set.
        NetworkError, HostError: the store cannot be read or written.
    """
    waited = False
    begun: set[str] | None = None
    while True:
        running = {info.key: info.modified for info in store.list(LEASES)}
        if begun is not None:  # who came later has seen what was touched before
            running = {key: modified for key, modified in running.items() if key in begun}
        if not running:
            return waited
        now = store_now(store)
        begun = {
            key for key, modified in running.items() if now - modified < timedelta(seconds=LIFE)
        }
        if not begun:
            return waited
        waited = True
        if stop is not None:
            stop.check()
        sleep(_LOOK)
