"""The signed metadata of a store, to change: the engineers' side of trust."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from pipeline import clock
from pipeline.errors import HostError, TrustError, UsageError
from pipeline.models.pointer import Event
from pipeline.trust import layout
from pipeline.trust.changing import Changer
from pipeline.trust.creation import Creation, delegate
from pipeline.trust.describe import count
from pipeline.trust.draft import Draft, Drafter, Signers
from pipeline.trust.history import history
from pipeline.trust.loading import Anchor, load
from pipeline.trust.proposals import ProposalStore, Stored
from pipeline.trust.publish import Publisher
from pipeline.trust.review import Reviewer, unreadable
from pipeline.trust.state import State, delegated
from pipeline.trust.viewing import require_channel, view
from pipeline.trust.views import (
    ChannelChange,
    ChannelView,
    HistoryEntry,
    Outcome,
    Proposal,
    RoleKeys,
)

if TYPE_CHECKING:
    from securesystemslib.signer import Key
    from tuf.api.metadata import Root, Targets

    from pipeline.models.channel import Channels
    from pipeline.store.base import Store
    from pipeline.trust.client import TrustClient

__all__ = [
    "ChannelChange",
    "ChannelView",
    "HistoryEntry",
    "Outcome",
    "Proposal",
    "Repository",
    "RoleKeys",
]


class Repository:
    """The signed metadata of a store.

    Args:
        store: where it is.
        client: what this machine trusts of it.
        keyring: the keys that we can sign with.
        channels: what ``images/channels.yaml`` says.
        single_writer: trust that nobody else writes, where the store cannot keep writers apart.
        now: the present moment.
    """

    def __init__(
        self,
        store: Store,
        client: TrustClient,
        keyring: Signers,
        channels: Channels,
        *,
        single_writer: bool = False,
        now: Callable[[], datetime] = clock.now,
    ) -> None:
        self.store = store
        self.keyring = keyring
        self.channels = channels
        self.now = now
        self._client = client
        self._single_writer = single_writer
        self.publisher = Publisher(store, keyring, channels.expiry, now, self.load, self._note)
        self._proposals = ProposalStore(store)
        self._reviewer = Reviewer(store, channels.expiry, client.read_pointer, now)
        self._changer = Changer(self.publisher, self._proposals, self._reviewer, keyring, now)

    @staticmethod
    def create(
        store: Store,
        keyring: Signers,
        channels: Channels,
        roles: Mapping[str, RoleKeys],
        *,
        single_writer: bool = False,
        now: Callable[[], datetime] = clock.now,
    ) -> bytes:
        """Make the metadata of a new store; return the root that clients start from.

        What a cut attempt left is taken up, with the same keys. Where all is there already, made
        with these keys, nothing changes.

        Args:
            roles: who may sign: ``root``, ``targets``, ``online``, ``builder``, ``tester`` and
                each channel. The thresholds of all but the last two must be within reach of
                *keyring*.

        Raises:
            UsageError: the store has metadata of other keys, or keys are missing.
            HostError: the store cannot keep writers apart, and *single_writer* is not set.
        """
        require_exclusive(store, single_writer)
        return Creation(store, keyring, channels, roles, now()).run()

    def load(self) -> State:
        """The newest verified state, with what is signed and not yet published.

        Raises:
            UsageError: the store has no metadata.
            TrustError: it is not what was signed, or older than what was seen before.
        """
        root, seen = self._client.anchor()
        state = load(self.store, Anchor(root, seen), self.now())
        self._note(state)
        return state

    def channel(self, name: str) -> ChannelView:
        """A channel as it stands.

        Raises:
            UsageError: there is no such channel, or it has no role yet; says what to do.
        """
        return self._view(self.load(), name)

    def change_channel(
        self,
        channel: str,
        decide: Callable[[ChannelView], ChannelChange],
        *,
        propose: bool = False,
    ) -> Outcome:
        """Sign a new version of a channel and publish it.

        Args:
            channel: its name.
            decide: makes the change from the newest state; called again after a lost race.
                Raises RefusedError or ConflictError to stop.
            propose: where our keys do not reach the threshold, leave it in the store for others
                to sign.

        Raises:
            RefusedError: what *decide* raised, or the signatures of others are needed.
            ConflictError: others were faster, and what they did rules it out.
            UsageError: there is no such channel, or it has no role yet.
            HostError: the store cannot keep writers apart.
        """

        def make(state: State) -> Draft:
            change = decide(self._view(state, channel))
            return self._drafter(state).channel(channel, change)

        return self._change(channel, make, propose)

    def change_targets(
        self,
        edit: Callable[[Targets], None],
        *,
        reason: str = "",
        propose: bool = False,
        action: Literal["keys", "refresh"] = "keys",
    ) -> Outcome:
        """Sign a new version of the role that names the channels' keys.

        Channels that its new keys and thresholds would leave without enough signatures are
        signed anew in the same step.

        Args:
            edit: changes a copy in place; called again after a lost race.
            reason: for the history.
            propose: as in :meth:`change_channel`.
            action: for the history.

        Raises:
            RefusedError, ConflictError, HostError: as :meth:`change_channel`.
        """

        def make(state: State) -> Draft:
            event = Event(action=action, at=self.now(), reason=reason)
            return self._drafter(state).targets(edit, event)

        return self._change(layout.TARGETS, make, propose)

    def change_root(
        self,
        edit: Callable[[Root], None],
        *,
        reason: str = "",
        propose: bool = False,
        lost: bool = False,
        action: Literal["keys", "refresh"] = "keys",
    ) -> Outcome:
        """Sign a new version of the root, which clients follow from the one that they have.

        Whatever its new keys would leave without enough signatures (targets, snapshot,
        timestamp) is signed by old and new keys before the root appears, so that clients on
        either side of it accept the store.

        Args:
            edit: changes a copy in place; called again after a lost race.
            reason: for the history.
            propose: as in :meth:`change_channel`.
            lost: keys of targets or the online key are gone, and cannot sign beside the new
                ones: clients refuse the store for a moment while it is carried out.
            action: for the history.

        Raises:
            RefusedError, ConflictError, HostError: as :meth:`change_channel`.
        """

        def make(state: State) -> Draft:
            event = Event(action=action, at=self.now(), reason=reason)
            return self._drafter(state).root(edit, event, lost=lost)

        return self._change(layout.ROOT, make, propose)

    def sync_channels(
        self, keys: Mapping[str, Sequence[Key]], *, propose: bool = False
    ) -> Outcome | None:
        """Give each channel of ``images/channels.yaml`` its role, and each role its threshold.

        A channel that is no longer in that file keeps its role: machines may be on it.

        Args:
            keys: who may sign a channel that has no role yet.
            propose: as in :meth:`change_channel`.

        Returns:
            None if there is nothing to do.

        Raises:
            UsageError: a new channel has too few keys.
            RefusedError, ConflictError, HostError: as :meth:`change_channel`.
        """
        changes = self._channel_changes(self.load().targets.signed)
        if not changes:
            return None

        def edit(targets: Targets) -> None:
            for each in self.channels.channels:
                role = delegated(targets).get(each.name)
                if role is not None:
                    role.threshold = each.gates.approvals
                    continue
                mine = tuple(keys.get(each.name, ()))
                if len(mine) < each.gates.approvals:
                    raise UsageError(
                        f"channel {each.name} has no role yet, and its role needs "
                        f"{count(each.gates.approvals, 'key')}",
                        hint=f"`recast keys add {each.name} …` names who may sign it.",
                    )
                delegate(targets, each.name, mine, each.gates.approvals)

        return self.change_targets(edit, reason="; ".join(changes), propose=propose)

    def proposals(self) -> list[Proposal]:
        """The changes that wait for signatures, and those that became stale; oldest first."""
        stored = list(self._proposals.all())
        state = self.load()
        waiting = [each for each in stored if not self._reviewer.carried_out(state, each)]
        shown = [self._show(state, each) for each in waiting]
        return sorted(shown, key=lambda proposal: (proposal.proposed, proposal.id))

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
        self._require_exclusive()
        return self._changer.approve(proposal)

    def withdraw(self, proposal: str) -> Proposal:
        """Remove a proposed change, and what has been signed of it; return what it was.

        Args:
            proposal: its id, or the beginning of it.

        Raises:
            UsageError: there is no such proposal, or more than one.
        """
        role, identity = self._proposals.locate(proposal)
        try:
            found = self._show(self.load(), self._proposals.get(identity))
        except TrustError as error:
            found = unreadable(role, identity, error.message, self.now())
        self._proposals.remove(role, identity)
        return found

    def refresh(self, *, within: float | None = None, propose: bool = False) -> list[str]:
        """Sign anew what expires soon, and publish what waits for the online key.

        Timestamp and snapshot are due when less than half of their life is left; channels,
        targets and root when less than a quarter is. Safe at any time and twice at once.

        Args:
            within: seconds; what expires within them is due, in place of the shares above.
            propose: where our keys do not reach a threshold, leave a proposal for others.

        Returns:
            What it did, and what others must do by when, in sentences.
        """
        from pipeline.trust.refresh import Refresher

        self._require_exclusive()
        return Refresher(self, within, propose).run()

    def history(self, channel: str) -> Iterator[HistoryEntry]:
        """All versions of a channel, the newest first, each vouched for by the one after it.

        Raises:
            UsageError: there is no such channel.
            TrustError: a version is missing, or not what the version after it vouches for.
        """
        state = self.load()
        require_channel(state, channel, self.channels)
        return history(self.store, state, channel)

    def _drafter(self, state: State) -> Drafter:
        return Drafter(state, self.channels.expiry, self.now())

    def _channel_changes(self, targets: Targets) -> list[str]:
        roles = delegated(targets)
        changes = []
        for each in self.channels.channels:
            needs = f"{each.name} needs {count(each.gates.approvals, 'signature')}"
            if each.name not in roles:
                changes.append(f"new channel {each.name}")
            elif roles[each.name].threshold != each.gates.approvals:
                changes.append(needs)
        return changes

    def _note(self, state: State) -> None:
        """Remember what was published, so that this machine is never taken back behind it."""
        if state.forged or state.reset or state.announced is not None:
            return
        versions = {
            **state.published,
            layout.TIMESTAMP: state.timestamp.version,
            layout.SNAPSHOT: state.snapshot.version,
        }
        self._client.note(state.root.signed, versions)

    def _show(self, state: State, stored: Stored) -> Proposal:
        why = self._reviewer.unknown(state, stored)
        if why:
            return unreadable(stored.role, stored.id, why, stored.file.proposed)
        return self._reviewer.show(state, stored, *self._proposals.collect(stored, state))

    def _change(self, role: str, make: Callable[[State], Draft], propose: bool) -> Outcome:
        self._require_exclusive()
        return self._changer.change(role, make, propose)

    def _view(self, state: State, name: str) -> ChannelView:
        require_channel(state, name, self.channels)
        return view(state, name, self.keyring, self._client.read_pointer)

    def _require_exclusive(self) -> None:
        require_exclusive(self.store, self._single_writer)


def require_exclusive(store: Store, single_writer: bool) -> None:
    """Refuse to change a store whose writers could undo each other's work.

    Raises:
        HostError: it cannot keep writers apart, and *single_writer* is not set.
    """
    if not (single_writer or store.exclusive):
        raise HostError(
            f"{store.url} cannot keep two writers apart (its server has no conditional writes): "
            "one could undo what the other has signed",
            hint="If nobody else ever writes to it, CI jobs included, say so with "
            "`single_writer: true` under `store:` in images/settings.yaml. Else use a store that "
            "can.",
        )
