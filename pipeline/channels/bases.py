"""From which earlier releases machines come: those that deltas to a new one are made from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import DigestError, RecastError
from pipeline.fleet.arrivals import StoreCheckIns
from pipeline.fleet.standing import running
from pipeline.store.base import MissingError
from pipeline.transfer.fetch import save_part

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.channels.desk import Desk
    from pipeline.command import Stop
    from pipeline.models.pointer import PublishedRelease
    from pipeline.models.release import Release
    from pipeline.releases import Releases
    from pipeline.store.base import Reader

MOST = 12
"""Releases that deltas are made from, at most: each costs a minute or so."""

_REPORTS = 1000  # of machines that are read at most


def find_bases(desk: Desk, release: Release) -> list[PublishedRelease]:
    """What machines run that *release* may reach, the newest first.

    For each channel: what it holds, what it held before that as many machines may run still, and
    what its machines report. One with the same root and boot file as *release* is none of them.

    Args:
        desk: knows the channels and the store.
        release: what is to be published.

    Raises:
        TrustError, NetworkError, HostError: the channels cannot be read or believed.
    """
    found: dict[str, PublishedRelease] = {}
    for version in _versions(desk, release.image):
        if len(found) == MOST:
            break
        if version in found or version == release.version:
            continue
        try:
            known = desk.published.find(release.image, version)
        except RecastError:  # what cannot be read cannot be started from
            continue
        if known is not None and _runs(known) != _runs(release):
            found[version] = known
    return sorted(found.values(), key=lambda each: each.created, reverse=True)


def _runs(release: PublishedRelease | Release) -> tuple[str, str]:
    return release.root_hash, release.boot_digest


def _versions(desk: Desk, image: str) -> Iterator[str]:
    """Versions that machines may run, the most likely first; some more than once."""
    pointers = [view.pointers.get(image) for view in desk.views_that_are()]
    held = [each for each in pointers if each is not None]
    for pointer in held:
        if pointer.release is not None:
            yield pointer.release.version
        if pointer.previous is not None:
            yield pointer.previous.version
    for pointer in held:
        most = desk.channels[pointer.channel].deltas if pointer.channel in desk.channels else 0
        yield from (each.version for each in pointer.history[:most])
    try:
        arrivals, _ = StoreCheckIns(desk.store).sample(_REPORTS)
        counts = [running(arrivals, image, pointer.channel) for pointer in held]
    except RecastError:  # reports decide nothing
        return
    reported = {version: n for each in counts for version, n in each.items()}
    yield from sorted(reported, key=lambda version: (-reported[version], version))


class BaseFiles:
    """The parts of earlier releases as files: of this machine's own store, or fetched.

    Args:
        store: has them all.
        local: this machine's releases, if it has any.
        folder: where fetched ones are put; removed by whoever made it.
        stop: ends it when set.
    """

    def __init__(self, store: Reader, local: Releases | None, folder: Path, stop: Stop) -> None:
        self._store = store
        self._local = local
        self._folder = folder
        self._stop = stop

    def find(self, base: PublishedRelease, role: str) -> Path | None:
        """A part of *base*; None if it cannot be had, which costs no more than a delta.

        Raises:
            NetworkError, HostError: the store cannot be reached or read.
            DiskFullError: no space is left for it.
            Interrupted: *stop* was set.
        """
        part = base.parts.get(role)
        if part is None:
            return None
        stored = self._local.find(base.image, base.version) if self._local is not None else None
        if stored is not None:
            path = stored.folder / part.file
            made = stored.release.parts.get(role)
            same = made is not None and made.digest == part.digest
            if same and path.is_file() and path.stat().st_size == part.size:
                return path
        path = self._folder / f"{base.version}.{role}"
        try:
            if not path.exists():
                save_part(self._store, base, role, path, self._stop)
        except (DigestError, MissingError):
            return None
        return path

    def forget(self, bases: Sequence[PublishedRelease], role: str) -> None:
        """Remove what was fetched of a part."""
        for base in bases:
            (self._folder / f"{base.version}.{role}").unlink(missing_ok=True)
