"""Keeps signed metadata from running out, and publishes what waits for the online key."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from pipeline import clock
from pipeline.errors import ConflictError, RefusedError, TrustError
from pipeline.models.pointer import Event
from pipeline.trust import layout
from pipeline.trust.describe import count, event_words, listed
from pipeline.trust.draft import ONLINE_ROLES
from pipeline.trust.review import event_of
from pipeline.trust.state import State, channels_of, keys_of, names
from pipeline.trust.views import ChannelChange, ChannelView, Outcome

if TYPE_CHECKING:
    from pipeline.trust.repository import Repository

_ONLINE_SHARE = 0.5  # of its life that is left when timestamp and snapshot are due
_SIGNED_SHARE = 0.25  # where people must be asked: often enough, and not all the time
_REASON = "it would have run out"


class _NotDueError(Exception):
    """Somebody else has just done it."""


@dataclass(frozen=True)
class Refresher:
    """One run of ``recast refresh``.

    Args:
        repository: what is refreshed.
        within: seconds; what expires within them is due. None: see the shares above.
        propose: leave proposals where our keys do not suffice.
    """

    repository: Repository
    within: float | None
    propose: bool

    def run(self) -> list[str]:
        """Do it; return what was done and what others must do, in sentences."""
        said = list(self._publish())
        state = self.repository.load()
        roles = (*channels_of(state.targets.signed), layout.TARGETS, layout.ROOT)
        for role in roles:
            said += self._renew(role)
        state = self.repository.load()
        if not said:
            until = min(state.timestamp.signed.expires, state.snapshot.signed.expires)
            said.append(f"Nothing is due: the store is good until {clock.iso(until)}.")
        return [*said, *state.notices]

    def due(self, expires: datetime, life: float, share: float) -> bool:
        """Is it time for something that is good until *expires*, of *life* seconds in all?"""
        left = (expires - self.repository.now()).total_seconds()
        return left < (life * share if self.within is None else self.within)

    # --- snapshot and timestamp, and what waits for them --------------------------------------

    def _publish(self) -> Iterator[str]:
        before = self.repository.load()
        waiting = dict(before.unpublished)
        named = before.announced
        after = self.repository.publisher.publish(before, self._online_due)
        for role, tip in waiting.items():
            if role in after.unpublished:
                continue
            event = event_of(tip.metadata)
            what = f": {listed(before.signers(role))} {event_words(event)}" if event else ""
            yield f"Published version {tip.version} of {role}{what}."
        if named is not None:
            yield f"Gave version {named.version} of the root its name."
        if after.timestamp.version != before.timestamp.version:
            until = clock.iso(after.timestamp.signed.expires)
            what = "timestamp"
            if after.snapshot.version != before.snapshot.version:
                what = "snapshot and timestamp"
            yield f"Signed {what} anew: good until {until}."
        yield from self._lacks_online(after)

    def _online_due(self, state: State) -> list[str]:
        expiry = self.repository.channels.expiry
        parts = (
            (layout.SNAPSHOT, state.snapshot.signed.expires, expiry.snapshot),
            (layout.TIMESTAMP, state.timestamp.signed.expires, expiry.timestamp),
        )
        return [role for role, at, life in parts if self.due(at, life, _ONLINE_SHARE)]

    def _lacks_online(self, state: State) -> Iterator[str]:
        due = self._online_due(state)
        if self.repository.publisher.can_sign_online(state.root.signed):
            return
        whose = listed(names(keys_of(state.root.signed, ONLINE_ROLES[1])), "or")
        for role in state.unpublished:
            yield f"{role} waits to be published by whoever has the key {whose}."
        if due:
            until = min(state.timestamp.signed.expires, state.snapshot.signed.expires)
            yield (
                f"{listed(due)} {self._until(until)}, and the key {whose} is not here: run "
                "`recast refresh` where it is."
            )

    # --- what people sign ---------------------------------------------------------------------

    def _renew(self, role: str) -> Iterator[str]:
        state = self.repository.load()
        if not self._is_due(state, role):
            return
        expires = self._expires(state, role)
        try:
            outcome = self._change(role)
        except _NotDueError:
            return
        except RefusedError as error:
            yield f"{role} {self._until(expires)}: {error.message}. {self._who(state, role)}"
            return
        except (ConflictError, TrustError) as error:
            yield f"{role} {self._until(expires)}, and could not be signed anew: {error.message}."
            return
        if outcome.proposal is not None:
            yield (
                f"{role} {self._until(expires)}. Proposed to sign it anew: "
                f"`recast approve {outcome.proposal}` by {listed(self._others(state, role), 'or')} "
                f"({count(outcome.missing, 'signature')} missing)."
            )
            return
        until = self._expires(self.repository.load(), role)
        yield f"Signed {role} anew (version {outcome.version}): good until {clock.iso(until)}."

    def _is_due(self, state: State, role: str) -> bool:
        expiry = self.repository.channels.expiry
        life = {layout.ROOT: expiry.root, layout.TARGETS: expiry.targets}.get(role, expiry.channel)
        if role not in (layout.ROOT, layout.TARGETS) and state.find(role) is None:
            return False  # told by the state's notices
        return self.due(self._expires(state, role), life, _SIGNED_SHARE)

    def _expires(self, state: State, role: str) -> datetime:
        return state.root.signed.expires if role == layout.ROOT else state.get(role).signed.expires

    def _change(self, role: str) -> Outcome:
        if self.propose:
            self._require_no_proposal(role)

        def still_due(_: object) -> None:
            if not self._is_due(self.repository.load(), role):
                raise _NotDueError

        edit: Callable[[object], None] = still_due
        if role == layout.ROOT:
            return self.repository.change_root(
                edit, reason=_REASON, propose=self.propose, action="refresh"
            )
        if role == layout.TARGETS:
            return self.repository.change_targets(
                edit, reason=_REASON, propose=self.propose, action="refresh"
            )

        def decide(_: ChannelView) -> ChannelChange:
            still_due(None)
            event = Event(action="refresh", at=self.repository.now(), reason=_REASON)
            return ChannelChange(event, {})

        return self.repository.change_channel(role, decide, propose=self.propose)

    def _require_no_proposal(self, role: str) -> None:
        for each in self.repository.proposals():
            renews = each.event is not None and each.event.action == "refresh"
            if each.role == role and renews and not each.stale:
                raise RefusedError(
                    f"the proposal {each.id} to sign it anew waits for "
                    f"{count(each.missing, 'signature')} of {listed(each.keyholders, 'or')}"
                )

    def _others(self, state: State, role: str) -> tuple[str, ...]:
        keys = state.keys(role)
        signer = self.repository.keyring.signer
        return names(tuple(key for key in keys if signer(key) is None))

    def _who(self, state: State, role: str) -> str:
        whose = listed(self._others(state, role), "or")
        return f"Have {whose} run `recast refresh` (with `--propose` where several must sign)."

    def _until(self, expires: datetime) -> str:
        past = expires <= self.repository.now()
        return f"{'ran out on' if past else 'is good until'} {clock.iso(expires)}"
