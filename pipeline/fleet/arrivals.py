"""Where reports of machines come from.

:class:`CheckIns` is all that reading them needs; a service that collects them for many stores
would be another one of these.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from pipeline.errors import RecastError, TrustError
from pipeline.fleet.envelope import Place, Signed, opened, place_of
from pipeline.models.checkin import MAX_CHECKIN, checkin_key
from pipeline.store.base import Info, MissingError, Store

_PREFIX = "checkins/"
_HISTORY = f"{_PREFIX}history/"
_AT_ONCE = 16  # an answer of S3 takes tens of milliseconds


@dataclass(frozen=True)
class Arrival:
    """A report that came in, or what is in its place.

    Attributes:
        device: whose it is.
        heard: when it arrived, by the clock of whoever took it.
        signed: what it says; None if it cannot be believed.
        problem: why it cannot.
    """

    device: str
    heard: datetime
    signed: Signed | None
    problem: str = ""


class CheckIns(Protocol):
    """A place that collects reports."""

    def newest(self) -> list[Arrival]:
        """The newest report of every machine, by name.

        Raises:
            NetworkError, HostError: the place cannot be read.
        """

    def of(self, device: str) -> tuple[Arrival | None, list[Arrival]]:
        """The newest report of one machine, and those of how its updates ended, oldest first.

        Raises:
            NetworkError, HostError: the place cannot be read.
        """

    def forget(self, device: str) -> int:
        """Remove all reports of a machine, and with them its key; returns how many there were.

        Raises:
            NetworkError, HostError: the place cannot be written.
        """


class StoreCheckIns:
    """The reports below ``checkins/`` of a store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def newest(self) -> list[Arrival]:
        """See :meth:`CheckIns.newest`."""
        found = self._store.list(_PREFIX)
        return list(self._read(info for info in found if not info.key.startswith(_HISTORY)))

    def sample(self, most: int) -> tuple[list[Arrival], int]:
        """The newest reports of *most* machines at most, and how many machines there are.

        Of more they are taken at equal distances, by name: a site's machines have names alike.

        Raises:
            NetworkError, HostError: the store cannot be read.
        """
        found = [info for info in self._store.list(_PREFIX) if not info.key.startswith(_HISTORY)]
        count = min(most, len(found))
        chosen = [found[number * len(found) // count] for number in range(count)]
        return list(self._read(chosen)), len(found)

    def of(self, device: str) -> tuple[Arrival | None, list[Arrival]]:
        """See :meth:`CheckIns.of`."""
        info = self._store.find(checkin_key(device))
        newest = next(self._read([info] if info else []), None)
        return newest, list(self._read(self._store.list(f"{_HISTORY}{device}/")))

    def forget(self, device: str) -> int:
        """See :meth:`CheckIns.forget`."""
        # The newest last: as long as it is there nobody else can be that machine.
        keys = [info.key for info in self._store.list(f"{_HISTORY}{device}/")]
        keys += [checkin_key(device)] if self._store.find(checkin_key(device)) else []
        for key in keys:
            self._store.delete(key)
        return len(keys)

    def _read(self, found: Iterable[Info]) -> Iterator[Arrival]:
        places = [(info, place) for info in found if (place := place_of(info.key))]
        with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
            for arrival in pool.map(lambda each: self._arrival(*each), places):
                if arrival is not None:
                    yield arrival

    def _arrival(self, info: Info, place: Place) -> Arrival | None:
        """One report; None if it went away meanwhile."""
        try:
            if info.size > MAX_CHECKIN:
                raise TrustError(f"it has {info.size} bytes, more than a report has")
            signed = opened(self._store.get(info.key, limit=MAX_CHECKIN), place)
        except MissingError:
            return None
        except RecastError as error:  # one that cannot be read or believed; the others may be
            return Arrival(place.device, info.modified, None, error.message)
        return Arrival(place.device, info.modified, signed)
