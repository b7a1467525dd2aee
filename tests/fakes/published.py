"""Published releases that are small, and a store's channels without their signatures."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from pipeline import digest
from pipeline.channels.look import Proposed, View
from pipeline.models.channel import ALL_AT_ONCE
from pipeline.models.pointer import (
    Evidence,
    Extent,
    Held,
    Pointer,
    PublishedPart,
    PublishedRelease,
    Rollout,
    StoredObject,
)
from pipeline.policy.retention import objects_of
from pipeline.store.base import Store, object_key, release_key

IMAGE = "edge-web"
T0 = datetime(2026, 3, 1, tzinfo=UTC)


def body(name: str) -> bytes:
    """The bytes of the object that is called *name* here."""
    return f"the bytes of {name}\n".encode()


def stored(name: str) -> StoredObject:
    data = body(name)
    return StoredObject(digest=digest.of_bytes(data), size=len(data))


def bodies(names: Iterable[str]) -> dict[str, bytes]:
    """The bytes of objects by their digests."""
    return {digest.of_bytes(body(name)): body(name) for name in names}


def names_of(number: int) -> list[str]:
    """What the *number*th release consists of; each two after each other share their root."""
    return [
        f"manifest {number}",
        f"root {number // 2}",
        f"uki {number}",
        f"head of disk {number}",
        f"test {number}",
        "an ESP that never changes",
    ]


def published(number: int, image: str = IMAGE) -> PublishedRelease:
    """The *number*th release of an image."""
    manifest, root, uki, head, test, esp = names_of(number)
    created = T0 + timedelta(hours=number)
    part = PublishedPart(file="f", digest="0" * 64, size=7)
    return PublishedRelease(
        image=image,
        version=f"{created:%Y%m%d.%H%M%S}.g{number:012x}",
        commit=f"{number:040x}",
        created=created,
        build_key="k",
        root_hash=f"{number:064x}",
        boot_digest="b",
        manifest=stored(manifest),
        parts={
            "root": part.model_copy(update={"stored": stored(root)}),
            "uki": part.model_copy(update={"stored": stored(uki)}),
            "disk": part.model_copy(
                update={
                    "extents": (
                        Extent(offset=0, size=1, stored=stored(head)),
                        Extent(offset=1, size=1, stored=stored(esp)),
                        Extent(offset=2, size=5, part="root"),
                    )
                }
            ),
        },
        evidence=(Evidence(kind="test", provider="qemu", stored=stored(test)),),
    )


def description(release: PublishedRelease) -> bytes:
    return release.model_dump_json(indent=1, exclude_defaults=True).encode()


def put_release(store: Store, number: int, image: str = IMAGE) -> PublishedRelease:
    """Publish the *number*th release the simple way."""
    for sha256, data in bodies(names_of(number)).items():
        store.put(object_key(sha256), data, sha256=sha256)
    release = published(number, image)
    store.create(release_key(image, release.version), description(release))
    return release


def keys_of(release: PublishedRelease) -> set[str]:
    """The keys of a release's objects and of its description."""
    return {
        release_key(release.image, release.version),
        *(object_key(name) for name in objects_of(release)),
    }


def held(release: PublishedRelease) -> Held:
    return Held(
        version=release.version, root_hash=release.root_hash, since=T0, until=T0 + timedelta(1)
    )


def pointer(
    channel: str,
    release: PublishedRelease | None,
    *,
    previous: PublishedRelease | None = None,
    history: Iterable[PublishedRelease] = (),
    image: str = IMAGE,
) -> Pointer:
    rollout = Rollout(id="01234567", waves=ALL_AT_ONCE, wave=0, opened=T0)
    return Pointer(
        channel=channel,
        image=image,
        release=release,
        since=T0 if release else None,
        previous=previous,
        history=tuple(held(each) for each in history),
        rollout=rollout if release else None,
    )


def view(*pointers: Pointer, proposals: Iterable[Proposed] = (), snapshot: int = 1) -> View:
    return View(tuple(pointers), tuple(proposals), snapshot)
