"""What stays in a store, and why.

Channels keep what they hold, can go back to or are about to hold; whatever is young may be part
of something that is still being written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from pipeline.models.pointer import Held, Pointer, PublishedRelease

ReleaseId = tuple[str, str]
"""Image and version of a release."""

HELD = "held by a channel"
PREVIOUS = "run by machines that a rollout has not reached"
BEFORE = "that a channel can go back to"
PROPOSED = "part of a proposed change"
YOUNG = "younger than the grace period"
REFERRED = "part of a release that stays"
NAMED = "named by the signed metadata"


@dataclass(frozen=True)
class Reference:
    """A release that must stay.

    Attributes:
        image, version: the release.
        root_hash: of its root.
        where: the channel that refers to it.
        why: one of the reasons of this module.
        release: its description, if what refers to it holds that; else the store's has to do.
    """

    image: str
    version: str
    root_hash: str
    where: str
    why: str
    release: PublishedRelease | None = None

    @property
    def id(self) -> ReleaseId:
        """Image and version."""
        return self.image, self.version


def references(
    pointers: Iterable[Pointer], proposed: Iterable[Pointer], keep: int
) -> tuple[Reference, ...]:
    """Every release that channels refer to, the strongest reason of each channel first.

    Args:
        pointers: what all channels say of all images.
        proposed: what they would say if the changes that wait for signatures were made.
        keep: how many earlier releases of an image a channel can go back to. What any channel
            has revoked is none of them: nobody can go back to it.
    """
    signed = tuple(pointers)
    found: list[Reference] = []
    for pointer in signed:
        found += _of_pointer(pointer, keep, signed)
    for pointer in proposed:
        found += [
            Reference(each.image, each.version, each.root_hash, each.where, PROPOSED, each.release)
            for each in _of_pointer(pointer, keep, signed)
        ]
    return tuple(found)


def _of_pointer(pointer: Pointer, keep: int, signed: Iterable[Pointer]) -> Iterator[Reference]:
    for release, why in ((pointer.release, HELD), (pointer.previous, PREVIOUS)):
        if release is not None:
            yield Reference(
                release.image, release.version, release.root_hash, pointer.channel, why, release
            )
    for held in _targets(pointer, keep, signed):
        yield Reference(pointer.image, held.version, held.root_hash, pointer.channel, BEFORE)


def _targets(pointer: Pointer, keep: int, signed: Iterable[Pointer]) -> list[Held]:
    """What a channel can go back to, the newest first."""
    revoking = [other for other in signed if other.image == pointer.image]
    good = [
        held
        for held in pointer.history
        if not any(other.revocation(held.version, held.root_hash) for other in revoking)
    ]
    return good[:keep]


def is_young(modified: datetime, now: datetime, grace: float) -> bool:
    """Is something so young that it may be part of what is still being written?

    Args:
        modified: when it was last written or touched.
        now: the present moment, by the same clock.
        grace: seconds.
    """
    return now - modified < timedelta(seconds=grace)


def keep_releases(
    found: Mapping[ReleaseId, datetime],
    referred: Iterable[Reference],
    *,
    grace: float,
    now: datetime,
) -> dict[ReleaseId, str]:
    """Why each release stays; those that are not in the answer may go.

    Args:
        found: the releases in the store, each with the time of its description.
        referred: what :func:`references` found.
        grace: seconds.
        now: the present moment, by the store's clock.
    """
    why: dict[ReleaseId, str] = {}
    for each in referred:
        if each.id in found:
            why.setdefault(each.id, each.why)
    for name, modified in found.items():
        if is_young(modified, now, grace):
            why.setdefault(name, YOUNG)
    return why


def keep_objects(
    found: Mapping[str, datetime],
    releases: Iterable[PublishedRelease],
    *,
    others: Iterable[str] = (),
    grace: float,
    now: datetime,
) -> dict[str, str]:
    """Why each object stays; those that are not in the answer may go.

    Args:
        found: the objects in the store by digest, each with its time.
        releases: the descriptions of all releases that stay.
        others: digests of objects that are needed for something else.
        grace: seconds.
        now: the present moment, by the store's clock.
    """
    needed = {name for release in releases for name in objects_of(release)}
    why = {name: REFERRED for name in found if name in needed}
    why |= {name: NAMED for name in others if name in found}
    for name, modified in found.items():
        if is_young(modified, now, grace):
            why.setdefault(name, YOUNG)
    return why


def objects_of(release: PublishedRelease) -> frozenset[str]:
    """Digests of the objects that *release* consists of."""
    return frozenset(each.digest for each in release.objects)
