"""What a store's metadata says, verified, with what is signed and not yet published.

A reader of a store (:mod:`pipeline.trust.client`) sees what the timestamp names. Whoever changes
a store must also see what lies beyond it: versions of roles that engineers have signed and that
wait for the online key, or whose publishing was cut. Such a version counts if it carries the
signatures that its role needs, has not run out, and names by digest the version that it changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Generic, TypeVar

from securesystemslib.signer import Key
from tuf.api.metadata import (
    DelegatedRole,
    Metadata,
    Root,
    Snapshot,
    Targets,
    Timestamp,
    VerificationResult,
)

from pipeline import digest
from pipeline.errors import TrustError
from pipeline.models.pointer import ChannelState
from pipeline.trust import layout

T = TypeVar("T", Root, Timestamp, Snapshot, Targets)


@dataclass(frozen=True)
class Loaded(Generic[T]):
    """One version of a role's metadata: its file, and what that says."""

    data: bytes
    metadata: Metadata[T]

    @property
    def signed(self) -> T:
        """What is signed."""
        return self.metadata.signed

    @property
    def version(self) -> int:
        """The number of this version."""
        return self.metadata.signed.version

    @cached_property
    def sha256(self) -> str:
        """Digest of the file."""
        return digest.of_bytes(self.data)

    @cached_property
    def state(self) -> ChannelState | None:
        """What it says of its last change.

        Raises:
            ValueError: that is not what it must be.
        """
        return layout.channel_state(self.metadata.signed)

    def says_the_same(self, other: Metadata[Any]) -> bool:
        """Is *other* the same version, whoever has signed it?"""
        return self.metadata.signed_bytes == other.signed_bytes


def delegated(targets: Targets) -> Mapping[str, DelegatedRole]:
    """What ``targets`` delegates: channels and attesters, by name, in order."""
    return (targets.delegations.roles or {}) if targets.delegations else {}


def channels_of(targets: Targets) -> tuple[str, ...]:
    """The names of the channels that ``targets`` delegates, in order."""
    roles = delegated(targets).items()
    return tuple(name for name, role in roles if role.paths == layout.channel_paths(name))


def keys_of(delegator: Root | Targets, role: str) -> tuple[Key, ...]:
    """The keys that may sign *role*, in the order in which its delegator lists them.

    Raises:
        ValueError: there is no such role.
    """
    keyids = delegator.get_delegated_role(role).keyids
    known = delegator.keys if isinstance(delegator, Root) else _delegation_keys(delegator)
    return tuple(known[keyid] for keyid in keyids if keyid in known)


def _delegation_keys(targets: Targets) -> Mapping[str, Key]:
    return targets.delegations.keys if targets.delegations else {}


def names(keys: Iterator[Key] | tuple[Key, ...]) -> tuple[str, ...]:
    """The names of keys."""
    return tuple(layout.key_name(key) for key in keys)


def verify(delegator: Root | Targets, role: str, metadata: Metadata[Any]) -> VerificationResult:
    """Whose signatures of *metadata* count, and whose are missing."""
    return delegator.get_verification_result(role, metadata.signed_bytes, metadata.signatures)


@dataclass(frozen=True)
class State:
    """The newest verified metadata of a store.

    Attributes:
        store: where it is, for messages.
        root: the newest, *announced* included.
        announced: a root that the timestamp announces and that has no file yet; whoever comes
            upon it makes the file. None if there is none.
        timestamp: what clients see of the store, as is *snapshot*.
        etag: of the timestamp.
        stale_online: timestamp or snapshot do not carry what the newest root demands, or the
            timestamp does not tell clients of the newest root: they must be signed anew.
        targets: the newest that counts, as are *channels*, by name.
        broken: channels whose metadata is refused, and why.
        forged: roles of which the snapshot names a version that is not in the store as it was
            signed, and why; ``targets`` and *rescued* hold the newest that is.
        rescued: the newest signed versions of channels that are in *forged*.
        free: by role, the number of its next version.
        notices: sentences that a person should read.
    """

    store: str
    root: Loaded[Root]
    announced: Loaded[Root] | None
    timestamp: Loaded[Timestamp]
    etag: str
    snapshot: Loaded[Snapshot]
    stale_online: bool
    targets: Loaded[Targets]
    channels: Mapping[str, Loaded[Targets]]
    broken: Mapping[str, str] = field(default_factory=dict)
    forged: Mapping[str, str] = field(default_factory=dict)
    rescued: Mapping[str, Loaded[Targets]] = field(default_factory=dict)
    free: Mapping[str, int] = field(default_factory=dict)
    notices: tuple[str, ...] = ()

    @property
    def reset(self) -> bool:
        """Is there a new online key that has signed nothing yet, so that versions can go back?

        Clients forget the versions of timestamp and snapshot that other keys have signed.
        """
        root = self.root.signed
        return not (
            verify(root, layout.TIMESTAMP, self.timestamp.metadata).signed
            or verify(root, layout.SNAPSHOT, self.snapshot.metadata).signed
        )

    def take_rescued(self) -> State:
        """This state with what is in the store in place of what the snapshot claims."""
        broken = {role: why for role, why in self.broken.items() if role not in self.rescued}
        return replace(
            self, channels={**self.channels, **self.rescued}, broken=broken, forged={}, rescued={}
        )

    @property
    def published(self) -> Mapping[str, int]:
        """The version of each role that clients see."""
        return {
            name.removesuffix(".json"): meta.version
            for name, meta in self.snapshot.signed.meta.items()
        }

    @property
    def unpublished(self) -> Mapping[str, Loaded[Targets]]:
        """The roles that are newer than what clients see."""
        seen = self.published
        newest = {layout.TARGETS: self.targets, **self.channels}
        return {role: each for role, each in newest.items() if seen.get(role) != each.version}

    def find(self, role: str) -> Loaded[Targets] | None:
        """The newest version of ``targets`` or of a channel; None if there is none."""
        return self.targets if role == layout.TARGETS else self.channels.get(role)

    def get(self, role: str) -> Loaded[Targets]:
        """The newest version of ``targets`` or of a channel.

        Raises:
            TrustError: it is refused.
        """
        found = self.find(role)
        if found is None:
            raise TrustError(
                self.broken.get(role, f"channel {role} in {self.store} has no metadata"),
                hint="Those who hold its keys and the key of `targets` can put it right.",
            )
        return found

    def delegator(self, role: str) -> Root | Targets:
        """Who says which keys may sign *role*."""
        top = (layout.ROOT, layout.TARGETS, layout.SNAPSHOT, layout.TIMESTAMP)
        return self.root.signed if role in top else self.targets.signed

    def keys(self, role: str) -> tuple[Key, ...]:
        """The keys that may sign *role*."""
        return keys_of(self.delegator(role), role)

    def signers(self, role: str) -> tuple[str, ...]:
        """The names of the keys that have signed the newest version of *role*."""
        loaded: Loaded[Any] = self.root if role == layout.ROOT else self.get(role)
        result = verify(self.delegator(role), role, loaded.metadata)
        return tuple(name for name in names(self.keys(role)) if name in _signed(result))

    def with_parts(self, parts: Mapping[str, Loaded[Targets]]) -> State:
        """This state, with newer versions of some roles."""
        channels = {role: part for role, part in parts.items() if role != layout.TARGETS}
        return replace(
            self,
            targets=parts.get(layout.TARGETS, self.targets),
            channels={**self.channels, **channels},
            broken={role: why for role, why in self.broken.items() if role not in parts},
        )


def _signed(result: VerificationResult) -> tuple[str, ...]:
    return tuple(layout.key_name(key) for key in result.signed.values())
