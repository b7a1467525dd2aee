"""The signed metadata of a store, to change: the engineers' side of trust."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from pipeline import clock
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
    from pipeline.trust.keys import Keyring
    from pipeline.trust.state import State

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
        keyring: Keyring,
        channels: Channels,
        *,
        single_writer: bool = False,
        now: Callable[[], datetime] = clock.now,
    ) -> None:
        raise NotImplementedError

    @staticmethod
    def create(
        store: Store,
        keyring: Keyring,
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
        raise NotImplementedError

    def load(self) -> State:
        """The newest verified state, with what is signed and not yet published.

        Raises:
            UsageError: the store has no metadata.
            TrustError: it is not what was signed, or older than what was seen before.
        """
        raise NotImplementedError

    def channel(self, name: str) -> ChannelView:
        """A channel as it stands.

        Raises:
            UsageError: there is no such channel, or it has no role yet; says what to do.
        """
        raise NotImplementedError

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
        raise NotImplementedError

    def change_targets(
        self, edit: Callable[[Targets], None], *, reason: str = "", propose: bool = False
    ) -> Outcome:
        """Sign a new version of the role that names the channels' keys.

        Channels that its new keys and thresholds would leave without enough signatures are
        signed anew in the same step.

        Args:
            edit: changes a copy in place; called again after a lost race.
            reason: for the history.
            propose: as in :meth:`change_channel`.

        Raises:
            RefusedError, ConflictError, HostError: as :meth:`change_channel`.
        """
        raise NotImplementedError

    def change_root(
        self, edit: Callable[[Root], None], *, reason: str = "", propose: bool = False
    ) -> Outcome:
        """Sign a new version of the root, which clients follow from the one that they have.

        Whatever its new keys would leave without enough signatures (targets, snapshot,
        timestamp) is signed by old and new keys before the root appears, so that clients on
        either side of it accept the store.

        Args:
            edit: changes a copy in place; called again after a lost race.
            reason: for the history.
            propose: as in :meth:`change_channel`.

        Raises:
            RefusedError, ConflictError, HostError: as :meth:`change_channel`.
        """
        raise NotImplementedError

    def sync_channels(
        self, keys: Mapping[str, Sequence[Key]], *, propose: bool = False
    ) -> Outcome | None:
        """Give each channel of ``images/channels.yaml`` its role, and each role its threshold.

        Args:
            keys: who may sign a channel that has no role yet.
            propose: as in :meth:`change_channel`.

        Returns:
            None if there is nothing to do.

        Raises:
            UsageError: a new channel has too few keys.
            RefusedError, ConflictError, HostError: as :meth:`change_channel`.
        """
        raise NotImplementedError

    def proposals(self) -> list[Proposal]:
        """The changes that wait for signatures, and those that became stale; oldest first."""
        raise NotImplementedError

    def approve(self, proposal: str) -> Outcome:
        """Add our signature to a proposed change, and carry it out if that was the last one.

        Args:
            proposal: its id, or the beginning of it.

        Raises:
            UsageError: there is no such proposal, or more than one.
            ConflictError: it is stale.
            RefusedError: none of our keys may sign it.
        """
        raise NotImplementedError

    def withdraw(self, proposal: str) -> Proposal:
        """Remove a proposed change, and what has been signed of it.

        Raises:
            UsageError: there is no such proposal, or more than one.
        """
        raise NotImplementedError

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
        raise NotImplementedError

    def history(self, channel: str) -> Iterator[HistoryEntry]:
        """All versions of a channel, the newest first, each vouched for by the one after it.

        Raises:
            UsageError: there is no such channel.
            TrustError: a version is missing, or not what the version after it vouches for.
        """
        raise NotImplementedError
