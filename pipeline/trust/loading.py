"""Reads a store's metadata and verifies it: from a trusted root to a :class:`State`.

The rules are TUF's, and each check is python-tuf's own. Unlike a client this accepts metadata
that has run out, for it is here to be renewed, and looks beyond the timestamp for what has been
signed and not published.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tuf.api.metadata import Root, Snapshot, Timestamp

from pipeline import digest
from pipeline.errors import TrustError, UsageError
from pipeline.store.base import MissingError, Store, object_key
from pipeline.trust import layout
from pipeline.trust.cache import Seen, signing_keys
from pipeline.trust.checks import follow, parse, read_named, require
from pipeline.trust.roles import RoleLoader
from pipeline.trust.state import Loaded, State, verify


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


@dataclass
class _Loader:
    store: Store
    anchor: Anchor
    now: datetime

    def __post_init__(self) -> None:
        self.where = self.store.url
        self.online_keys = ""
        self.notices: list[str] = []

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
        roles = RoleLoader(self.store, roots[-1].signed, snapshot.signed, self.now, self.notices)
        targets, channels, broken = roles.load()
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
            forged=roles.forged,
            rescued=roles.rescued,
            free=roles.free,
            notices=tuple(dict.fromkeys(self.notices)),
        )

    def roots(self) -> Iterator[Loaded[Root]]:
        """From the trusted root to the newest."""
        root = parse(self.anchor.root, Root, "the root of trust", "this machine")
        require(root.signed, layout.ROOT, root, "the root of trust", "this machine")
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
        """Demand the signatures that some root wants; is that the newest?

        While a root is changed by somebody who has lost the old online key, for a moment only
        the old root vouches for the timestamp.
        """
        for root in reversed(roots):
            if verify(root.signed, role, loaded.metadata):
                return root is roots[-1]
        require(roots[-1].signed, role, loaded, key, self.where)
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
        snapshot = parse(
            read_named(self.store, key, meta, layout.MAX_SNAPSHOT), Snapshot, key, self.where
        )
        if snapshot.version != meta.version:
            raise TrustError(f"{key} in {self.where} holds version {snapshot.version}")
        return snapshot
