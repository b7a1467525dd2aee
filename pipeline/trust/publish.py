"""Writes what was signed into the store, so that at every instant readers see one whole state.

A change of channels or ``targets``: pointers, then the roles' files, then the snapshot, then the
timestamp in place of the one that was read. Only the last makes it visible, and it fails if
anything was published meanwhile.

A change of the root is visible at once, as the next number. If timestamp, snapshot and
``targets`` as they are would not satisfy the new root, somebody who publishes just then with the
old keys would leave a store that clients refuse. So such a root is announced first, by digest, in
a timestamp that old and new keys have signed; from then on everybody gives that root its name
before anything else.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp

from pipeline import digest
from pipeline.errors import ConflictError, TrustError
from pipeline.store.base import ChangedError, ExistsError, MissingError, Store, object_key
from pipeline.trust import layout
from pipeline.trust.checks import follow, parse
from pipeline.trust.draft import ONLINE_ROLES, Draft, Signers, expires, load_part, sign
from pipeline.trust.history import version_before
from pipeline.trust.routes import (
    accepts_all,
    has_other_keys,
    listed_keys,
    online_refusal,
    require_whole,
)
from pipeline.trust.state import Loaded, State, T, keys_of, verify

if TYPE_CHECKING:
    from pipeline.models.channel import Expiry

TRIES = 32
"""How often a lost race is run again; each loss means that somebody else got through."""

_MAX_STRAY = 1000  # snapshots that were written and never named

NO_ONLINE_KEY = (
    "It is signed, and waits for the online key: machines see it after the next `recast refresh` "
    "where that key is."
)


class LostRaceError(Exception):
    """Somebody else was faster: look again, and decide again."""


@dataclass(frozen=True)
class Publisher:
    """Writes signed metadata.

    Args:
        store: where to.
        keyring: the keys that we can sign with.
        expiry: how long snapshot and timestamp are good for.
        now: the present moment.
        load: reads the newest verified state.
        note: hears of each state that was published.
    """

    store: Store
    keyring: Signers
    expiry: Expiry
    now: Callable[[], datetime]
    load: Callable[[], State]
    note: Callable[[State], None] = lambda _: None

    def settle(self) -> State:
        """The newest state, after publishing what was left half done as far as our keys go."""
        state = self.load()
        if layout.TARGETS in state.forged and not state.reset:
            return state  # to be mended by a change of the online key alone
        return self.publish(state)

    def publish(
        self, state: State, due: Callable[[State], Collection[str]] = lambda _: ()
    ) -> State:
        """Have clients see all of *state*, and what others add meanwhile.

        Args:
            state: what was loaded, with new versions of roles that are in the store.
            due: tells which of snapshot and timestamp must be signed anew in any case.

        Returns:
            The state in the end; something in it is unpublished if the online key is not ours.

        Raises:
            ConflictError: others publish all the time.
        """
        for _ in range(TRIES):
            try:
                state = self._name_root(state)
            except LostRaceError:
                state = self.load()
                continue
            require_whole(state)
            if state.reset:
                state = state.take_rescued()
            if not (state.unpublished or state.stale_online or due(state)):
                return state
            if not self.can_sign_online(state.root.signed):
                return state
            try:
                return self._write_online(state, (state.root.signed,))
            except ChangedError:
                state = self.load()
        raise ConflictError(
            f"{self.store.url} is changed by others all the time: nothing could be published",
            hint="Run it again in a minute; nothing is lost.",
        )

    def _name_root(self, state: State) -> State:
        """Give an announced root its own name.

        Raises:
            LostRaceError: another root came by that name.
        """
        if state.announced is None:
            return state
        self._create(layout.ROOT, state.announced, shared=True)
        return replace(state, announced=None, stale_online=True)

    def carry_out(self, state: State, draft: Draft, *, shared: bool = False) -> tuple[State, bool]:
        """Write what has all its signatures; return the state in the end, and: is it published?

        Args:
            state: the newest.
            draft: what is to become of it.
            shared: others may be carrying out the very same, signed by others of its keys.

        Raises:
            LostRaceError: somebody else has changed the same roles, or who may sign them.
        """
        for key, data in draft.pointers.items():
            self.store.put(key, data, sha256=digest.of_bytes(data))
        if layout.ROOT in draft.parts:
            return self._carry_out_root(state, draft, shared)
        require_whole(state)
        parts = self._create_parts(draft, shared)
        state = self.publish(state.with_parts(parts))
        if not self._includes(state, parts):  # our right to sign is gone, or another was faster
            raise LostRaceError(draft.role)
        return state, not (parts.keys() & state.unpublished.keys())

    def can_sign_online(self, *judges: Root) -> bool:
        """Have we the keys that snapshot and timestamp need, in the eyes of each root?"""
        return all(
            sum(self.keyring.signer(key) is not None for key in keys_of(judge, role))
            >= judge.roles[role].threshold
            for judge in judges
            for role in ONLINE_ROLES
        )

    def _create_parts(self, draft: Draft, shared: bool) -> dict[str, Loaded[Targets]]:
        """Write the roles' files; `targets` last, which makes the set count."""
        parts = {role: load_part(each) for role, each in draft.parts.items() if role != layout.ROOT}
        for role in sorted(parts, key=lambda role: role == layout.TARGETS):
            parts[role] = self._create(role, parts[role], shared)
        return parts

    def _create(self, role: str, loaded: Loaded[T], shared: bool) -> Loaded[T]:
        """Write a new version, or take the same that somebody else has just written.

        Raises:
            LostRaceError: the number is taken by something else.
        """
        key = layout.metadata_key(role, loaded.version)
        try:
            self.store.create(key, loaded.data)
        except ExistsError as error:
            # Two who finish one proposal write the same with signatures in another order, and a
            # request that was sent again finds what it wrote itself.
            there = self._same(key, loaded, shared)
            if there is None:
                raise LostRaceError(key) from error
            return there
        return loaded

    def _same(self, key: str, loaded: Loaded[T], shared: bool) -> Loaded[T] | None:
        """What is stored under *key*, if it is what *loaded* is; else None."""
        try:
            data = self.store.get(key, limit=layout.MAX_TARGETS)
            there = parse(data, type(loaded.signed), key, self.store.url)
        except (MissingError, TrustError):
            return None
        ours = set(loaded.metadata.signatures) <= set(there.metadata.signatures)
        return there if loaded.says_the_same(there.metadata) and (ours or shared) else None

    def includes(self, state: State, draft: Draft) -> bool:
        """Is *draft*, with just these signatures, part of what is in force, or under it?"""
        parts = {role: load_part(part) for role, part in draft.parts.items()}
        root = parts.pop(layout.ROOT, None)
        if root is not None and not self._came_after(state.root, root, shared=False):
            return False
        return self._includes(state, parts)

    def _includes(self, state: State, parts: Mapping[str, Loaded[Targets]]) -> bool:
        for role, part in parts.items():
            tip = state.find(role)
            while tip is not None and tip.version > part.version:
                tip = version_before(self.store, role, tip)
            if tip is None or tip.sha256 != part.sha256:
                return False
        return True

    # --- snapshot and timestamp ---------------------------------------------------------------

    def _write_online(
        self, state: State, judges: Sequence[Root], announce: Loaded[Root] | None = None
    ) -> State:
        """Sign and write the next snapshot and the next timestamp.

        Raises:
            ChangedError: something was published since *state* was read.
        """
        newest = max(state.snapshot.version, state.timestamp.version)
        first = (self.frontier() if state.reset else newest) + 1
        before = state.snapshot.signed
        snapshot = self.make_snapshot(before, state.unpublished, judges, first)
        told: dict[str, Any] = {"version": state.root.version}
        if announce is not None:
            told = {"version": announce.version, "sha256": announce.sha256}
        timestamp = self.make_timestamp(snapshot, judges, told)
        etag = self.store.replace(layout.TIMESTAMP_KEY, timestamp.data, etag=state.etag)
        pending = announce is not None
        state = replace(
            state, snapshot=snapshot, timestamp=timestamp, etag=etag, stale_online=pending
        )
        self.note(state)
        return state

    def frontier(self) -> int:
        """The newest snapshot that honest people have made: before numbers leap.

        A thief of the online key can make any number; nobody needs to leave many out.
        """
        found = (layout.parse_metadata_key(info.key) for info in self.store.list(layout.METADATA))
        numbers = sorted(each[1] for each in found if each and each[0] == layout.SNAPSHOT)
        last = numbers[0] if numbers else 0
        for number in numbers:
            if number > last + _MAX_STRAY:
                break
            last = number
        return last

    def is_worn(self, state: State) -> bool:
        """Have version numbers leapt, as a thief of the online key makes them do?"""
        newest = max(state.snapshot.version, state.timestamp.version)
        return newest > self.frontier() + _MAX_STRAY

    def make_snapshot(
        self,
        before: Snapshot | None,
        roles: Mapping[str, Loaded[Targets]],
        judges: Sequence[Root],
        first: int,
    ) -> Loaded[Snapshot]:
        """Write the next snapshot, which names *roles* in the place of earlier versions.

        Args:
            before: the one that it follows.
            roles: what changes.
            judges: whose keys must sign.
            first: its number, or the first free one after it.
        """
        signed = copy.deepcopy(before) if before else Snapshot(meta={})
        for role, each in roles.items():
            signed.meta[f"{role}.json"] = MetaFile.from_data(each.version, each.data, ["sha256"])
        signed.expires = expires(self.now(), self.expiry.snapshot)
        for number in range(first, first + _MAX_STRAY):
            signed.version = number
            key = layout.metadata_key(layout.SNAPSHOT, number)
            if self.store.find(key) is not None:
                continue
            loaded = self._sign_online(Metadata(signed), layout.SNAPSHOT, judges)
            try:
                self.store.create(key, loaded.data)
            except ExistsError:
                continue
            return loaded
        raise ConflictError(
            f"{self.store.url} holds {_MAX_STRAY} snapshots that nothing names",
            hint=f"Remove those from {layout.metadata_key(layout.SNAPSHOT, first)} on.",
        )

    def make_timestamp(
        self, snapshot: Loaded[Snapshot], judges: Sequence[Root], told: Mapping[str, Any]
    ) -> Loaded[Timestamp]:
        """The timestamp that names *snapshot*; not written yet.

        It has the same number: one that no file keeps could not be found again after a thief of
        the online key has overwritten it.
        """
        signed = Timestamp(
            version=snapshot.version,
            expires=expires(self.now(), self.expiry.timestamp),
            snapshot_meta=MetaFile.from_data(snapshot.version, snapshot.data, ["sha256"]),
            unrecognized_fields={layout.ROOT_FIELD: dict(told)},
        )
        return self._sign_online(Metadata(signed), layout.TIMESTAMP, judges)

    def _sign_online(self, metadata: Metadata[T], role: str, judges: Sequence[Root]) -> Loaded[T]:
        """Sign with every online key that is ours: while one replaces another, both count."""
        metadata.signatures.clear()
        keys = {key.keyid: key for judge in judges for key in keys_of(judge, role)}
        for key in keys.values():
            signer = self.keyring.signer(key)
            if signer is not None:
                sign(metadata, signer)
        for judge in judges:
            result = verify(judge, role, metadata)
            if not result:
                raise TrustError(
                    f"{role} needs the online key {listed_keys(judge, role)}, which is not here"
                )
        return load_part(metadata)

    # --- the root -----------------------------------------------------------------------------

    def _carry_out_root(self, state: State, draft: Draft, shared: bool) -> tuple[State, bool]:
        old, new = state.root, load_part(draft.parts[layout.ROOT])
        follow(old, new.data, layout.metadata_key(layout.ROOT, new.version), self.store.url)
        route = self._route(state, draft, new.signed)
        state = state.with_parts(self._create_parts(draft, shared))
        if route == "announce":
            try:
                state = self._announce(state, new)
            except ChangedError as error:
                raise LostRaceError(layout.TIMESTAMP_KEY) from error
        else:
            self._create(layout.ROOT, new, shared)
            state = replace(state, root=new, stale_online=True)
        state = self.publish(state)
        if not self._came_after(state.root, new, shared):
            raise LostRaceError(layout.metadata_key(layout.ROOT, new.version))
        return state, not (state.stale_online or state.unpublished)

    def _route(self, state: State, draft: Draft, new: Root) -> Literal["plain", "announce"]:
        """How a new root can come into force.

        Raises:
            RefusedError: in no way that clients would accept, with our keys.
            TrustError: the online key must be replaced first.
        """
        old = state.root.signed
        alone = draft.parts.keys() == {layout.ROOT}
        both = self.can_sign_online(old, new)
        # By force, clients refuse the store for a moment: where the old keys are gone, or where
        # they are a thief's as well, who has worn out the numbers that follow each other.
        stolen = has_other_keys(new, old) and (bool(state.forged) or self.is_worn(state))
        lost = draft.lost and (replace(draft, lost=False).missing(state) > 0 or not both)
        if (stolen or lost) and self.can_sign_online(new):
            return "plain"
        require_whole(state)
        if alone and accepts_all(new, old):
            return "plain"
        if both:
            return "announce"
        online: dict[str, Loaded[Any]] = {
            layout.SNAPSHOT: state.snapshot,
            layout.TIMESTAMP: state.timestamp,
        }
        if alone and all(verify(new, role, each.metadata) for role, each in online.items()):
            return "plain"
        raise online_refusal(old, new)

    def _came_after(self, root: Loaded[Root], new: Loaded[Root], shared: bool) -> bool:
        if root.sha256 == new.sha256:
            return True
        key = layout.metadata_key(layout.ROOT, new.version)
        return root.version >= new.version and self._same(key, new, shared) is not None

    def _announce(self, state: State, new: Loaded[Root]) -> State:
        """Have a root in force that old signatures would not satisfy, with no gap for anybody."""
        self.store.put(object_key(new.sha256), new.data, sha256=new.sha256)
        both = (state.root.signed, new.signed)
        state = self._write_online(state, both, announce=new)
        return replace(state, root=new, announced=new)
