"""The first metadata of a store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import DelegatedRole, Delegations, Metadata, Role, Root, Targets

from pipeline.errors import TrustError, UsageError
from pipeline.models.pointer import Event
from pipeline.store.base import ChangedError, ExistsError, MissingError, Store
from pipeline.trust import layout
from pipeline.trust.cache import Seen
from pipeline.trust.checks import parse
from pipeline.trust.describe import count, listed
from pipeline.trust.draft import Signers, dump_state, expires, load_part, sign
from pipeline.trust.loading import Anchor, load
from pipeline.trust.publish import Publisher
from pipeline.trust.state import Loaded, T, names, verify

if TYPE_CHECKING:
    from pipeline.models.channel import Channels
    from pipeline.trust.views import RoleKeys


@dataclass(frozen=True)
class Creation:
    """Makes the metadata of a new store, in an order in which a cut can be taken up.

    Args:
        store: where.
        keyring: the keys that we can sign with.
        channels: what ``images/channels.yaml`` says.
        roles: who may sign.
        now: the present moment.
    """

    store: Store
    keyring: Signers
    channels: Channels
    roles: Mapping[str, RoleKeys]
    now: datetime

    def run(self) -> bytes:
        """Write what is not there yet; return the root.

        Clients see nothing before the timestamp, which is last.

        Raises:
            UsageError: the store has metadata of other keys, or keys are missing.
        """
        self._require_keys()
        root = self._first(layout.ROOT, self._root(), None)
        if self.store.find(layout.TIMESTAMP_KEY) is not None:
            load(self.store, Anchor(root.data, Seen()), self.now)
            return root.data
        targets = self._first(layout.TARGETS, self._targets(), root.signed)
        parts: dict[str, Loaded[Targets]] = {layout.TARGETS: targets}
        for name in self.channels.names:
            empty = Targets(expires=expires(self.now, self.channels.expiry.channel))
            self._begin(empty, targets_version=targets.version)
            parts[name] = self._first(name, empty, targets.signed)
        publisher = Publisher(
            self.store, self.keyring, self.channels.expiry, lambda: self.now, _no_state
        )
        snapshot = publisher.make_snapshot(None, parts, (root.signed,), 1)
        told = {"version": root.version}
        timestamp = publisher.make_timestamp(snapshot, (root.signed,), told)
        try:
            self.store.replace(layout.TIMESTAMP_KEY, timestamp.data, etag="")
        except ChangedError:  # made elsewhere at the same time, with the same keys
            load(self.store, Anchor(root.data, Seen()), self.now)
        return root.data

    def _require_keys(self) -> None:
        approvals = {each.name: each.gates.approvals for each in self.channels.channels}
        for name in (
            *(layout.ROOT, layout.TARGETS, layout.ONLINE, *layout.ATTESTERS),
            *self.channels.names,
        ):
            known = self.roles.get(name)
            keys = known.keys if known else ()
            needed = approvals.get(name, known.threshold if known else 1)
            if len({key.keyid for key in keys}) < needed:
                raise UsageError(
                    f"{name} needs {count(needed, 'signature')} and has {count(len(keys), 'key')}",
                    hint=f"Name more keys for {name}, or lower what it needs.",
                )

    def _threshold(self, name: str) -> int:
        return self.roles[name].threshold

    def _root(self) -> Root:
        keys: dict[str, Any] = {}
        roles: dict[str, Role] = {}
        for role, whose in (
            (layout.ROOT, layout.ROOT),
            (layout.TARGETS, layout.TARGETS),
            (layout.SNAPSHOT, layout.ONLINE),
            (layout.TIMESTAMP, layout.ONLINE),
        ):
            mine = self.roles[whose]
            keys |= {key.keyid: key for key in mine.keys}
            roles[role] = Role([key.keyid for key in mine.keys], mine.threshold)
        root = Root(
            expires=expires(self.now, self.channels.expiry.root),
            keys=keys,
            roles=roles,
            consistent_snapshot=True,
        )
        self._begin(root)
        return root

    def _targets(self) -> Targets:
        delegations = Delegations(keys={}, roles={})
        targets = Targets(
            expires=expires(self.now, self.channels.expiry.targets), delegations=delegations
        )
        for each in self.channels.channels:
            delegate(targets, each.name, self.roles[each.name].keys, each.gates.approvals)
        for name in layout.ATTESTERS:
            delegate(targets, name, self.roles[name].keys, self.roles[name].threshold)
        self._begin(targets)
        return targets

    def _begin(self, signed: Root | Targets, targets_version: int = 0) -> None:
        event = Event(action="init", at=self.now)
        signed.unrecognized_fields[layout.STATE_FIELD] = dump_state(
            event, targets_version=targets_version
        )

    def _first(self, role: str, signed: T, judge: Root | Targets | None) -> Loaded[T]:
        """Version 1 of a role: the one that is there if it is made with the same keys, or ours."""
        key = layout.metadata_key(role, 1)
        there = self._find(key, signed)
        if there is None:
            part = self._signed(role, signed, judge)
            try:
                self.store.create(key, part.data)
            except ExistsError:
                there = self._find(key, signed)
            else:
                return part
        if there is None or not self._is_ours(role, there, signed, judge):
            raise UsageError(
                f"{self.store.url} has signed metadata already, made with other keys",
                hint="To work with it, get its root.json from a colleague and put it at "
                "images/root.json. To begin anew, use an empty store.",
            )
        return there

    def _find(self, key: str, signed: T) -> Loaded[T] | None:
        try:
            return parse(
                self.store.get(key, limit=layout.MAX_TARGETS), type(signed), key, self.store.url
            )
        except MissingError:
            return None
        except TrustError as error:
            raise UsageError(
                f"{self.store.url} has a {key} that is no signed metadata",
                hint="Use an empty store, or remove that object if it is not needed.",
            ) from error

    def _is_ours(
        self, role: str, there: Loaded[T], signed: T, judge: Root | Targets | None
    ) -> bool:
        same = _keys_in(there.signed) == _keys_in(signed)
        delegator = judge or there.signed
        assert isinstance(delegator, Root | Targets)
        try:
            return same and bool(verify(delegator, role, there.metadata))
        except (ValueError, RepositoryError):
            return False

    def _signed(self, role: str, signed: T, judge: Root | Targets | None) -> Loaded[T]:
        metadata: Metadata[T] = Metadata(signed)
        delegator = judge or signed
        assert isinstance(delegator, Root | Targets)
        for key in verify(delegator, role, metadata).unsigned.values():
            if verify(delegator, role, metadata):
                break
            signer = self.keyring.signer(key)
            if signer is not None:
                sign(metadata, signer)
        result = verify(delegator, role, metadata)
        if not result:
            raise UsageError(
                f"{role} needs {count(result.missing, 'signature')} more, of "
                f"{listed(names(tuple(result.unsigned.values())), 'or')}, whose private keys are "
                "not here",
                hint="A store is begun by somebody who can sign for every role. Begin with "
                "`approvals: 1` or keys of your own, and change them afterwards.",
            )
        return load_part(metadata)


def delegate(targets: Targets, name: str, keys: Any, threshold: int) -> None:
    """Add a role to ``targets``: a channel with its paths, an attester without any."""
    assert targets.delegations is not None
    assert targets.delegations.roles is not None
    paths = [] if name in layout.ATTESTERS else layout.channel_paths(name)
    targets.delegations.keys.update({key.keyid: key for key in keys})
    targets.delegations.roles[name] = DelegatedRole(
        name, [key.keyid for key in keys], threshold, terminating=True, paths=paths
    )


def _keys_in(signed: Any) -> object:
    """Who may sign what, in a form that can be compared."""
    if isinstance(signed, Root):
        return {role: (sorted(each.keyids), each.threshold) for role, each in signed.roles.items()}
    if not signed.delegations:
        return None
    roles = signed.delegations.roles or {}
    return {role: (sorted(each.keyids), each.threshold) for role, each in roles.items()}


def _no_state() -> Any:
    raise AssertionError("there is no state yet")
