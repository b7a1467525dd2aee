"""Reads the roles that a snapshot names, and what has been signed since and not published."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from tuf.api.metadata import Root, Snapshot, Targets

from pipeline import clock
from pipeline.errors import TrustError
from pipeline.store.base import MissingError, Store
from pipeline.trust import layout
from pipeline.trust.checks import missing, parse, read_named, require
from pipeline.trust.state import Loaded, channels_of, verify

_MAX_AHEAD = 1000  # versions of one role that are looked at beyond the published one

Ahead = tuple[int, Loaded[Targets] | TrustError]
"""The number in a file's name, and the file or why it cannot be read."""


@dataclass
class RoleLoader:
    """Reads ``targets`` and the channels of one state.

    Args:
        store: where they are.
        root: the newest root.
        snapshot: what is published.
        now: the present moment.

    Attributes:
        notices: what a person should know.
        free: by role, the number of its next version.
        forged: roles whose published version is not in the store, and why.
        rescued: by channel, the newest signed version in the place of such a one.
    """

    store: Store
    root: Root
    snapshot: Snapshot
    now: datetime
    notices: list[str] = field(default_factory=list)
    free: dict[str, int] = field(default_factory=dict)
    forged: dict[str, str] = field(default_factory=dict)
    rescued: dict[str, Loaded[Targets]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.where = self.store.url
        self.ahead: dict[str, list[Ahead]] = {}

    def load(self) -> tuple[Loaded[Targets], dict[str, Loaded[Targets]], dict[str, str]]:
        """The newest targets whose channels all count, these channels, and those refused."""
        head = self.top()
        good, notices = self.chain(self.root, layout.TARGETS, head)
        if not good:
            key = layout.metadata_key(layout.TARGETS, head.version)
            require(self.root, layout.TARGETS, head, key, self.where)
        self.notices += notices
        heads = self.heads(good)
        for targets in reversed(good):
            channels, broken, notices = self.under(targets.signed, heads)
            if targets is good[0] or broken.keys() <= self.forged.keys():
                break
            self.notices.append(
                f"{layout.metadata_key(layout.TARGETS, targets.version)} does not count: it "
                f"leaves {', '.join(broken)} without enough signatures. Its number stays unused."
            )
        self.notices += [*notices, *broken.values()]
        self.rescue_channels(targets.signed)
        return targets, channels, broken

    def top(self) -> Loaded[Targets]:
        """The published targets; the newest signed ones if the snapshot names none that exist.

        Raises:
            TrustError: there are none at all.
        """
        try:
            head = self.head(layout.TARGETS)
            if head is not None:
                return head
            why = f"the snapshot in {self.where} names no {layout.TARGETS}"
        except TrustError as error:
            why = error.message
        found = self.newest(layout.TARGETS, self.root)
        if found is None:
            raise TrustError(why, hint="Bring the newest copy of the store back.")
        self.forged[layout.TARGETS] = why
        self.notices.append(f"{why}.")
        return found

    def head(self, role: str) -> Loaded[Targets] | None:
        """The published version of a role, by the digest in the snapshot; None if there is none.

        Raises:
            TrustError: it is not what the snapshot names.
        """
        meta = self.snapshot.meta.get(f"{role}.json")
        if meta is None:
            return None
        key = layout.metadata_key(role, meta.version)
        data = read_named(self.store, key, meta, layout.MAX_TARGETS)
        loaded = parse(data, Targets, key, self.where)
        if loaded.version != meta.version:
            raise TrustError(f"{key} in {self.where} holds version {loaded.version}")
        return loaded

    def newest(self, role: str, delegator: Root | Targets) -> Loaded[Targets] | None:
        """The newest version in the store with the signatures that it needs."""
        found = (layout.parse_metadata_key(info.key) for info in self.store.list(layout.METADATA))
        for number in sorted((each[1] for each in found if each and each[0] == role), reverse=True):
            key = layout.metadata_key(role, number)
            try:
                data = self.store.get(key, limit=layout.MAX_TARGETS)
                loaded = parse(data, Targets, key, self.where)
            except (MissingError, TrustError):
                continue
            if loaded.version == number and verify(delegator, role, loaded.metadata):
                return loaded
        return None

    def rescue_channels(self, targets: Targets) -> None:
        """Find the newest signed version of each channel whose published one is not there."""
        for name in self.forged.keys() & set(channels_of(targets)):
            found = self.newest(name, targets)
            if found is not None:
                self.rescued[name] = found
                self.look_ahead(name, found.version)

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
            return missing(delegator, role, each)
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

    def heads(self, good: list[Loaded[Targets]]) -> dict[str, Loaded[Targets] | None]:
        """The published version of each channel that can be had."""
        heads: dict[str, Loaded[Targets] | None] = {}
        for targets in good:
            for name in channels_of(targets.signed):
                if name in heads or name in self.forged:
                    continue
                try:
                    heads[name] = self.head(name)
                except TrustError as error:
                    self.forged[name] = error.message
        return heads

    def under(
        self, targets: Targets, heads: Mapping[str, Loaded[Targets] | None]
    ) -> tuple[dict[str, Loaded[Targets]], dict[str, str], list[str]]:
        """The channels as they stand under *targets*: what counts, what is refused, notices."""
        channels: dict[str, Loaded[Targets]] = {}
        broken = {name: self.forged[name] for name in channels_of(targets) if name in self.forged}
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
                why = missing(targets, name, head) if head else "it is missing"
                broken[name] = f"{key} in {self.where} is refused: {why}"
        return channels, broken, notices
