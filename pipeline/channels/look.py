"""What a store's signed metadata and descriptions refer to, read so that nothing is overlooked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.channels.published import MAX_DESCRIPTION, parse_description
from pipeline.errors import TrustError
from pipeline.models.pointer import Pointer, PublishedRelease
from pipeline.store.base import MissingError, Store, release_key

if TYPE_CHECKING:
    from pipeline.trust.client import TrustClient
    from pipeline.trust.repository import Repository


@dataclass(frozen=True)
class Proposed:
    """A change that waits for signatures.

    Attributes:
        role, id: the proposal.
        stale: can it never be approved any more?
        pointers: what it would have a channel say.
    """

    role: str
    id: str
    stale: bool
    pointers: tuple[Pointer, ...] = ()


@dataclass(frozen=True)
class View:
    """What a store's signed metadata say, verified.

    Attributes:
        pointers: of every channel, what it says of every image: what machines see, and what is
            signed and not yet published.
        proposals: what is proposed.
        snapshot: the version of the snapshot that is in force.
    """

    pointers: tuple[Pointer, ...]
    proposals: tuple[Proposed, ...]
    snapshot: int


def look(client: TrustClient, repository: Repository) -> View:
    """Read and verify what all channels say, and what is proposed, as it is now.

    A change that is carried out while this reads is seen before it, after it, or both: proposals
    are read before the channels that they would change.

    Raises:
        TrustError: some of it cannot be believed, or has run out.
        NetworkError, HostError: the store cannot be read.
    """
    proposals = tuple(
        Proposed(each.role, each.id, bool(each.stale), tuple(each.new.values()))
        for each in repository.proposals()
    )
    client.check()
    snapshot = client.metadata().timestamp.signed.snapshot_meta.version
    return View(tuple(_pointers(client, repository)), proposals, snapshot)


def _pointers(client: TrustClient, repository: Repository) -> Iterator[Pointer]:
    """What every channel says, both to machines and to those who wait for the online key."""
    for name in client.channels():
        yield from repository.channel(name).pointers.values()
        published = client.channel(name)
        for image, target in (published.pointers if published else {}).items():
            yield client.read_pointer(name, image, target)


def described(store: Store, image: str, version: str) -> PublishedRelease | None:
    """What a store says of a release, if it says nothing that is not understood.

    A key that is not known, be it damaged or of a newer Recast, may name objects.

    Raises:
        TrustError: it cannot be read, or not be understood in full.
        NetworkError, HostError: the store cannot be read.
    """
    key = release_key(image, version)
    try:
        data = store.get(key, limit=MAX_DESCRIPTION)
    except MissingError:
        return None
    release = parse_description(store, image, version, data)
    unknown = _unknown_key(json.loads(data), release.model_dump(mode="json"))
    if unknown:
        raise TrustError(
            f"{key} in {store.url} has a field `{unknown}` that this Recast does not know",
            hint="A newer Recast wrote it, with which `recast gc` works; or it is damaged.",
        )
    return release


def _unknown_key(given: object, known: object) -> str:
    if isinstance(given, dict) and isinstance(known, dict):
        for key, value in given.items():
            found = key if key not in known else _unknown_key(value, known[key])
            if found:
                return str(found)
    if isinstance(given, list) and isinstance(known, list):
        return next(filter(None, map(_unknown_key, given, known)), "")
    return ""


def unknown_parts(text: str, hint: str) -> TrustError:
    return TrustError(
        f"{text}. What belongs to it is not known for certain, so nothing can be removed",
        hint=hint,
    )
