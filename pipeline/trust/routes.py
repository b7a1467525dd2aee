"""How a new root can come into force, as far as that is told by looking."""

from __future__ import annotations

from tuf.api.metadata import Root

from pipeline.errors import RefusedError, TrustError
from pipeline.trust import layout
from pipeline.trust.draft import ONLINE_ROLES
from pipeline.trust.state import State, keys_of, names


def accepts_all(new: Root, old: Root) -> bool:
    """Does the new root accept whatever the old one accepts, its own role aside?"""
    return all(
        set(old.roles[role].keyids) <= set(new.roles[role].keyids)
        and new.roles[role].threshold <= old.roles[role].threshold
        for role in (layout.TARGETS, *ONLINE_ROLES)
    )


def has_other_keys(new: Root, old: Root) -> bool:
    """Has none of the online keys of *old* a say in *new*?"""
    return not any(
        set(old.roles[role].keyids) & set(new.roles[role].keyids) for role in ONLINE_ROLES
    )


def require_whole(state: State) -> None:
    """Refuse to build on a list of channels that is not what was signed.

    Raises:
        TrustError: it is not there.
    """
    if layout.TARGETS in state.forged and not state.reset:
        raise TrustError(
            f"{state.forged[layout.TARGETS]}: nothing can be published on top of that",
            hint="If that copy of the store is damaged, bring the newest good one back. If "
            "somebody else had the online key, replace it: `recast keys rotate`.",
        )


def listed_keys(root: Root, role: str) -> str:
    """The names of the keys of a role that the root speaks of."""
    return " or ".join(f"`{name}`" for name in names(keys_of(root, role)))


def online_refusal(old: Root, new: Root) -> RefusedError:
    """The refusal of a root under which clients would refuse the store."""
    before, after = listed_keys(old, layout.TIMESTAMP), listed_keys(new, layout.TIMESTAMP)
    return RefusedError(
        "machines would refuse the store under the new root until its snapshot and timestamp are "
        f"signed anew, and the online keys for that ({before}, then {after}) are not all here",
        hint="Run it where they are. Or go in three steps: add the new key beside the old one, "
        "run `recast refresh` with both, then remove the old one.",
    )
