"""What is known of a release before it moves: its manifest, its evidence, its bytes in the store.

Everything here is verified: a manifest by its digest, an attestation by the keys that the signed
metadata names, an object by being there with its size.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.channels.desk import Desk
from pipeline.channels.lease import wait_for_collectors
from pipeline.errors import DigestError, TrustError, UsageError
from pipeline.store.base import MissingError, object_key, release_key

if TYPE_CHECKING:
    from pipeline.models.pointer import Evidence, PublishedRelease, StoredObject
    from pipeline.models.release import Release
    from pipeline.trust.attestations import Verified

_AT_ONCE = 8  # objects asked for at a time: it is the waiting that counts


@dataclass(frozen=True)
class Examined:
    """One piece of evidence, looked at.

    Attributes:
        evidence: what the release's description says of it.
        verified: what it says; None if it is not to be believed.
        problem: why it is not; empty if it is.
    """

    evidence: Evidence
    verified: Verified | None
    problem: str = ""


@dataclass(frozen=True)
class Dossier:
    """A release and all that is known of it.

    Attributes:
        release: its description.
        manifest: its manifest, which agrees with the description.
        evidence: each attestation that it has.
        missing: keys of its objects that are not in the store.
    """

    release: PublishedRelease
    manifest: Release
    evidence: tuple[Examined, ...] = ()
    missing: tuple[str, ...] = ()


def examine(desk: Desk, release: PublishedRelease) -> Dossier:
    """Read and verify the manifest and the evidence of *release*, and look for its objects.

    Evidence that is not to be believed is told as such: what it was needed for is then missing.

    Raises:
        UsageError: its manifest is not in the store.
        TrustError: the manifest is not that of the description, or an object is damaged.
        NetworkError, HostError: the store cannot be read.
    """
    desk.client.check()  # whose evidence counts may have changed since it was last asked
    return Dossier(
        release=release,
        manifest=read_manifest(desk, release),
        evidence=tuple(look_at(desk, release)),
        missing=find_missing(desk, release),
    )


def read_manifest(desk: Desk, release: PublishedRelease) -> Release:
    """The manifest of *release*.

    Raises:
        UsageError, TrustError, NetworkError, HostError: as :func:`examine`.
    """
    try:
        return desk.published.manifest(release)
    except MissingError as error:
        raise _incomplete(release, error.key) from error


def look_at(desk: Desk, release: PublishedRelease, kind: str = "") -> Iterator[Examined]:
    """Verify each attestation of *release*, or those of one kind.

    Raises:
        TrustError: the store cannot be believed: its metadata has run out, for one.
        NetworkError, HostError: the store cannot be read.
    """
    from pipeline.trust.attestations import label, verify_evidence
    from pipeline.trust.statements import SIGNED_BY

    for each in release.evidence:
        if kind and each.kind != kind:
            continue
        keys, threshold = desk.client.attesters(SIGNED_BY[each.kind])
        try:
            envelope = desk.published.envelope(each)
            found = verify_evidence(release, each, envelope, keys, threshold)
        except MissingError as error:
            yield Examined(each, None, f"the {label(each)} is not in the store: {error.key}")
        except TrustError as error:
            yield Examined(each, None, error.message)
        else:
            yield Examined(each, found)


def find_missing(desk: Desk, release: PublishedRelease) -> tuple[str, ...]:
    """The keys of the objects of *release* that are not in the store.

    Raises:
        DigestError: one has another size than it must have.
        NetworkError, HostError: the store cannot be read.
    """

    def check(each: StoredObject) -> str | None:
        key = object_key(each.digest)
        info = desk.store.find(key)
        if info is not None and info.size != each.size:
            raise DigestError(
                f"{key} in {desk.store.url} is damaged: it has {info.size} bytes, and must have "
                f"{each.size}",
                hint=publish_again(release),
            )
        return key if info is None else None

    with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
        return tuple(key for key in pool.map(check, release.objects) if key is not None)


def touch_objects(desk: Desk, release: PublishedRelease) -> None:
    """Make every object of *release* as young as a new one, and wait for who clears up just now.

    No clearing-up then takes one, before the channel that is about to name it does.

    Raises:
        UsageError: one is not in the store any more.
        NetworkError, HostError: the store cannot be written.
    """
    keys = [object_key(each.digest) for each in release.objects]
    keys.append(release_key(release.image, release.version))
    try:
        with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
            list(pool.map(desk.store.touch, keys))
            if wait_for_collectors(desk.store):
                list(pool.map(desk.store.touch, keys))
    except MissingError as error:
        raise _incomplete(release, error.key) from error


def _incomplete(release: PublishedRelease, key: str) -> UsageError:
    return UsageError(
        f"{release.image}@{release.version} is not whole in the store: {key} is missing",
        hint=publish_again(release),
    )


def publish_again(release: PublishedRelease) -> str:
    """How what is missing or damaged of *release* comes back."""
    return (
        f"`recast publish {release.image}@{release.version}`, where it was built, uploads what "
        "is missing or damaged."
    )
