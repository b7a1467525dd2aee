"""Who may sign what, and how that changes: keys and thresholds of every role.

A role is called as a person calls it: ``root``, ``targets``, ``online`` (snapshot and timestamp),
a channel, ``builder`` or ``tester``. The first three are changed in the root, which old clients
follow step by step; the others in ``targets``. What such a change leaves without enough
signatures, :class:`pipeline.trust.repository.Repository` signs anew in the same step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from securesystemslib.signer import Key
from tuf.api.metadata import Root, Targets

from pipeline.errors import UsageError
from pipeline.trust.key_edits import (
    IN_ROOT,
    KeyRole,
    add_key,
    count,
    remove_key,
    replace_key,
    roles_of,
    set_threshold,
)
from pipeline.trust.layout import ONLINE, key_name

if TYPE_CHECKING:
    from pipeline.trust.repository import Repository
    from pipeline.trust.state import State
    from pipeline.trust.views import Outcome


class KeyChanges:
    """Changes who may sign what in a store.

    Args:
        repository: signs and publishes the change.
    """

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._channels = repository.channels

    def roles(self) -> tuple[KeyRole, ...]:
        """Every role and its keys, channels that have none yet included.

        Raises:
            TrustError, NetworkError: the store's metadata cannot be had.
        """
        # Not what machines see: that may be out of use, which a change of keys is to mend.
        return self.roles_in(self._repository.load())

    def roles_in(self, state: State) -> tuple[KeyRole, ...]:
        """Every role and its keys in *state*, channels that have none yet included."""
        return roles_of(state.root.signed, state.targets.signed, self._channels.names)

    def role(self, name: str) -> KeyRole:
        """One role and its keys.

        Raises:
            UsageError: there is no such role.
            TrustError, NetworkError: as :meth:`roles`.
        """
        roles = self.roles()
        for role in roles:
            if role.name == name:
                return role
        names = ", ".join(role.name for role in roles)
        raise UsageError(f"there is no role `{name}`", hint=f"There are: {names}.")

    def find(self, name: str) -> Key | None:
        """The public key that is called *name* in some role; None if there is none.

        Raises:
            TrustError, NetworkError: as :meth:`roles`.
        """
        keys = (key for role in self.roles() for key in role.keys)
        return next((key for key in keys if key_name(key) == name), None)

    def require(self, name: str) -> Key:
        """The public key that is called *name* in some role.

        Raises:
            UsageError: there is none.
            TrustError, NetworkError: as :meth:`roles`.
        """
        found = self.find(name)
        if found is None:
            names = dict.fromkeys(known for role in self.roles() for known in role.names)
            raise UsageError(f"no role has a key `{name}`", hint=f"There are: {', '.join(names)}.")
        return found

    def add(self, role: str, keys: Sequence[Key], *, propose: bool = False) -> Outcome:
        """Let more keys sign a role; a channel without a role is given one.

        Args:
            role: as a person calls it.
            keys: public keys, each with its name.
            propose: leave the change to others in the store where our keys do not suffice.

        Raises:
            UsageError: there is no such role, a key is in it, or a name is taken.
            RefusedError, ConflictError, HostError: as ``Repository.change_targets``.
        """
        found = self.role(role)
        if found.threshold == 0:
            outcome = self._repository.sync_channels({role: keys}, propose=propose)
            assert outcome is not None
            return outcome

        def edit(part: Root | Targets, inside: str) -> None:
            for key in keys:
                add_key(part, inside, key)

        return self._change(role, edit, f"{_listed(keys)} may sign {role}", propose)

    def remove(self, role: str, name: str, *, propose: bool = False) -> Outcome:
        """Let a key sign a role no more.

        Args:
            role: as a person calls it.
            name: the key's name.
            propose: as in :meth:`add`.

        Raises:
            UsageError: there is no such role or key, or too few keys would be left.
            RefusedError, ConflictError, HostError: as ``Repository.change_targets``.
        """
        self.role(role)
        return self._change(
            role,
            lambda part, inside: remove_key(part, inside, name),
            f"{name} may sign {role} no more",
            propose,
        )

    def rotate(
        self, name: str, key: Key, *, propose: bool = False, lost: bool = False
    ) -> tuple[Outcome, ...]:
        """Put *key* in the place of the one called *name*, in every role that it has.

        Args:
            name: the old key's name.
            key: the new public key, with its name.
            propose: as in :meth:`add`.
            lost: the old key is gone, and cannot sign beside the new one; see
                ``Repository.change_root``.

        Returns:
            One for the root and one for ``targets``, as far as they were concerned. Cut between
            the two, it goes on when it is called again with the same keys.

        Raises:
            UsageError: no role has a key of that name, or has the new one already.
            RefusedError, ConflictError, HostError: as ``Repository.change_root``.
        """
        self.require(name)
        holds = [role.name for role in self.roles() if name in role.names]
        reason = f"{key_name(key)} in place of {name}"
        outcomes: list[Outcome] = []
        in_root = [inside for role in holds for inside in IN_ROOT.get(role, ())]
        in_targets = [role for role in holds if role not in IN_ROOT]
        if in_root:

            def edit_root(root: Root) -> None:
                for role in in_root:
                    replace_key(root, role, name, key)

            outcomes.append(
                self._repository.change_root(edit_root, reason=reason, propose=propose, lost=lost)
            )
        if in_targets:

            def edit_targets(targets: Targets) -> None:
                for role in in_targets:
                    replace_key(targets, role, name, key)

            outcomes.append(
                self._repository.change_targets(edit_targets, reason=reason, propose=propose)
            )
        return tuple(outcomes)

    def set_threshold(self, role: str, threshold: int, *, propose: bool = False) -> Outcome | None:
        """Change how many keys must sign a role.

        Args:
            role: as a person calls it.
            threshold: how many.
            propose: as in :meth:`add`.

        Returns:
            None if it is so already.

        Raises:
            UsageError: the role has fewer keys, or is a channel whose definition says otherwise.
            RefusedError, ConflictError, HostError: as ``Repository.change_targets``.
        """
        found = self.role(role)
        if role == ONLINE and threshold != 1:
            raise UsageError(
                "the online role has the threshold 1: one job signs it, by itself",
                hint="Put several signatures before root, targets and channels instead.",
            )
        if role in self._channels.names:
            self._require_defined(role, threshold)
        if found.threshold == threshold:
            return None
        return self._change(
            role,
            lambda part, inside: set_threshold(part, inside, threshold),
            f"{role} needs {count(threshold, 'signature')}",
            propose,
        )

    def _require_defined(self, channel: str, threshold: int) -> None:
        approvals = self._channels[channel].gates.approvals
        if approvals != threshold:
            raise UsageError(
                f"images/channels.yaml says that {channel} needs {count(approvals, 'approval')}",
                hint=f"Set `approvals: {threshold}` in the gates of {channel} there, then run this "
                "again.",
            )

    def _change(
        self, role: str, edit: Callable[[Root | Targets, str], None], reason: str, propose: bool
    ) -> Outcome:
        if role not in IN_ROOT:
            return self._repository.change_targets(
                lambda targets: edit(targets, role), reason=reason, propose=propose
            )

        def edit_root(root: Root) -> None:
            for inside in IN_ROOT[role]:
                edit(root, inside)

        return self._repository.change_root(edit_root, reason=reason, propose=propose)


def _listed(keys: Sequence[Key]) -> str:
    return ", ".join(key_name(key) for key in keys)
