"""Which reports a server takes, and from whom.

The key of a machine's first report is that machine's from then on: nobody else can speak for it,
and a report that is older than what is there, a replayed one say, changes nothing.
"""

from __future__ import annotations

import threading

from pipeline.errors import DiskFullError, RecastError, TrustError
from pipeline.fleet.envelope import Place, Signed, opened, place_of
from pipeline.models.checkin import MAX_CHECKIN, checkin_key
from pipeline.store.base import ChangedError, ExistsError, MissingError, Store

KEPT = 20
"""Reports of how updates ended that are kept for a machine, the newest."""

MOST_DEVICES = 20_000
"""Machines whose reports are taken."""

_CREATED, _NO_CONTENT = 201, 204
_BAD, _FORBIDDEN, _MISSING, _CONFLICT = 400, 403, 404, 409
_FAILED, _BUSY, _FULL = 500, 503, 507
_PREFIX = "checkins/"

Answer = tuple[int, str]
"""A status of HTTP, and a sentence for whoever looks for the reason."""


class Acceptor:
    """Takes reports into a store; safe for several threads.

    Args:
        store: where they go.
        most: machines whose reports are taken.
        kept: reports of how updates ended that stay, by machine.
    """

    def __init__(self, store: Store, *, most: int = MOST_DEVICES, kept: int = KEPT) -> None:
        self._store = store
        self._most = most
        self._kept = kept
        self._lock = threading.Lock()
        self._devices: set[str] = set()

    def __call__(self, key: str, data: bytes) -> Answer:
        """Take the object *key*, or say why not."""
        place = place_of(key)
        if place is None:
            return _MISSING, "no report belongs there"
        try:
            report = opened(data, place)
        except TrustError as error:
            return _BAD, error.message
        try:
            with self._lock:
                return self._take(key, place, report, data)
        except DiskFullError as error:
            return _FULL, error.message
        except ChangedError:
            return _BUSY, "another report of that machine came at the same time"
        except RecastError as error:
            return _FAILED, error.message

    def _take(self, key: str, place: Place, report: Signed, data: bytes) -> Answer:
        there, etag = self._newest(place.device)
        known = _opened(there, Place(place.device, None))
        owner = known or self._last_outcome(place.device)
        if owner is None and not self._room_for(place.device):
            return _FULL, f"reports of {self._most} machines are taken, and that many there are"
        if owner is not None and owner.key != report.key:
            return _FORBIDDEN, (
                f"{place.device} has another key than it had: if it was installed anew, "
                f"`recast sites --forget {place.device}` lets it report again"
            )
        if place.number is not None:
            return self._take_outcome(key, place.device, report, known, data)
        if there == data:
            return _NO_CONTENT, ""
        if known is not None and known.checkin.number >= report.checkin.number:
            return _CONFLICT, f"there is report {known.checkin.number} already"
        self._store.replace(key, data, etag=etag)
        return (_NO_CONTENT if etag else _CREATED), ""

    def _take_outcome(
        self, key: str, device: str, report: Signed, known: Signed | None, data: bytes
    ) -> Answer:
        existing = self._find(key)
        if existing == data:
            return _NO_CONTENT, ""
        number = report.checkin.number
        if existing is not None or (known is not None and known.checkin.number >= number):
            return _CONFLICT, f"report {number} is there already, or a newer one is"
        try:
            self._store.create(key, data)
        except ExistsError:
            return _CONFLICT, f"report {number} is there already"
        for old in self._outcomes(device)[: -self._kept]:
            self._store.delete(old)
        return _CREATED, ""

    def _newest(self, device: str) -> tuple[bytes | None, str]:
        """A machine's newest report, and its etag; an empty one if there is none."""
        try:
            found = self._store.get_changed(checkin_key(device), "", limit=MAX_CHECKIN)
        except MissingError:
            return None, ""
        return found or (None, "")

    def _last_outcome(self, device: str) -> Signed | None:
        for key in reversed(self._outcomes(device)):
            place = place_of(key)
            found = _opened(self._find(key), place) if place else None
            if found is not None:
                return found
        return None

    def _outcomes(self, device: str) -> list[str]:
        return [info.key for info in self._store.list(f"{_PREFIX}history/{device}/")]

    def _find(self, key: str) -> bytes | None:
        try:
            return self._store.get(key, limit=MAX_CHECKIN)
        except (MissingError, TrustError):
            return None

    def _room_for(self, device: str) -> bool:
        """May one machine more report? Counts again only when it looks full, or at first."""
        if not self._devices or len(self._devices) >= self._most:
            places = (place_of(info.key) for info in self._store.list(_PREFIX))
            self._devices = {place.device for place in places if place}
        room = len(self._devices) < self._most
        if room:
            self._devices.add(device)
        return room


def _opened(data: bytes | None, place: Place) -> Signed | None:
    """A report that is there; None if it is not, or damaged: then it protects nobody."""
    try:
        return opened(data, place) if data is not None else None
    except TrustError:
        return None
