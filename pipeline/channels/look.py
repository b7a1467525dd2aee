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
from pipeline.trust import layout

if TYPE_CHECKING:
    from tuf.api.metadata import Timestamp

    from pipeline.trust.client import TrustClient
    from pipeline.trust.repository import Repository
    from pipeline.trust.state import State
    from pipeline.trust.views import Proposal


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
        proposals: what is proposed; what was carried out or cannot be read is missing.
        snapshot: the version of the snapshot that is in force.
        objects: digests of objects that the metadata themselves name.
    """

    pointers: tuple[Pointer, ...]
    proposals: tuple[Proposed, ...]
    snapshot: int
    objects: frozenset[str] = frozenset()


def look(client: TrustClient, repository: Repository) -> View:
    """Read and verify what all channels say, and what is proposed, as it is now.

    A change that is carried out while this reads is seen before it, after it, or both: proposals
    are read before the channels that they would change.

    Raises:
        TrustError: some of it cannot be believed, has run out, or is not whole.
        NetworkError, HostError: the store cannot be read.
    """
    proposals = repository.proposals()
    client.check()
    timestamp = client.metadata().timestamp.signed
    state = repository.load()
    for role, why in {**state.broken, **state.forged}.items():
        raise TrustError(
            f"{why}. What {role} refers to is not known for certain, so nothing can be removed",
            hint=f"`recast channels {role}` and `recast refresh` tell what can be done.",
        )
    return View(
        pointers=tuple(_pointers(client, repository, state)),
        proposals=tuple(_proposed(state, each) for each in proposals),
        snapshot=timestamp.snapshot_meta.version,
        objects=frozenset(_announced(timestamp)),
    )


def _pointers(client: TrustClient, repository: Repository, state: State) -> Iterator[Pointer]:
    """What every channel says, both to machines and to those who wait for the online key."""
    for name in state.channels:
        yield from repository.channel(name).pointers.values()
    for name in client.channels():
        published = client.channel(name)
        for image, target in (published.pointers if published else {}).items():
            yield client.read_pointer(name, image, target)


def _proposed(state: State, proposal: Proposal) -> Proposed:
    """A proposal, stale only if nothing can make it good again.

    Raises:
        TrustError: what it refers to cannot be read.
    """
    tip = state.root if proposal.role == layout.ROOT else state.find(proposal.role)
    overtaken = tip is not None and tip.version > proposal.base
    pointers = tuple(proposal.new.values())
    if proposal.stale and not overtaken and not pointers and proposal.role in state.channels:
        raise unknown_parts(
            f"proposal {proposal.id} for {proposal.role} cannot be used: {proposal.stale}",
            f"`recast proposals {proposal.id} --withdraw` removes it.",
        )
    return Proposed(proposal.role, proposal.id, bool(proposal.stale) and overtaken, pointers)


def _announced(timestamp: Timestamp) -> Iterator[str]:
    """The digest of a new root that is an object until it has a file of its own."""
    told = timestamp.unrecognized_fields.get(layout.ROOT_FIELD)
    sha256 = told.get("sha256") if isinstance(told, dict) else None
    if isinstance(sha256, str):
        yield sha256


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
    """The error for something of which it is not certain what belongs to it."""
    return TrustError(
        f"{text}. What belongs to it is not known for certain, so nothing can be removed",
        hint=hint,
    )
