"""Pointers and published releases of realistic size; every digest derives from names alone."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import cache

from pipeline import digest
from pipeline.models.channel import Wave
from pipeline.models.pointer import (
    Evidence,
    Extent,
    Held,
    Pointer,
    PublishedPart,
    PublishedRelease,
    Revocation,
    Rollout,
    StoredObject,
)
from tests.fakes.stored import MOMENT, make_release

WAVES = (
    Wave(share=0.01, soak=7200.0),
    Wave(share=0.1, soak=86400.0),
    Wave(share=0.5, soak=86400.0),
    Wave(share=1.0),
)

_ENCODINGS: Mapping[str, str] = {"root": "zstd", "uki": "plain", "verity": "zstd", "sbom": "zstd"}


@cache
def make_published(image: str, number: int = 1) -> PublishedRelease:
    """The *number*-th release of an image; an hour lies between one and the next."""
    moment = MOMENT + timedelta(hours=number)
    release = make_release(
        image, commit=digest.of_data([image, number])[:40], moment=moment, parent=None
    )
    parts: dict[str, PublishedPart] = {}
    for role in ("root", "uki", "verity", "disk", "sbom"):
        whole = release.parts.get(role)
        size = whole.size if whole else 210_000
        name = whole.file if whole else f"{release.name}.cdx.json"
        part = PublishedPart(
            file=name, digest=digest.of_data([release.name, role]), size=size, stored=None
        )
        if role == "disk":
            at = 1 << 20
            extents: list[Extent] = [_literal(release.name, "start", 0, at)]
            for inner in ("uki", "root", "verity"):
                extents.append(Extent(offset=at, size=parts[inner].size, part=inner))
                at += parts[inner].size + (8 << 20)
                extents.append(_literal(release.name, f"after {inner}", at - (4 << 20), 4 << 20))
            parts[role] = part.model_copy(update={"extents": tuple(extents)})
        else:
            stored = _stored(release.name, role, size // 2, _ENCODINGS[role])
            parts[role] = part.model_copy(update={"stored": stored})
    evidence = (
        Evidence(kind="provenance", stored=_stored(release.name, "provenance", 5400)),
        Evidence(kind="test", provider="qemu", stored=_stored(release.name, "qemu", 1900)),
        Evidence(kind="test", provider="aws", stored=_stored(release.name, "aws", 1900)),
        Evidence(kind="sbom", stored=_stored(release.name, "sbom-statement", 900)),
    )
    return PublishedRelease(
        image=image,
        version=release.version,
        commit=release.commit,
        created=moment,
        build_key=release.build_key,
        root_hash=digest.of_data([release.name, "root hash"]),
        boot_digest=release.boot_digest,
        manifest=_stored(release.name, "manifest", 61_000),
        parts=parts,
        evidence=evidence,
    )


def make_pointer(
    channel: str,
    image: str,
    number: int = 1,
    *,
    history: int = 0,
    revoked: int = 0,
    frozen: str = "",
) -> Pointer:
    """A pointer to the *number*-th release of an image.

    Args:
        channel: whose.
        image: of what.
        number: which release; 0 for none.
        history: how many earlier releases it tells of; the newest of them is `previous`.
        revoked: how many versions it refuses.
        frozen: why nothing moves.
    """
    release = make_published(image, number) if number else None
    since = MOMENT + timedelta(hours=number, minutes=30)
    return Pointer(
        channel=channel,
        image=image,
        release=release,
        since=since if release else None,
        previous=make_published(image, number - 1) if history else None,
        history=tuple(_held(image, number - back) for back in range(1, history + 1)),
        rollout=_rollout(channel, image, number, since) if release else None,
        revoked=tuple(_revocation(image, number - 1 - back) for back in range(revoked)),
        frozen=frozen,
    )


def _stored(name: str, what: str, size: int, encoding: str = "plain") -> StoredObject:
    return StoredObject.model_validate(
        {"digest": digest.of_data([name, what, "stored"]), "size": size, "encoding": encoding}
    )


def _literal(name: str, what: str, offset: int, size: int) -> Extent:
    return Extent(offset=offset, size=size, stored=_stored(name, what, 4096, "zstd"))


def _held(image: str, number: int) -> Held:
    release = make_published(image, number)
    since = release.created + timedelta(minutes=30)
    return Held(
        version=release.version,
        root_hash=release.root_hash,
        manifest=release.manifest.digest,
        since=since,
        until=since + timedelta(hours=1),
    )


def _revocation(image: str, number: int) -> Revocation:
    release = make_published(image, number)
    return Revocation(
        version=release.version,
        root_hash=release.root_hash,
        reason="CVE-2026-12345: openssl 3.5.1-1 accepts a forged certificate in a default setup",
        when=release.created + timedelta(days=1),
    )


def _rollout(channel: str, image: str, number: int, since: datetime) -> Rollout:
    identity = digest.of_data([channel, image, number, "rollout"])[:16]
    return Rollout(id=identity, waves=WAVES, wave=0, opened=since)
