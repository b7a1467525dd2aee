"""How a change is made: decided on the newest state, signed, carried out or proposed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from pipeline.errors import ConflictError, RefusedError
from pipeline.trust import layout
from pipeline.trust.describe import count, listed
from pipeline.trust.draft import Draft, Signers, ours
from pipeline.trust.proposals import ProposalStore, Stored
from pipeline.trust.publish import NO_ONLINE_KEY, TRIES, LostRaceError, Publisher
from pipeline.trust.review import Reviewer, base_of
from pipeline.trust.state import State
from pipeline.trust.views import Outcome

if TYPE_CHECKING:
    from securesystemslib.signer import Key


@dataclass(frozen=True)
class Changer:
    """Makes changes.

    Args:
        publisher: writes them.
        proposals: keeps those that wait for signatures.
        reviewer: says what those would do.
        keyring: the keys that we can sign with.
        now: the present moment.
    """

    publisher: Publisher
    proposals: ProposalStore
    reviewer: Reviewer
    keyring: Signers
    now: Callable[[], datetime]

    def change(self, role: str, make: Callable[[State], Draft], propose: bool) -> Outcome:
        """Make a change on top of the newest state, sign it and carry it out.

        Raises:
            RefusedError: what *make* raised, or the signatures of others are needed.
            ConflictError: others were faster, and what they did rules it out.
        """
        lost: Draft | None = None
        for _ in range(TRIES):
            state = self.publisher.settle()
            if lost is not None and self.publisher.includes(state, lost):
                # What lost the race came into force after all, under what others did since.
                return self._outcome(state, lost, lost.role not in state.unpublished)
            try:
                draft = make(state)
            except RefusedError as error:
                if lost is None:
                    raise
                raise ConflictError(
                    f"{self.reviewer.who(state, role)}, while this was under way. Now: {error}",
                    hint=error.hint,
                ) from error
            draft.sign(state, self.keyring)
            if draft.missing(state):
                if not propose:
                    raise self._lacks_signatures(state, draft)
                base = base_of(state, draft)
                stored = self.proposals.add(draft, base, self.now())
                return self._waiting(state, stored.id, draft)
            try:
                return self._carry_out(state, draft)
            except LostRaceError:
                lost = draft
        raise self._too_busy(role)

    def approve(self, proposal: str) -> Outcome:
        """Add our signature to a proposed change, and carry it out if that was the last one.

        Args:
            proposal: its id, or the beginning of it.

        Raises:
            UsageError: there is no such proposal, or more than one.
            ConflictError: it is stale.
            RefusedError: none of our keys may sign it.
            TrustError: it is not what it should be.
        """
        stored = self.proposals.get(proposal)
        for _ in range(TRIES):
            state = self.publisher.settle()
            if self.reviewer.carried_out(state, stored):
                self.proposals.remove(stored.role, stored.id)
                published = stored.role not in state.unpublished and not state.stale_online
                return self._outcome(state, stored.draft, published)
            stale = self.reviewer.stale(state, stored)
            if stale:
                raise ConflictError(
                    f"the proposal {stored.id} for {stored.role} can no longer be carried out: "
                    f"{stale}",
                    hint=f"Propose it anew, and remove this one: `recast proposals withdraw "
                    f"{stored.id}`.",
                )
            self.reviewer.require_honest(state, stored)
            draft = self._sign_proposal(state, stored)
            if draft.missing(state):
                return self._waiting(state, stored.id, draft)
            try:
                return self._carry_out(state, draft, stored)
            except LostRaceError:
                continue
        raise self._too_busy(stored.role)

    def _carry_out(self, state: State, draft: Draft, stored: Stored | None = None) -> Outcome:
        shared = stored is not None
        state, published = self.publisher.carry_out(state, draft, shared=shared)
        if stored is not None:
            self.proposals.remove(stored.role, stored.id)
        return self._outcome(state, draft, published)

    def _outcome(self, state: State, draft: Draft, published: bool) -> Outcome:
        main = state.root if draft.role == layout.ROOT else state.get(draft.role)
        same = main.says_the_same(draft.main)
        notices = list(state.notices)
        if not published:
            notices.append(NO_ONLINE_KEY)
        return Outcome(
            channel=draft.role,
            version=draft.main.signed.version,
            proposal=None,
            signed_by=state.signers(draft.role) if same else draft.signed_by(state),
            missing=0,
            published=published,
            notices=tuple(notices),
        )

    def _waiting(self, state: State, identity: str, draft: Draft) -> Outcome:
        return Outcome(
            channel=draft.role,
            version=None,
            proposal=identity,
            signed_by=draft.signed_by(state),
            missing=draft.missing(state),
            published=False,
            notices=state.notices,
        )

    def _sign_proposal(self, state: State, stored: Stored) -> Draft:
        """Add our signatures to a proposal in the store; return it with all that count then.

        Raises:
            RefusedError: none of our keys may sign it, or all of them have.
        """
        draft, _ = self.proposals.collect(stored, state)
        if not draft.missing(state):
            return draft  # whoever gave the last signature was cut off
        before = set(draft.signed_by(state))
        used = draft.sign(state, self.keyring)
        if not used:
            raise self._cannot_approve(state, draft, before)
        self.proposals.add_signatures(stored, draft, used)
        return self.proposals.collect(stored, state)[0]

    def _cannot_approve(self, state: State, draft: Draft, signed: set[str]) -> RefusedError:
        mine = ours(self.keyring, self._all_keys(state))
        have = [name for name in mine if name in signed]
        wanted = listed(draft.wanted(state), "or")
        needed = f"{count(draft.missing(state), 'signature')} of {wanted}"
        if have:
            return RefusedError(
                f"{listed(have)} signed it already, and one key counts once: {needed} is missing",
                hint="Ask them to run `recast approve` with this id.",
            )
        return RefusedError(
            f"{listed(mine, 'or')} may not sign {draft.role}: {needed} is missing",
            hint="Ask them to run `recast approve` with this id.",
        )

    def _lacks_signatures(self, state: State, draft: Draft) -> RefusedError:
        lacking = [role for role, result in draft.results(state) if not result]
        mine = draft.signed_by(state)
        more = count(draft.missing(state), "signature" if not mine else "more signature")
        return RefusedError(
            f"{listed(list(dict.fromkeys(lacking)))} needs {more}, of "
            f"{listed(draft.wanted(state), 'or')}, and we have "
            + (f"only the key of {listed(mine)}" if mine else "no key of theirs"),
            hint="With `--propose` it is left in the store for others to sign."
            if mine
            else "Point RECAST_KEYS at the folder with such a key, or ask somebody who has one.",
        )

    def _too_busy(self, role: str) -> ConflictError:
        state = self.publisher.load()
        return ConflictError(
            f"{role} in {self.publisher.store.url} is changed by others all the time; the last: "
            f"{self.reviewer.who(state, role)}",
            hint="Run it again in a minute; nothing is lost.",
        )

    def _all_keys(self, state: State) -> tuple[Key, ...]:
        delegations = state.targets.signed.delegations
        known = {**state.root.signed.keys, **(delegations.keys if delegations else {})}
        return tuple(known.values())
