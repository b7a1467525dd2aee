"""Verified metadata of a store, as values; and reading them back from what TUF's client keeps."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from securesystemslib.signer import Key
from tuf.api.exceptions import (
    BadVersionNumberError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    RepositoryError,
)
from tuf.api.metadata import (
    DelegatedRole,
    Metadata,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from pipeline.models.pointer import ChannelState
from pipeline.trust import layout

T = TypeVar("T", Root, Timestamp, Snapshot, Targets)


@dataclass(frozen=True)
class TrustedMetadata:
    """The verified state of a store but for its channels, all of one snapshot.

    Attributes:
        root: the metadata, as are *timestamp*, *snapshot* and *targets*.
        files: their bytes as they are in the store, by role.
    """

    root: Metadata[Root]
    timestamp: Metadata[Timestamp]
    snapshot: Metadata[Snapshot]
    targets: Metadata[Targets]
    files: Mapping[str, bytes]

    @property
    def delegated(self) -> Mapping[str, DelegatedRole]:
        """What `targets` delegates: channels and attesters, by name, in order."""
        delegations = self.targets.signed.delegations
        return (delegations.roles or {}) if delegations else {}

    @property
    def keys(self) -> Mapping[str, Key]:
        """The keys of what `targets` delegates, by id."""
        delegations = self.targets.signed.delegations
        return delegations.keys if delegations else {}

    @property
    def channels(self) -> tuple[str, ...]:
        """The names of all channels, in order."""
        roles = self.delegated.items()
        return tuple(name for name, role in roles if role.paths == layout.channel_paths(name))

    @property
    def versions(self) -> dict[str, int]:
        """The versions that the online key vouches for, by role."""
        named = {
            name.removesuffix(".json"): meta.version
            for name, meta in self.snapshot.signed.meta.items()
        }
        return {
            layout.TIMESTAMP: self.timestamp.signed.version,
            layout.SNAPSHOT: self.snapshot.signed.version,
            **named,
        }

    def good(self, now: datetime) -> bool:
        """Is it still good without a look at the store's other files?

        It is if nothing has run out, and the timestamp tells of no newer root.
        """
        parts: tuple[Root | Timestamp | Snapshot | Targets, ...] = (
            self.root.signed,
            self.timestamp.signed,
            self.snapshot.signed,
            self.targets.signed,
        )
        newest = layout.told_root(self.timestamp.signed) <= self.root.signed.version
        return newest and not any(signed.is_expired(now) for signed in parts)


@dataclass(frozen=True)
class TrustedChannel:
    """A channel, as its verified metadata has it.

    Attributes:
        name: the channel's name.
        version: of its metadata.
        expires: when that runs out.
        state: what its last change was; None if it does not say, or a newer Recast has said it
            in words of its own. A machine needs the pointers alone.
        pointers: by image, length and digest of the pointer.
        signers: names of the keys that have signed this version.
        threshold: how many must.
        metadata: all of it.
        data: the file's bytes, as they are in the store.
    """

    name: str
    version: int
    expires: datetime
    state: ChannelState | None
    pointers: Mapping[str, TargetFile]
    signers: tuple[str, ...]
    threshold: int
    metadata: Metadata[Targets]
    data: bytes


@dataclass(frozen=True)
class RoleStatus:
    """How a role stands.

    Attributes:
        name: the role's name.
        version: of its metadata; 0 if it has none: attesters have keys alone.
        expires: when it runs out; None if it has none, or it could not be verified.
        threshold: how many of its keys must sign.
        keys: the names of its keys.
        problem: why it is refused; empty if it is not.
    """

    name: str
    version: int
    expires: datetime | None
    threshold: int
    keys: tuple[str, ...]
    problem: str = ""


def read_metadata(files: Mapping[str, bytes]) -> TrustedMetadata:
    """The state that TUF's client has just verified and kept.

    It is verified once more, the root aside: the client does not give out what it holds.

    Args:
        files: by role, the bytes of root, timestamp, snapshot and targets.

    Raises:
        RepositoryError: they are not what the client left.
    """
    root: Metadata[Root] = Metadata.from_bytes(files[layout.ROOT])
    timestamp: Metadata[Timestamp] = Metadata.from_bytes(files[layout.TIMESTAMP])
    snapshot: Metadata[Snapshot] = Metadata.from_bytes(files[layout.SNAPSHOT])
    targets: Metadata[Targets] = Metadata.from_bytes(files[layout.TARGETS])
    _verify(root.signed, layout.TIMESTAMP, timestamp)
    _verify(root.signed, layout.SNAPSHOT, snapshot)
    _verify(root.signed, layout.TARGETS, targets)
    trusted = TrustedMetadata(root, timestamp, snapshot, targets, files)
    named = trusted.timestamp.signed.snapshot_meta.version
    if trusted.snapshot.signed.version != named:
        raise BadVersionNumberError(f"snapshot {trusted.snapshot.signed.version} is not {named}")
    _require_version(layout.TARGETS, trusted.targets.signed, trusted)
    return trusted


def read_channel(name: str, data: bytes, trusted: TrustedMetadata, now: datetime) -> TrustedChannel:
    """A channel that TUF's client has just verified and kept, verified once more.

    Raises:
        RepositoryError: it is not what the client left.
    """
    metadata: Metadata[Targets] = Metadata.from_bytes(data)
    signed, role = metadata.signed, trusted.delegated[name]
    meta = trusted.snapshot.signed.meta[f"{name}.json"]
    meta.verify_length_and_hashes(data)
    _verify(trusted.targets.signed, name, metadata)
    _require_version(name, signed, trusted)
    if signed.is_expired(now):
        raise ExpiredMetadataError(f"{name} is expired")
    result = trusted.targets.signed.get_verification_result(
        name, metadata.signed_bytes, metadata.signatures
    )
    state = None
    with contextlib.suppress(ValueError):
        state = layout.channel_state(signed)
    return TrustedChannel(
        name=name,
        version=signed.version,
        expires=signed.expires,
        state=state,
        pointers=dict(_pointers(name, signed)),
        signers=names_of(trusted.keys, result.signed),
        threshold=role.threshold,
        metadata=metadata,
        data=data,
    )


def names_of(keys: Mapping[str, Key], keyids: Iterable[str]) -> tuple[str, ...]:
    """The names of keys, sorted."""
    return tuple(sorted(layout.key_name(keys[keyid]) for keyid in keyids if keyid in keys))


def role_status(trusted: TrustedMetadata, role: str) -> RoleStatus:
    """How a role stands, a channel's expiry aside."""
    root = trusted.root.signed
    top: dict[str, Root | Timestamp | Snapshot | Targets] = {
        layout.ROOT: root,
        layout.TARGETS: trusted.targets.signed,
        layout.SNAPSHOT: trusted.snapshot.signed,
        layout.TIMESTAMP: trusted.timestamp.signed,
    }
    if role in top:
        names, signed = root.roles[role], top[role]
        keys = names_of(root.keys, names.keyids)
        return RoleStatus(role, signed.version, signed.expires, names.threshold, keys)
    delegated = trusted.delegated[role]
    keys = names_of(trusted.keys, delegated.keyids)
    version = trusted.versions.get(role, 0)
    return RoleStatus(role, version, None, delegated.threshold, keys)


def _pointers(name: str, signed: Targets) -> Iterable[tuple[str, TargetFile]]:
    """What a channel says of its own images; what it says of anything else is not its to say."""
    for path, target in signed.targets.items():
        try:
            channel, image = layout.parse_pointer_path(path)
        except ValueError:
            continue
        if channel == name:
            yield image, target


def _verify(delegator: Root | Targets, role: str, metadata: Metadata[T]) -> None:
    kind = role if isinstance(delegator, Root) else Targets.type
    if metadata.signed.type != kind:
        raise RepositoryError(f"expected {kind}, got {metadata.signed.type}")
    delegator.verify_delegate(role, metadata.signed_bytes, metadata.signatures)


def _require_version(name: str, signed: Targets, trusted: TrustedMetadata) -> None:
    named = trusted.snapshot.signed.meta[f"{name}.json"].version
    if signed.version != named:
        raise LengthOrHashMismatchError(f"{name} {signed.version} is not {named}")
