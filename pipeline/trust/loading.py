"""Reads a store's metadata and verifies it: from a trusted root to a :class:`State`.

The rules are TUF's, and each check is python-tuf's own. Unlike a client this accepts metadata
that has run out, for it is here to be renewed, and looks beyond the timestamp for what has been
signed and not published.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tuf.api.exceptions import LengthOrHashMismatchError, RepositoryError, UnsignedMetadataError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp
from tuf.api.serialization import DeserializationError

from pipeline import clock, digest
from pipeline.errors import TrustError, UsageError
from pipeline.store.base import MissingError, Store, object_key
from pipeline.trust import layout
from pipeline.trust.cache import Seen, signing_keys
from pipeline.trust.state import Loaded, State, T, channels_of, verify

_MAX_AHEAD = 1000  # versions of one role that are looked at beyond the published one


@dataclass(frozen=True)
class Anchor:
    """What is trusted before anything was read.

    Attributes:
        root: a trusted root; any version from which the newest can be reached.
        seen: the newest versions that were seen before.
    """

    root: bytes
    seen: Seen


def load(store: Store, anchor: Anchor, now: datetime) -> State:
    """The newest verified state of a store.

    Raises:
        UsageError: the store has no metadata.
        TrustError: something is not what was signed, or is older than what was seen before.
        NetworkError, HostError: the store cannot be read.
    """
    return _Loader(store, anchor, now).load()


def parse(data: bytes, kind: type[T], key: str, where: str) -> Loaded[T]:
    """Read a file; nothing is verified.

    Raises:
        TrustError: it is not metadata of that kind.
    """
    try:
        metadata: Metadata[T] = Metadata.from_bytes(data)
    except (DeserializationError, RepositoryError) as error:
        raise TrustError(f"{key} in {where} cannot be read as signed metadata") from error
    if metadata.signed.type != kind.type:
        raise TrustError(f"{key} in {where} holds {metadata.signed.type}, not {kind.type}")
    return Loaded(data, metadata)


def follow(trusted: Loaded[Root], data: bytes, key: str, where: str) -> Loaded[Root]:
    """The next root after one that is trusted.

    Raises:
        TrustError: it is not the next one, or lacks the signatures of the old or the new keys.
    """
    new = parse(data, Root, key, where)
    if new.version != trusted.version + 1:
        raise TrustError(f"{key} in {where} holds version {new.version} of the root")
    for delegator in (trusted.signed, new.signed):
        _require(delegator, layout.ROOT, new, key, where)
    return new


def _require(
    delegator: Root | Targets, role: str, loaded: Loaded[Any], key: str, where: str
) -> None:
    try:
        delegator.verify_delegate(role, loaded.metadata.signed_bytes, loaded.metadata.signatures)
    except (UnsignedMetadataError, ValueError) as error:
        raise TrustError(
            f"{key} in {where} lacks signatures: {_missing(delegator, role, loaded)}",
            hint="It was signed with other keys, or changed afterwards. Whoever can write to the "
            "store may have done that: compare it with a copy.",
        ) from error


def _missing(delegator: Root | Targets, role: str, loaded: Loaded[Any]) -> str:
    try:
        result = verify(delegator, role, loaded.metadata)
    except ValueError:
        return "nobody may sign it"
    return f"{len(result.signed)} of the {result.threshold} that {role} needs are there"


@dataclass
class _Loader:
    store: Store
    anchor: Anchor
    now: datetime

    def __post_init__(self) -> None:
        self.where = self.store.url
        self.online_keys = ""
        self.notices: list[str] = []
        self.free: dict[str, int] = {}
        self.ahead: dict[str, list[tuple[int, Loaded[Targets] | TrustError]]] = {}

    def load(self) -> State:
        roots = list(self.roots())
        raw, etag = self.read_timestamp()
        key = layout.TIMESTAMP_KEY
        timestamp = parse(raw, Timestamp, key, self.where)
        announced = self.announced(roots[-1], timestamp.signed)
        if announced is not None:
            roots.append(announced)
        self.online_keys = signing_keys(roots[-1].signed)
        fresh = self.require_any(roots, layout.TIMESTAMP, timestamp, key)
        self.require_newer(layout.TIMESTAMP, timestamp.version)
        snapshot = self.snapshot(timestamp.signed)
        key = layout.metadata_key(layout.SNAPSHOT, snapshot.version)
        fresh = self.require_any(roots, layout.SNAPSHOT, snapshot, key) and fresh
        for name, meta in snapshot.signed.meta.items():
            self.require_newer(name.removesuffix(".json"), meta.version)
        told = layout.told_root(timestamp.signed) >= roots[-1].version and announced is None
        targets, channels, broken = self.delegation(roots[-1], snapshot.signed)
        return State(
            store=self.where,
            root=roots[-1],
            announced=announced,
            timestamp=timestamp,
            etag=etag,
            snapshot=snapshot,
            stale_online=not (fresh and told),
            targets=targets,
            channels=channels,
            broken=broken,
            free=dict(self.free),
            notices=tuple(dict.fromkeys(self.notices)),
        )

    def roots(self) -> Iterator[Loaded[Root]]:
        """From the trusted root to the newest."""
        root = parse(self.anchor.root, Root, "the root of trust", "this machine")
        _require(root.signed, layout.ROOT, root, "the root of trust", "this machine")
        yield root
        for _ in range(layout.MAX_ROOT_ROTATIONS):
            key = layout.metadata_key(layout.ROOT, root.version + 1)
            try:
                data = self.store.get(key, limit=layout.MAX_ROOT)
            except MissingError:
                break
            root = follow(root, data, key, self.where)
            yield root
        self.require_newer(layout.ROOT, root.version)

    def read_timestamp(self) -> tuple[bytes, str]:
        try:
            found = self.store.get_changed(layout.TIMESTAMP_KEY, "", limit=layout.MAX_TIMESTAMP)
        except MissingError as error:
            raise UsageError(
                f"{self.where} has no signed metadata, or its making was cut short",
                hint="`recast init` makes it, and goes on where it was cut.",
            ) from error
        assert found is not None  # an empty etag matches nothing
        return found

    def announced(self, root: Loaded[Root], timestamp: Timestamp) -> Loaded[Root] | None:
        """The next root, if the timestamp announces one that has no file yet."""
        told = timestamp.unrecognized_fields.get(layout.ROOT_FIELD)
        sha256 = told.get("sha256", "") if isinstance(told, dict) else ""
        if not sha256 or layout.told_root(timestamp) != root.version + 1:
            return None
        key = object_key(str(sha256))
        try:
            data = self.store.get(key, limit=layout.MAX_ROOT)
            if digest.of_bytes(data) != sha256:
                raise TrustError(f"{key} in {self.where} is damaged")
            return follow(root, data, key, self.where)
        except (MissingError, TrustError, UsageError) as error:
            self.notices.append(f"A new root was announced, and cannot be used: {error}.")
            return None

    def require_any(
        self, roots: list[Loaded[Root]], role: str, loaded: Loaded[Any], key: str
    ) -> bool:
        """Demand the signatures that some root wants; did the newest two have them?

        While a root is changed by somebody who has lost the old online key, for a moment only
        the old root vouches for the timestamp.
        """
        for root in reversed(roots):
            if verify(root.signed, role, loaded.metadata):
                return root is roots[-1]
        _require(roots[-1].signed, role, loaded, key, self.where)
        raise AssertionError(key)

    def require_newer(self, role: str, version: int) -> None:
        """Refuse a step back; under other online keys, versions begin anew."""
        seen = self.anchor.seen
        if role == layout.ROOT:
            known = seen.root
        else:
            known = seen.versions.get(role, 0) if seen.keys == self.online_keys else 0
        if version < known:
            raise TrustError(
                f"{self.where} has version {version} of {role}, and version {known} was there "
                "before: it was set back",
                hint="Bring the newest copy of the store back. Signing on top of an old one "
                "would have every machine refuse it.",
            )

    def snapshot(self, timestamp: Timestamp) -> Loaded[Snapshot]:
        meta = timestamp.snapshot_meta
        key = layout.metadata_key(layout.SNAPSHOT, meta.version)
        snapshot = parse(self.read(key, meta, layout.MAX_SNAPSHOT), Snapshot, key, self.where)
        if snapshot.version != meta.version:
            raise TrustError(f"{key} in {self.where} holds version {snapshot.version}")
        return snapshot

    def read(self, key: str, meta: MetaFile, limit: int) -> bytes:
        try:
            data = self.store.get(key, limit=limit)
            meta.verify_length_and_hashes(data)
        except MissingError as error:
            raise TrustError(
                f"{key} is missing in {self.where}, and signed metadata names it",
                hint="Bring it back from a copy of the store.",
            ) from error
        except LengthOrHashMismatchError as error:
            raise TrustError(
                f"{key} in {self.where} is not the file that was signed: {error}",
                hint="Bring it back from a copy of the store.",
            ) from error
        return data

    def head(self, role: str, snapshot: Snapshot) -> Loaded[Targets] | None:
        """The published version of a role, by the digest in the snapshot; None if there is none.

        Raises:
            TrustError: it is not what the snapshot names.
        """
        meta = snapshot.meta.get(f"{role}.json")
        if meta is None:
            return None
        key = layout.metadata_key(role, meta.version)
        loaded = parse(self.read(key, meta, layout.MAX_TARGETS), Targets, key, self.where)
        if loaded.version != meta.version:
            raise TrustError(f"{key} in {self.where} holds version {loaded.version}")
        return loaded

    def look_ahead(self, role: str, version: int) -> list[tuple[int, Loaded[Targets] | TrustError]]:
        """All files of a role beyond *version*, in order; nothing of them is verified."""
        if role in self.ahead:
            return self.ahead[role]
        found: list[tuple[int, Loaded[Targets] | TrustError]] = []
        for number in range(version + 1, version + _MAX_AHEAD):
            key = layout.metadata_key(role, number)
            try:
                data = self.store.get(key, limit=layout.MAX_TARGETS)
                found.append((number, parse(data, Targets, key, self.where)))
            except MissingError:
                break
            except TrustError as error:
                found.append((number, error))
        self.free[role] = version + len(found) + 1
        self.ahead[role] = found
        return found

    def chain(
        self, delegator: Root | Targets, role: str, head: Loaded[Targets] | None
    ) -> tuple[list[Loaded[Targets]], list[str]]:
        """The versions from *head* on that count, and why others do not."""
        good = [head] if head and verify(delegator, role, head.metadata) else []
        tip, notices = head, []
        for number, each in self.look_ahead(role, head.version if head else 0):
            why = self.objection(delegator, role, tip, number, each)
            if why:
                key = layout.metadata_key(role, number)
                notices.append(f"{key} does not count: {why}. Its number stays unused.")
            elif isinstance(each, Loaded):
                good.append(each)
                tip = each
        return good, notices

    def objection(
        self,
        delegator: Root | Targets,
        role: str,
        tip: Loaded[Targets] | None,
        number: int,
        each: Loaded[Targets] | TrustError,
    ) -> str:
        """Why an unpublished version does not count; empty if it does."""
        if isinstance(each, TrustError):
            return "it cannot be read"
        if each.version != number:
            return f"it says that it is version {each.version}"
        if not verify(delegator, role, each.metadata):
            return _missing(delegator, role, each)
        try:
            state = each.state
        except ValueError:
            return "what it says of its change cannot be read"
        if state is None:
            return "it does not say what it changes"
        before = (tip.version, tip.sha256) if tip else (0, "")
        if (state.previous_version, state.previous) != before:
            return f"it changes another version {state.previous_version} than the one in force"
        if each.signed.is_expired(self.now):
            return f"it has run out on {clock.iso(each.signed.expires)}"
        return ""

    def delegation(
        self, root: Loaded[Root], snapshot: Snapshot
    ) -> tuple[Loaded[Targets], dict[str, Loaded[Targets]], dict[str, str]]:
        """The newest targets whose channels all count, and these."""
        head = self.head(layout.TARGETS, snapshot)
        good, notices = self.chain(root.signed, layout.TARGETS, head)
        if not good:
            key = layout.metadata_key(layout.TARGETS, head.version if head else 1)
            if head is None:
                raise TrustError(f"{key} is not named by the snapshot in {self.where}")
            _require(root.signed, layout.TARGETS, head, key, self.where)
        self.notices += notices
        heads, lost = self.heads(good, snapshot)
        for targets in reversed(good):
            channels, broken, notices = self.under(targets.signed, heads, lost)
            if targets is good[0] or not broken:
                break
            self.notices.append(
                f"{layout.metadata_key(layout.TARGETS, targets.version)} does not count: it "
                f"leaves {', '.join(broken)} without enough signatures. Its number stays unused."
            )
        self.notices += [*notices, *broken.values()]
        return targets, channels, broken

    def heads(
        self, good: list[Loaded[Targets]], snapshot: Snapshot
    ) -> tuple[dict[str, Loaded[Targets] | None], dict[str, str]]:
        """The published version of each channel, and why one cannot be had."""
        heads: dict[str, Loaded[Targets] | None] = {}
        lost: dict[str, str] = {}
        for targets in good:
            for name in channels_of(targets.signed):
                if name in heads or name in lost:
                    continue
                try:
                    heads[name] = self.head(name, snapshot)
                except TrustError as error:
                    lost[name] = error.message
        return heads, lost

    def under(
        self, targets: Targets, heads: Mapping[str, Loaded[Targets] | None], lost: dict[str, str]
    ) -> tuple[dict[str, Loaded[Targets]], dict[str, str], list[str]]:
        """The channels as they stand under *targets*: what counts, what is refused, notices."""
        channels: dict[str, Loaded[Targets]] = {}
        broken = {name: why for name, why in lost.items() if name in channels_of(targets)}
        notices: list[str] = []
        for name in channels_of(targets):
            if name in broken:
                continue
            head = heads[name]
            good, found = self.chain(targets, name, head)
            notices += found
            if good:
                channels[name] = good[-1]
            else:
                key = layout.metadata_key(name, head.version if head else 1)
                why = _missing(targets, name, head) if head else "it is missing"
                broken[name] = f"{key} in {self.where} is refused: {why}"
        return channels, broken, notices
