"""Put a release into a store: whatever the store lacks of it, and its description last.

Objects are named by their digests, so an upload that was cut, or that somebody else did, is not
done again. A description is written once. Only its evidence may change after that: tests on
another provider are added, and a newer statement takes the place of an older one of the same kind
and provider.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pipeline import clock, digest
from pipeline.channels.bases import BaseFiles
from pipeline.channels.meter import Meter, Progress
from pipeline.channels.packing import LEVEL, Packed, Piece, damaged, pack
from pipeline.channels.payloads import FETCHED, Payloads
from pipeline.channels.published import disagreement, read_description
from pipeline.channels.threads import LinkedStop, do_all
from pipeline.channels.uploads import Uploads
from pipeline.command import Stop
from pipeline.disk.extents import Run, find_runs
from pipeline.errors import BuildError, ConflictError
from pipeline.models.pointer import (
    Evidence,
    Extent,
    PublishedPart,
    PublishedRelease,
    StoredObject,
)
from pipeline.releases import manifest_path
from pipeline.store.base import ChangedError, ExistsError, Store, release_key

if TYPE_CHECKING:
    from pipeline.models.release import Release
    from pipeline.releases import Releases, Stored

WHOLE = ("root", "uki", "verity", "sbom")
"""Parts that are stored as they are."""

IN_DISK = ("uki", "root", "verity")
"""Parts that the disk holds once more, in its order."""

JOBS = 4
GRACE = 7 * 86400.0

_FILES = 2  # read at once: that is bound by cores and memory, uploading by the link
_TRIES = 10  # for the description, against others who extend it too
_Kind = Literal["provenance", "test", "sbom"]


@dataclass(frozen=True)
class Attestation:
    """A signed statement that is published with a release.

    Attributes:
        kind, provider: see :class:`~pipeline.models.pointer.Evidence`.
        envelope: its bytes.
    """

    kind: _Kind
    envelope: bytes
    provider: str = ""


@dataclass(frozen=True)
class Published:
    """What publishing came to.

    Attributes:
        release: the description that the store has now.
        uploaded: bytes that were sent.
        reused: bytes that the store had already.
        changed: was the description made or extended?
    """

    release: PublishedRelease
    uploaded: int
    reused: int
    changed: bool


def publish(
    store: Store,
    stored: Stored,
    attestations: Sequence[Attestation] = (),
    *,
    bases: Sequence[PublishedRelease] = (),
    local: Releases | None = None,
    scratch: Path,
    jobs: int = JOBS,
    level: int = LEVEL,
    grace: float = GRACE,
    progress: Callable[[Progress], None] | None = None,
    stop: Stop | None = None,
    now: Callable[[], datetime] = clock.now,
) -> Published:
    """Put *stored* into *store*, with *attestations* as its evidence.

    What is cut is taken up by the next call. Evidence that the store has already stays, but for
    what *attestations* holds a newer statement of.

    Args:
        store: where to.
        stored: a release in the local store.
        attestations: signed statements about it.
        bases: releases in *store* that machines come from, the newest first: deltas are made from
            them.
        local: this machine's releases, where parts of *bases* may be.
        scratch: a folder that exists; what is made there is removed again.
        jobs: uploads at once.
        level: zstandard's.
        grace: seconds that an object that nothing refers to is safe from being cleared up.
        progress: hears how far it is.
        stop: ends it when set.
        now: the present moment.

    Raises:
        BuildError: a local file is damaged or missing; names it. Nothing was published.
        ConflictError: the store has another release under this version.
        TrustError: the store's description of it cannot be read.
        DiskFullError: no space is left, here or in the store.
        NetworkError, HostError: the store cannot be reached, read or written.
        Interrupted: *stop* was set.
    """
    own = LinkedStop(stop)
    uploads = Uploads(store, jobs, grace, progress, own, now)
    with tempfile.TemporaryDirectory(dir=scratch, prefix="publish-") as folder:
        files = BaseFiles(store, local, Path(folder), own)
        payloads = Payloads(bases, files, Path(folder), uploads, progress, own)
        publisher = _Publisher(stored, Path(folder), uploads, payloads, level, progress, own)
        return publisher.run(attestations)


def manifest_of(stored: Stored) -> bytes:
    """The bytes of a local release's manifest: they are what is published and attested.

    Raises:
        BuildError: it cannot be read, or is no longer what *stored* says.
    """
    from pipeline.models.release import Release

    path = manifest_path(stored.folder, stored.release.name)
    try:
        data = path.read_bytes()
        same = Release.model_validate_json(data) == stored.release
    except (OSError, ValueError):
        same = False
    if not same:
        raise BuildError(
            f"{path} has changed since it was read",
            hint=f"Run it again; if it stays, remove {path.parent} and build the image again.",
        )
    return data


@dataclass
class _Publisher:
    """One release on its way into a store."""

    stored: Stored
    scratch: Path
    uploads: Uploads
    payloads: Payloads
    level: int
    progress: Callable[[Progress], None] | None
    stop: LinkedStop

    @property
    def release(self) -> Release:
        return self.stored.release

    @property
    def store(self) -> Store:
        return self.uploads.store

    def run(self, attestations: Sequence[Attestation]) -> Published:
        manifest = self.uploads.add_bytes(manifest_of(self.stored))
        described = self._describe(manifest)
        new = self.payloads.add(described, {role: self._path(role) for role in FETCHED})
        evidence = tuple(
            Evidence(
                kind=each.kind,
                provider=each.provider,
                stored=self.uploads.add_bytes(each.envelope),
            )
            for each in attestations
        )
        self.uploads.run()
        release, changed = self._write(new.model_copy(update={"evidence": _sorted(evidence)}))
        return Published(release, self.uploads.uploaded, self.uploads.reused, changed)

    # --- what there is to store -----------------------------------------------------------------

    def _describe(self, manifest: StoredObject) -> PublishedRelease:
        """The description, without evidence; afterwards it is known where its bytes are."""
        release = self.release
        found = read_description(self.store, release.image, release.version)
        if found is not None and self._stands(found[0], manifest):
            # What is there was read and compressed once: that need not be done again.
            for part in found[0].parts.values():
                for each in part.objects:
                    self.uploads.add(each, None)
            return found[0]
        return PublishedRelease(
            image=release.image,
            version=release.version,
            arch=release.arch,
            commit=release.commit,
            dirty=release.dirty,
            created=release.created,
            built=self.stored.built,
            build_key=release.build_key,
            root_hash=release.root_hash,
            boot_digest=release.boot_digest,
            manifest=manifest,
            parts=self._parts(),
        )

    def _stands(self, known: PublishedRelease, manifest: StoredObject) -> bool:
        """Is what the store says right and whole?

        Raises:
            ConflictError: it is another release.
        """
        if known.manifest.digest != manifest.digest:
            raise self._another(known)
        wrong = disagreement(known, self.release)  # then somebody has changed it
        wanted = [each for part in known.parts.values() for each in part.objects]
        return not wrong and self.uploads.has_all(wanted)

    def _another(self, known: PublishedRelease) -> ConflictError:
        mine = self.release
        if known.root_hash != mine.root_hash:
            what = f"root {known.root_hash[:12]}…, and this one {mine.root_hash[:12]}…"
        else:
            what = "the same root and another manifest"
        return ConflictError(
            f"{self.store.url} has another {known.image}@{known.version} already: it has {what}",
            hint="The same commit was built elsewhere, and a version stands for the same bytes for "
            f"ever. To publish this one too, make a new commit, remove {self.stored.folder}, and "
            f"`recast run {mine.image}`.",
        )

    def _parts(self) -> Mapping[str, PublishedPart]:
        parts = self.release.parts
        whole = {role: self._path(role) for role in WHOLE if role in parts}
        disk = self._path("disk") if "disk" in parts else None
        sizes = [part.size for role, part in parts.items() if role in (*WHOLE, "disk")]
        meter = Meter("reading", sum(sizes), self.progress)
        runs: list[Run] = []
        packed: dict[str, Packed] = {}
        tables: dict[str, StoredObject] = {}

        def look_into(role: str) -> None:
            if disk is not None and role == "disk":
                runs.extend(self._runs(disk, meter))
            else:
                fetched = role in FETCHED
                piece = Piece(whole[role], 0, parts[role].size, parts[role].digest, fetched)
                packed[role] = self._pack(role, piece, meter)
                if table := packed[role].table:
                    tables[role] = self.uploads.add_bytes(table)

        roles = [*whole, *(["disk"] if disk else [])]
        roles.sort(key=lambda role: -parts[role].size)  # what takes longest first
        do_all(look_into, roles, _FILES, self.stop)
        found = {
            role: PublishedPart(
                file=parts[role].file,
                digest=parts[role].digest,
                size=parts[role].size,
                stored=packed[role].stored,
                segments=tables.get(role),
            )
            for role in whole
        }
        if disk is not None:
            part = parts["disk"]
            extents = tuple(self._extent(disk, run) for run in runs)
            found["disk"] = PublishedPart(
                file=part.file, digest=part.digest, size=part.size, extents=extents
            )
        return found

    def _runs(self, disk: Path, meter: Meter) -> list[Run]:
        """What the disk is made of, once it is sure that it is the disk that was tested."""

        def heard(count: int) -> None:
            self.stop.check()
            meter.add(count)

        expected = self.release.parts["disk"].digest
        found = digest.of_file(disk, heard)
        if found != expected:
            raise damaged(disk, found, expected)
        parts = {role: self._path(role) for role in IN_DISK if role in self.release.parts}
        return find_runs(disk, parts, self.stop)

    def _extent(self, disk: Path, run: Run) -> Extent:
        if run.part:
            return Extent(offset=run.offset, size=run.size, part=run.part)
        piece = Piece(disk, run.offset, run.size)
        packed = self._pack(f"disk.{run.offset}", piece, Meter("reading", run.size, None))
        return Extent(offset=run.offset, size=run.size, stored=packed.stored)

    def _pack(self, name: str, piece: Piece, meter: Meter) -> Packed:
        packed = pack(piece, self.scratch / f"{name}.zst", meter, self.stop, self.level)
        self.uploads.add(packed.stored, packed.source)
        return packed

    def _path(self, role: str) -> Path:
        path = self.stored.folder / self.release.parts[role].file
        if not path.is_file():
            raise BuildError(
                f"{path} is missing: nothing was published",
                hint=f"Remove {path.parent} and run `recast run {self.release.image}` again.",
            )
        return path

    # --- the description -------------------------------------------------------------------------

    def _write(self, new: PublishedRelease) -> tuple[PublishedRelease, bool]:
        """Write the description, or extend the one that is there; say whether that was needed."""
        key = release_key(new.image, new.version)
        for _ in range(_TRIES):
            self.stop.check()
            found = read_description(self.store, new.image, new.version)
            try:
                if found is None:
                    self.store.create(key, _bytes(new))
                    return new, True
                known, etag = found
                evidence = _merged(known.evidence, new.evidence)
                stands = self._stands(known, new.manifest)
                merged = _with_payloads(known, new) if stands else new
                merged = merged.model_copy(update={"evidence": evidence})
                if merged == known:
                    if self.uploads.keep(key):
                        return known, False
                    continue
                self.store.replace(key, _bytes(merged), etag=etag)
                return merged, True
            except (ExistsError, ChangedError):
                continue
        raise ConflictError(
            f"{key} in {self.store.url} is changed by others again and again",
            hint="Publish again: what was uploaded is not uploaded again.",
        )


def _merged(old: Iterable[Evidence], new: Iterable[Evidence]) -> tuple[Evidence, ...]:
    """What is there, with a newer statement in the place of an older one of its kind."""
    found = {(each.kind, each.provider): each for each in (*old, *new)}
    return _sorted(found.values())


def _with_payloads(known: PublishedRelease, new: PublishedRelease) -> PublishedRelease:
    """*known* with what *new* has for machines that have an earlier release."""
    parts = dict(known.parts)
    for role, part in new.parts.items():
        if role in parts:
            deltas = {each.base: each for each in (*part.deltas, *parts[role].deltas)}
            chunks = parts[role].chunks or part.chunks
            update = {"deltas": tuple(deltas.values()), "chunks": chunks}
            parts[role] = parts[role].model_copy(update=update)
    return known.model_copy(update={"parts": parts})


def _sorted(evidence: Iterable[Evidence]) -> tuple[Evidence, ...]:
    return tuple(sorted(evidence, key=lambda each: (each.kind, each.provider)))


def _bytes(release: PublishedRelease) -> bytes:
    return release.model_dump_json(indent=1, exclude_defaults=True).encode()
