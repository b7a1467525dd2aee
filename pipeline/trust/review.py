"""What a proposed change would do, and whether it may be signed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from tuf.api.metadata import Metadata, Root, TargetFile, Targets

from pipeline import clock
from pipeline.errors import TrustError
from pipeline.models.pointer import ChannelState, Event, Pointer
from pipeline.store.base import Store
from pipeline.trust import layout
from pipeline.trust.checks import parse
from pipeline.trust.describe import event_words, listed, root_changes, targets_changes
from pipeline.trust.draft import Draft
from pipeline.trust.history import version_before
from pipeline.trust.proposals import Stored
from pipeline.trust.state import Loaded, State, channels_of, verify
from pipeline.trust.views import Proposal

if TYPE_CHECKING:
    from pipeline.models.channel import Expiry

ReadPointer = Callable[[str, str, TargetFile], Pointer]
"""Channel, image and what the metadata says of the pointer → the pointer, verified."""

_SLACK = timedelta(days=1)  # between the clocks of two engineers
_FIELDS = {layout.STATE_FIELD}


def base_of(state: State, draft: Draft) -> dict[str, int]:
    """The versions that must be in force for a draft to make sense."""
    base = {role: tip.version for role in draft.parts if (tip := _tip(state, role)) is not None}
    base[layout.TARGETS] = state.targets.version
    if draft.role in (layout.TARGETS, layout.ROOT):
        base[layout.ROOT] = state.root.version
    return base


def _tip(state: State, role: str) -> Loaded[Any] | None:
    return state.root if role == layout.ROOT else state.find(role)


@dataclass(frozen=True)
class Reviewer:
    """Looks at proposals.

    Args:
        store: where they are.
        expiry: how long metadata may be good for.
        read_pointer: reads a pointer.
        now: the present moment.
    """

    store: Store
    expiry: Expiry
    read_pointer: ReadPointer
    now: Callable[[], datetime]

    def carried_out(self, state: State, stored: Stored) -> bool:
        """Are all of its versions in the store, as part of what is in force?"""
        return all(self._is_in(state, role, part) for role, part in stored.draft.parts.items())

    def _is_in(self, state: State, role: str, part: Metadata[Any]) -> bool:
        tip = _tip(state, role)
        if role == layout.ROOT and tip is not None and tip.version > part.signed.version:
            key = layout.metadata_key(role, part.signed.version)
            tip = parse(self.store.get(key, limit=layout.MAX_ROOT), Root, key, self.store.url)
        while tip is not None and tip.version > part.signed.version:
            tip = version_before(self.store, role, tip)
        return tip is not None and tip.says_the_same(part)

    def stale(self, state: State, stored: Stored) -> str:
        """Why a proposal cannot be carried out any more; empty if it can."""
        draft = stored.draft
        why = self.unknown(state, stored)
        if why:
            return why
        for role, version in stored.file.base.items():
            tip = _tip(state, role)
            if tip is not None and tip.version != version:
                return f"it was made for version {version} of {role}, and {self.who(state, role)}"
        if set(stored.file.base) != set(base_of(state, draft)):
            return "other channels are there now"
        for role, part in draft.parts.items():
            if part.signed.is_expired(self.now()):
                return f"it was good until {clock.iso(part.signed.expires)}"
            if part.signed.version != next_version(state, role):
                return f"the number {part.signed.version} of {role} is taken"
        return self._leaves_unsigned(state, draft)

    def unknown(self, state: State, stored: Stored) -> str:
        """Is it about roles that nobody could sign? Says which; else empty."""
        known = {layout.ROOT, layout.TARGETS, *channels_of(state.targets.signed)}
        targets = stored.draft.parts.get(layout.TARGETS)
        if targets is not None and isinstance(targets.signed, Targets):
            known |= set(channels_of(targets.signed))
        strange = sorted(stored.draft.parts.keys() - known)
        return f"there is no channel {listed(strange)}" if strange else ""

    def who(self, state: State, role: str) -> str:
        """``alice promoted web 2026… on 2026-03-01T12:00:00Z (version 7)``."""
        tip = _tip(state, role)
        told = tip.state if tip is not None else None
        if tip is None or told is None:
            return f"{role} has changed since"
        return f"{listed(state.signers(role))} {event_words(told.event)} (version {tip.version})"

    def _leaves_unsigned(self, state: State, draft: Draft) -> str:
        targets = draft.parts.get(layout.TARGETS)
        if targets is None:
            return ""
        for name in channels_of(targets.signed):
            tip = draft.parts.get(name)
            head = state.find(name)
            if tip is None and (head is None or not verify(targets.signed, name, head.metadata)):
                return f"{name} was signed since by keys that it takes away"
        return ""

    def require_honest(self, state: State, stored: Stored) -> None:
        """Refuse what no Recast proposes: whoever can write to the store can put anything there.

        Raises:
            TrustError: says what is wrong.
        """
        for why in self._objections(state, stored):
            raise TrustError(
                f"the proposal {stored.id} for {stored.role} is not what it should be: {why}",
                hint=f"Do not sign it. `recast proposals withdraw {stored.id}` removes it; find "
                "out who wrote it.",
            )
        if stored.role not in (layout.ROOT, layout.TARGETS):
            self._require_pointers(state, stored.role, stored.draft.main.signed)

    def _require_pointers(self, state: State, channel: str, signed: Targets) -> None:
        """Demand that what it names is there for machines to read."""
        for image, target in _changed(state, channel, signed):
            key = layout.pointer_key(channel, image, target.hashes.get("sha256", ""))
            if self.store.find(key) is None:
                raise TrustError(
                    f"{key}, which it names, is missing in {self.store.url}",
                    hint="Propose it anew: that stores it again.",
                )
            self.read_pointer(channel, image, target)

    def _objections(self, state: State, stored: Stored) -> Iterator[str]:
        parts = stored.draft.parts
        allowed = {stored.role}
        if stored.role == layout.ROOT:
            allowed |= {layout.TARGETS}
        if stored.role == layout.TARGETS:
            allowed |= set(channels_of(parts[layout.TARGETS].signed))
        yield from (f"it changes {role} as well" for role in parts.keys() - allowed)
        for role, part in parts.items():
            limit = self.expiry.channel
            if role in (layout.ROOT, layout.TARGETS):
                limit = self.expiry.root if role == layout.ROOT else self.expiry.targets
            if part.signed.expires > self.now() + timedelta(seconds=limit) + _SLACK:
                until = clock.iso(part.signed.expires)
                yield f"{role} would be good until {until}, which is too long"
            if set(part.signed.unrecognized_fields) - _FIELDS:
                yield f"{role} has fields of no known meaning"
            kind = layout.ROOT if role == layout.ROOT else layout.TARGETS
            if part.signed.type != kind:
                yield f"{role} is of type {part.signed.type}"
            elif isinstance(part.signed, Targets):
                yield from self._targets_objections(state, role, part.signed)

    def _targets_objections(self, state: State, role: str, signed: Targets) -> Iterator[str]:
        try:
            told = layout.channel_state(signed)
        except ValueError:
            told = None
        head = state.find(role)
        before = (head.version, head.sha256) if head else (0, "")
        if told is None:
            yield f"{role} does not say what it changes"
        elif (told.previous_version, told.previous) != before:
            yield f"{role} does not follow on version {before[0]}"
        if role == layout.TARGETS:
            return
        if signed.delegations is not None:
            yield f"{role} would let others speak for it"
        for path in signed.targets:
            try:
                channel, _ = layout.parse_pointer_path(path)
            except ValueError:
                channel = ""
            if channel != role:
                yield f"{role} would speak of {path}"

    def show(
        self, state: State, stored: Stored, draft: Draft, notices: tuple[str, ...]
    ) -> Proposal:
        """A proposal as a person is shown it.

        Args:
            state: the newest.
            stored: the proposal.
            draft: it, with the signatures that count.
            notices: what is wrong with others.
        """
        stale = self.stale(state, stored)
        changes = list(self._changes(state, draft))
        old: dict[str, Pointer | None] = {}
        new: dict[str, Pointer] = {}
        frozen = ("", "")
        told = _told(draft.main)
        try:
            self.require_honest(state, stored) if not stale else None
            if stored.role not in (layout.ROOT, layout.TARGETS):
                old, new = self._pointers(state, stored.role, draft.main.signed)
        except TrustError as error:
            stale = stale or error.message
        head = state.find(stored.role)
        if stored.role not in (layout.ROOT, layout.TARGETS):
            frozen = (head.state.frozen if head and head.state else "", told.frozen if told else "")
        return Proposal(
            id=stored.id,
            role=stored.role,
            base=stored.file.base.get(stored.role, 0),
            version=draft.main.signed.version,
            event=told.event if told else None,
            old=old,
            new=new,
            frozen=frozen,
            changes=tuple(changes),
            signed_by=draft.signed_by(state),
            missing=draft.missing(state),
            keyholders=draft.wanted(state),
            stale=stale,
            proposed=stored.file.proposed,
            notices=notices,
        )

    def _pointers(
        self, state: State, channel: str, signed: Targets
    ) -> tuple[dict[str, Pointer | None], dict[str, Pointer]]:
        """The pointers that change: before, and after."""
        head = state.find(channel)
        before = head.signed.targets if head else {}
        old: dict[str, Pointer | None] = {}
        new: dict[str, Pointer] = {}
        for image, target in _changed(state, channel, signed):
            new[image] = self.read_pointer(channel, image, target)
            known = before.get(layout.pointer_path(channel, image))
            old[image] = self.read_pointer(channel, image, known) if known else None
        return old, new

    def _changes(self, state: State, draft: Draft) -> Iterator[str]:
        for role, part in draft.parts.items():
            if isinstance(part.signed, Root):
                yield from root_changes(state.root.signed, part.signed)
            elif role == layout.TARGETS:
                yield from targets_changes(state.targets.signed, part.signed)
            else:
                yield from self._dropped(state, role, part.signed.targets)
                if role != draft.role:
                    yield f"{role} is signed anew."
            yield f"{role} would be good until {clock.iso(part.signed.expires)}."
        if draft.lost:
            yield "Machines refuse the store for a moment while it is carried out."

    def _dropped(self, state: State, role: str, targets: Mapping[str, Any]) -> Iterator[str]:
        head = state.find(role)
        for path in sorted((head.signed.targets.keys() if head else set()) - targets.keys()):
            yield f"{path} goes: machines with that image in {role} get no updates any more."


def _changed(state: State, channel: str, signed: Targets) -> Iterator[tuple[str, TargetFile]]:
    """The images whose pointer is another than now, and what is said of the new one."""
    head = state.find(channel)
    before = head.signed.targets if head else {}
    for path, target in sorted(signed.targets.items()):
        if path in before and before[path].hashes == target.hashes:
            continue
        with contextlib.suppress(ValueError):  # no pointer's path; it is objected to elsewhere
            yield layout.parse_pointer_path(path)[1], target


def unreadable(role: str, identity: str, why: str, now: datetime) -> Proposal:
    """What is shown of a proposal of which nothing can be read."""
    return Proposal(
        id=identity,
        role=role,
        base=0,
        version=0,
        event=None,
        old={},
        new={},
        frozen=("", ""),
        changes=(),
        signed_by=(),
        missing=0,
        keyholders=(),
        stale=why,
        proposed=now,
    )


def next_version(state: State, role: str) -> int:
    """The number of the next version of a role."""
    if role == layout.ROOT:
        return state.root.version + 1
    tip = state.find(role)
    return state.free.get(role, tip.version + 1 if tip else 1)


def _told(part: Metadata[Any]) -> ChannelState | None:
    try:
        return layout.channel_state(part.signed)
    except ValueError:
        return None


def event_of(part: Metadata[Any]) -> Event | None:
    """What a version says that it changes; None if it does not say."""
    told = _told(part)
    return told.event if told else None
