"""Our own engine, as a process of its own: it publishes a release, or brings one onto a "machine".

``python -m tests.bench.engine publish STORE NEW [BASE...]`` writes the description of the release
in the folder NEW (files ``root`` and ``uki``), see :func:`description`; BASEs are folders of
releases that were published before. ``apply URL STORE NEW TARGET [SEED]`` brings them into the
folder TARGET; SEED is the folder of the release that the machine runs. With ``--unnamed`` nobody
knows which one that is, so that no delta fits. ``nothing`` imports what the others do.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from pipeline import digest
from pipeline.agent.blocks import FileDisk
from pipeline.channels.bases import BaseFiles
from pipeline.channels.meter import Meter
from pipeline.channels.packing import Piece, pack
from pipeline.channels.payloads import FETCHED, Payloads
from pipeline.channels.threads import LinkedStop
from pipeline.channels.uploads import Uploads
from pipeline.models.pointer import PublishedPart, PublishedRelease, StoredObject
from pipeline.store.http import HttpStore
from pipeline.store.local import LocalStore
from pipeline.transfer.source import StoreSource
from tests.fakes.places import NamedDisk

_MOMENT = datetime(2026, 3, 1, 12, tzinfo=UTC)


class _Files(BaseFiles):
    """Parts of releases that lie in folders.

    Args:
        folders: by version.
    """

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self._folders = folders

    def find(self, base: PublishedRelease, role: str) -> Path:
        return self._folders[base.version] / role

    def forget(self, bases: Sequence[PublishedRelease], role: str) -> None:
        return


def publish(store: Path, new: Path, bases: Sequence[Path]) -> PublishedRelease:
    """All that `recast publish` makes of root and boot file; signing aside."""
    stop = LinkedStop(None)
    uploads = Uploads(LocalStore(store), 4, 86400.0, None, stop, lambda: datetime.now(UTC))
    earlier = {base: read(description(store, base)) for base in bases}
    files = _Files({each.version: base for base, each in earlier.items()})
    with tempfile.TemporaryDirectory(dir=store) as scratch:
        folder = Path(scratch)
        parts = {role: _part(role, new / role, folder, uploads) for role in FETCHED}
        release = PublishedRelease(
            image="bench",
            version=f"20260301.120000.g{parts['root'].digest[:12]}",
            commit="0" * 40,
            created=_MOMENT,
            build_key="",
            root_hash=parts["root"].digest,
            boot_digest=parts["uki"].digest,
            manifest=StoredObject(digest="0" * 64, size=0),
            parts=parts,
        )
        payloads = Payloads(list(earlier.values()), files, folder, uploads, None, stop)
        release = payloads.add(release, {role: new / role for role in FETCHED})
        uploads.run()
    description(store, new).write_text(release.model_dump_json())
    return release


def _part(role: str, path: Path, scratch: Path, uploads: Uploads) -> PublishedPart:
    size = path.stat().st_size
    piece = Piece(path, 0, size, digest.of_file(path), tabled=True)
    packed = pack(piece, scratch / f"{role}.zst", Meter("", size, None), uploads.stop)
    uploads.add(packed.stored, packed.source)
    table = uploads.add_bytes(packed.table)
    return PublishedPart(
        file=role, digest=piece.digest, size=size, stored=packed.stored, segments=table
    )


def description(store: Path, folder: Path) -> Path:
    """Where the description of the release in *folder* is."""
    return store / f"{digest.of_data(str(folder.resolve()))[:16]}.json"


def read(path: Path) -> PublishedRelease:
    """A description."""
    return PublishedRelease.model_validate_json(path.read_bytes())


def apply(
    url: str,
    release: PublishedRelease,
    target: Path,
    seed: Path | None,
    old: PublishedRelease | None,
) -> None:
    """Bring both parts.

    Args:
        url: of the store.
        release: what is wanted.
        target: a folder.
        seed: the folder of what the machine runs.
        old: its description; None if nobody knows.
    """
    with HttpStore(url) as store:
        for role in FETCHED:
            path = target / role
            path.touch()
            os.truncate(path, release.parts[role].size)
            with FileDisk(path) as slot:
                seeds = []
                if seed is not None:
                    seeds = [NamedDisk(FileDisk(seed / role), old.identity(role) if old else "")]
                filled = StoreSource(store).fill(release, role, slot, seeds)
            print(f"{role}: {filled.how}")


def main(words: Sequence[str]) -> None:
    """See above."""
    what, *rest = words
    if what == "publish":
        store, new, *bases = map(Path, rest)
        publish(store, new, bases)
    elif what == "apply":
        url, *folders = (word for word in rest if word != "--unnamed")
        store, new, target, *seeds = map(Path, folders)
        seed = seeds[0] if seeds else None
        known = seed is not None and "--unnamed" not in rest
        old = read(description(store, seed)) if seed is not None and known else None
        apply(url, read(description(store, new)), target, seed, old)


if __name__ == "__main__":
    main(sys.argv[1:])
