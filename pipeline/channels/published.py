"""The releases in a store: which there are, and which one a person means.

A release is there when its description is, the object at
:func:`pipeline.store.base.release_key`, which is written last: one that was uploaded by half is
not there. Nothing of a description is believed for its own sake: what moves a release into a
channel checks its manifest and its attestations, and both are held against it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from pydantic import ValidationError

from pipeline import digest, releases
from pipeline.errors import DigestError, TrustError, UsageError
from pipeline.models.fields import first_problem
from pipeline.models.pointer import Evidence, PublishedRelease
from pipeline.models.release import Release
from pipeline.store.base import Info, MissingError, Reader, object_key, release_key

RELEASES = "releases/"
"""What the keys of all descriptions begin with."""

MAX_DESCRIPTION = 256 << 10
"""The most bytes of a description that are read."""

MAX_MANIFEST = 16 << 20
"""The most bytes of a manifest that are read; a package has some 120."""

_AT_ONCE = 8  # descriptions read at a time: small objects, so it is the waiting that counts
_SHOWN = 16
_AGREED = (
    "image", "version", "arch", "commit", "dirty", "created", "build_key", "root_hash",
    "boot_digest",
)  # fmt: skip
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*")


class Lister(Reader, Protocol):
    """A store that can tell what is in it."""

    def list(self, prefix: str = "") -> Iterator[Info]:
        """The objects whose keys begin with *prefix*, sorted by key."""


class PublishedReleases:
    """The releases in *store*.

    Attributes:
        problems: one sentence for each release that had to be passed over in a list.
    """

    def __init__(self, store: Lister) -> None:
        self._store = store
        self.problems: list[str] = []

    def images(self) -> list[str]:
        """The names of the images that have a release here, sorted.

        Raises:
            NetworkError, HostError: the store cannot be read.
        """
        names = (_parse_key(info.key) for info in self._store.list(RELEASES))
        return sorted({name[0] for name in names if name is not None})

    def of(self, image: str) -> list[PublishedRelease]:
        """All releases of *image*, oldest first; a broken one goes to ``problems`` instead.

        Raises:
            NetworkError, HostError: the store cannot be read.
        """
        if _NAME.fullmatch(image) is None:
            return []
        keys = [_parse_key(info.key) for info in self._store.list(f"{RELEASES}{image}/")]
        versions = [key[1] for key in keys if key is not None]
        found: list[PublishedRelease] = []
        with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
            for each in pool.map(lambda version: self._tolerant(image, version), versions):
                if isinstance(each, PublishedRelease):
                    found.append(each)
                elif each is not None and each not in self.problems:
                    self.problems.append(each)
        return sorted(found, key=_age)

    def latest(self, image: str) -> PublishedRelease | None:
        """The newest release of *image*."""
        return next(reversed(self.of(image)), None)

    def find(self, image: str, version: str) -> PublishedRelease | None:
        """The release with exactly this version.

        Raises:
            TrustError: it is there, and its description cannot be read.
            NetworkError, HostError: the store cannot be read.
        """
        if not all(_NAME.fullmatch(name) for name in (image, version)):
            return None
        found = read_description(self._store, image, version)
        return found[0] if found else None

    def resolve(self, words: str, known: Iterable[str] = ()) -> PublishedRelease:
        """The release that a person calls *words*, see :meth:`pipeline.releases.Releases.resolve`.

        Args:
            words: what was typed.
            known: names of images that may have no release here, for the error's advice.

        Raises:
            UsageError: there is no such release, or more than one; names what is near.
            TrustError: its description cannot be read.
            NetworkError, HostError: the store cannot be read.
        """
        image, version = releases.split(words)
        exact = self.find(image, version) if version else None
        if exact is not None:
            return exact
        found = self.of(image)
        if found:
            return releases.choose(image, version, found, lambda each: each)
        if any(problem for problem in self.problems if f"{RELEASES}{image}/" in problem):
            raise UsageError(
                f"no release of {image} in {self._store.url} can be read",
                hint="; ".join(self.problems),
            )
        defined = set(known)
        if image in defined:
            raise UsageError(
                f"{image} has no release in {self._store.url} yet",
                hint=f"Publish one with `recast publish {image}`.",
            )
        raise releases.no_image(image, defined | set(self.images()))

    def manifest(self, release: PublishedRelease) -> Release:
        """The manifest of *release*, see :func:`read_manifest`."""
        return read_manifest(self._store, release)

    def envelope(self, evidence: Evidence) -> bytes:
        """The bytes of an attestation, see :func:`read_envelope`."""
        return read_envelope(self._store, evidence)

    def _tolerant(self, image: str, version: str) -> PublishedRelease | str | None:
        try:
            return self.find(image, version)
        except TrustError as error:
            return error.message


def read_description(
    store: Reader, image: str, version: str
) -> tuple[PublishedRelease, str] | None:
    """What a store says of a release, and the etag of that; None if it is not there.

    Raises:
        TrustError: it is there, and cannot be read or is about another release.
        NetworkError, HostError: the store cannot be read.
    """
    key = release_key(image, version)
    try:
        found = store.get_changed(key, "", limit=MAX_DESCRIPTION)
    except MissingError:
        return None
    assert found is not None  # an empty etag matches nothing
    data, etag = found
    return parse_description(store, image, version, data), etag


def parse_description(store: Reader, image: str, version: str, data: bytes) -> PublishedRelease:
    """What the bytes of a description say.

    Raises:
        TrustError: they cannot be understood, or are about another release.
    """
    key = release_key(image, version)
    hint = f"Remove {key} from the store, and publish the release again."
    try:
        release = PublishedRelease.model_validate_json(data)
    except ValidationError as error:
        raise TrustError(
            f"{key} in {store.url} is no description of a release: {first_problem(error)}",
            hint=hint,
        ) from error
    if (release.image, release.version) != (image, version):
        raise TrustError(f"{key} in {store.url} describes {release.name}", hint=hint)
    return release


def read_manifest(store: Reader, release: PublishedRelease) -> Release:
    """The manifest of *release*: the bytes that its digest names, agreeing with its description.

    Raises:
        DigestError: other bytes are stored there; names the key.
        TrustError: it is too large, cannot be read, or says something else than *release* does.
        MissingError: it is not there.
        NetworkError, HostError: the store cannot be read.
    """
    data = _read(store, release.manifest.digest, release.manifest.size, MAX_MANIFEST)
    what = f"the manifest of {release.name} ({object_key(release.manifest.digest)})"
    try:
        found = Release.model_validate_json(data)
    except ValidationError as error:
        raise TrustError(f"{what} cannot be read: {first_problem(error)}") from error
    if field := disagreement(release, found):
        raise TrustError(
            f"{what} and the store's description differ in: {field}",
            hint="Somebody has changed one of them: publish the release again from where it was "
            "built.",
        )
    return found


def disagreement(release: PublishedRelease, manifest: Release) -> str:
    """In what a description differs from a manifest: a field's or a part's name; empty if not."""
    for field in _AGREED:
        if getattr(manifest, field) != getattr(release, field):
            return field.replace("_", " ")
    for role, part in release.parts.items():
        made = manifest.parts.get(role)
        said = (part.file, part.digest, part.size)
        if made is None or (made.file, made.digest, made.size) != said:
            return role
    return ""


def read_envelope(store: Reader, evidence: Evidence) -> bytes:
    """The bytes of an attestation; who signed it is for :mod:`pipeline.trust.attestations`.

    Raises:
        DigestError: other bytes are stored there; names the key.
        TrustError: it is larger than it says.
        MissingError: it is not there.
        NetworkError, HostError: the store cannot be read.
    """
    from pipeline.trust.statements import MAX_ENVELOPE

    return _read(store, evidence.stored.digest, evidence.stored.size, MAX_ENVELOPE)


def _read(store: Reader, sha256: str, size: int, most: int) -> bytes:
    key = object_key(sha256)
    data = store.get(key, limit=min(size, most))
    found = digest.of_bytes(data)
    if found != sha256:
        raise DigestError(
            f"{key} in {store.url} is damaged: its bytes have the digest {found[:_SHOWN]}…",
            hint=f"Remove {key} from the store; `recast publish` then puts it there again, from "
            "where the release was built.",
        )
    return data


def _parse_key(key: str) -> tuple[str, str] | None:
    """Image and version from what :func:`release_key` makes; None for anything else."""
    image, slash, file = key.removeprefix(RELEASES).partition("/")
    version = file.removesuffix(".json")
    return (image, version) if slash and version != file and "/" not in version else None


def _age(release: PublishedRelease) -> tuple[object, ...]:
    return release.created, release.built or release.created, release.version
