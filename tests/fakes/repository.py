"""A whole signed store, made by hand: metadata of channels and images, and all keys within reach.

It keeps the rules of :mod:`pipeline.trust.layout` when it is asked honestly, and its keys are at
hand to break every one of them, as an attacker would who has stolen one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Role,
    Root,
    Signed,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.ngclient._internal import trusted_metadata_set

from pipeline import clock, digest
from pipeline.files import write_atomically
from pipeline.models.pointer import ChannelState, Event, Pointer
from pipeline.trust import layout
from tests.fakes.pointers import make_pointer
from tests.fakes.store import MemoryStore

CHANNELS = ("dev", "candidate", "stable")
IMAGES = ("edge-web", "edge-db")
EXPIRY = {
    layout.ROOT: timedelta(days=365),
    layout.TARGETS: timedelta(days=365),
    layout.SNAPSHOT: timedelta(days=14),
    layout.TIMESTAMP: timedelta(days=7),
}
CHANNEL_EXPIRY = timedelta(days=180)

_ONLINE = (layout.SNAPSHOT, layout.TIMESTAMP)


def travel(monkeypatch: pytest.MonkeyPatch, moment: datetime) -> None:
    """Let *moment* be the present for what verifies metadata."""

    class Moment(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return moment.astimezone(tz)

    monkeypatch.setattr(clock, "now", lambda: moment)
    # TUF's client knows no other clock than the machine's.
    module = SimpleNamespace(datetime=Moment, timezone=timezone)
    monkeypatch.setattr(trusted_metadata_set, "datetime", module)


class SignedStore:
    """A store with signed metadata, and everything that it was signed with.

    Keys are called ``root-1``, ``root-2``, ``targets-1``, ``targets-2``, ``online``, ``builder``,
    ``tester`` and, for each channel, ``<channel>-1`` … as many as it needs approvals.

    Args:
        channels: names, in order.
        images: each channel gets a pointer for each.
        approvals: threshold by channel; 1 where not given.
        moment: the time at which everything is signed; changing it later is like waiting.
        store: where to; one in memory if not given.
        hashes: does metadata name other metadata by digest, or by version alone? TUF allows both.

    Attributes:
        root: version 1 of the root, which machines have pinned.
        roles: the newest metadata by role, not yet signed again.
        signers: private keys by name.
    """

    def __init__(
        self,
        channels: Sequence[str] = CHANNELS,
        images: Sequence[str] = IMAGES,
        *,
        approvals: Mapping[str, int] | None = None,
        moment: datetime | None = None,
        store: MemoryStore | None = None,
        hashes: bool = True,
    ) -> None:
        self.store = store or MemoryStore()
        self.hashes = hashes
        self.moment = moment or datetime.now(UTC).replace(microsecond=0)
        self.signers: dict[str, CryptoSigner] = {}
        self.roles: dict[str, Signed] = {}
        self.root = self._make_root()
        approvals = approvals or {}
        self._make_targets({name: approvals.get(name, 1) for name in channels})
        for channel in channels:
            pointers = {image: make_pointer(channel, image) for image in images}
            self._make_channel(channel, pointers)
        self.roles[layout.SNAPSHOT] = Snapshot()
        self.roles[layout.TIMESTAMP] = Timestamp()
        self.vouch(*channels, layout.TARGETS, first=True)

    # What honest people do.

    def change(
        self,
        channel: str,
        *pointers: Pointer,
        action: str = "promote",
        by: Iterable[str] | None = None,
    ) -> int:
        """Sign a new version of *channel* with these pointers; returns its number."""
        before = self.store.get(self.key_of(channel), limit=layout.MAX_TARGETS)
        role = self.targets(channel)
        previous, role.version = role.version, role.version + 1
        for pointer in pointers:
            self.point(role, pointer)
        event = Event(action=action, at=self.moment, image="".join(p.image for p in pointers[:1]))
        self.state(role, event, digest.of_bytes(before), previous)
        self.write(channel, by=by)
        self.vouch(channel)
        return role.version

    def refresh(self) -> None:
        """Sign snapshot and timestamp anew."""
        self.vouch()

    def change_role(self, role: str, edit: Callable[[Targets], None]) -> None:
        """Sign a new version of `targets`, or of a channel without a word on why."""
        signed = self.targets(role)
        signed.version += 1
        edit(signed)
        self.write(role)
        self.vouch(role)

    def change_root(self, edit: Callable[[Root], None]) -> None:
        """Sign a new version of the root, with the keys of the old one and its own."""
        root = self.roles[layout.ROOT]
        assert isinstance(root, Root)
        old = self.names(layout.ROOT)
        root.version += 1
        edit(root)
        self.write(layout.ROOT, by=dict.fromkeys([*old, *self.names(layout.ROOT)]))

    def replace_key(self, role: str, name: str) -> CryptoSigner:
        """Give a role of the root (or both online ones) the one new key *name*; sign all anew."""
        signer = self.make_key(name)
        roles = _ONLINE if role == layout.ONLINE else (role,)

        def edit(root: Root) -> None:
            for each in roles:
                for keyid in list(root.roles[each].keyids):
                    root.revoke_key(keyid, each)
                root.roles[each].threshold = 1
                root.add_key(signer.public_key, each)

        self.change_root(edit)
        return signer

    def write_to(self, folder: Path) -> None:
        """Copy the store into a folder, as a mirror does."""
        for key, data in self.store.snapshot().items():
            write_atomically(folder / key, data)

    # What it is made of; an attacker uses these.

    def make_key(self, name: str) -> CryptoSigner:
        """A new key under a name."""
        private = Ed25519PrivateKey.generate()
        public = SSlibKey.from_crypto(private.public_key())
        public.unrecognized_fields[layout.NAME_FIELD] = name
        self.signers[name] = CryptoSigner(private, public)
        return self.signers[name]

    def names(self, role: str) -> list[str]:
        """The names of a role's keys."""
        keyids = set(self._role(role).keyids)
        return [name for name, s in self.signers.items() if s.public_key.keyid in keyids]

    def targets(self, role: str) -> Targets:
        """The newest metadata of `targets` or of a channel; changing it changes what is next."""
        signed = self.roles[role]
        assert isinstance(signed, Targets)
        return signed

    @property
    def snapshot(self) -> Snapshot:
        signed = self.roles[layout.SNAPSHOT]
        assert isinstance(signed, Snapshot)
        return signed

    @property
    def timestamp(self) -> Timestamp:
        signed = self.roles[layout.TIMESTAMP]
        assert isinstance(signed, Timestamp)
        return signed

    def key_of(self, role: str) -> str:
        """Where the newest metadata of a role is."""
        return layout.metadata_key(role, self.roles[role].version)

    def sign(self, signed: Signed, by: Iterable[str]) -> bytes:
        """A metadata file, signed with these keys."""
        metadata: Metadata[Signed] = Metadata(copy.deepcopy(signed))  # type: ignore[type-var]
        for name in by:
            metadata.sign(self.signers[name], append=True)
        return metadata.to_bytes()

    def write(self, role: str, by: Iterable[str] | None = None) -> bytes:
        """Sign a role's newest metadata and put it in its place, whatever is there."""
        signed = self.roles[role]
        signed.expires = self.moment + EXPIRY.get(role, CHANNEL_EXPIRY)
        data = self.sign(signed, self.names(role) if by is None else by)
        self.store.corrupt(self.key_of(role), data)
        return data

    def point(self, role: Targets, pointer: Pointer, path: str = "") -> TargetFile:
        """Store a pointer, and name it in *role*: at *path* if that is not its own place."""
        data = layout.pointer_bytes(pointer)
        path = path or layout.pointer_path(pointer.channel, pointer.image)
        target = TargetFile.from_data(path, data, ["sha256"])
        role.targets[path] = target
        self.store.corrupt(layout.POINTERS + target.get_prefixed_paths()[0], data)
        return target

    def state(
        self, role: Targets, event: Event, previous: str = "", previous_version: int = 0
    ) -> None:
        """Set what a channel says of its last change."""
        state = ChannelState(event=event, previous=previous, previous_version=previous_version)
        role.unrecognized_fields[layout.STATE_FIELD] = state.model_dump(mode="json")

    def vouch(self, *roles: str, first: bool = False) -> None:
        """Put the newest version of *roles* into a new snapshot, and that into the timestamp."""
        snapshot, timestamp = self.snapshot, self.timestamp
        if not first:
            snapshot.version += 1
            timestamp.version += 1
        for role in roles:
            data = self.store.get(self.key_of(role), limit=layout.MAX_TARGETS)
            snapshot.meta[f"{role}.json"] = self.name(self.roles[role].version, data)
        data = self.write(layout.SNAPSHOT)
        timestamp.snapshot_meta = self.name(snapshot.version, data)
        self.write(layout.TIMESTAMP)

    def name(self, version: int, data: bytes) -> MetaFile:
        """How metadata names the file with these bytes."""
        return MetaFile.from_data(version, data, ["sha256"]) if self.hashes else MetaFile(version)

    def _role(self, role: str) -> Role:
        root = self.roles[layout.ROOT]
        assert isinstance(root, Root)
        if role in root.roles:
            return root.roles[role]
        delegations = self.targets(layout.TARGETS).delegations
        assert delegations is not None
        assert delegations.roles is not None
        return delegations.roles[role]

    def _make_root(self) -> bytes:
        root = Root(consistent_snapshot=True)
        self.roles[layout.ROOT] = root
        for name, role in (
            ("root-1", layout.ROOT),
            ("root-2", layout.ROOT),
            ("targets-1", layout.TARGETS),
            ("targets-2", layout.TARGETS),
        ):
            root.add_key(self.make_key(name).public_key, role)
            root.roles[role].threshold = len(root.roles[role].keyids)
        online = self.make_key(layout.ONLINE)
        for role in _ONLINE:
            root.add_key(online.public_key, role)
        return self.write(layout.ROOT)

    def _make_targets(self, approvals: Mapping[str, int]) -> None:
        delegations = Delegations({}, {})
        assert delegations.roles is not None
        targets = Targets(delegations=delegations)
        self.roles[layout.TARGETS] = targets
        for name, threshold in approvals.items():
            delegations.roles[name] = DelegatedRole(
                name, [], threshold, True, layout.channel_paths(name)
            )
            for number in range(1, threshold + 1):
                targets.add_key(self.make_key(f"{name}-{number}").public_key, name)
        for name in layout.ATTESTERS:
            delegations.roles[name] = DelegatedRole(name, [], 1, True, [])
            targets.add_key(self.make_key(name).public_key, name)
        self.write(layout.TARGETS)

    def _make_channel(self, channel: str, pointers: Mapping[str, Pointer]) -> None:
        role = Targets()
        self.roles[channel] = role
        for pointer in pointers.values():
            self.point(role, pointer)
        self.state(role, Event(action="init", at=self.moment))
        self.write(channel)
