"""Edits of who may sign what, in a copy of the root or of ``targets``: pure, refusing nonsense."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from securesystemslib.signer import Key
from tuf.api.metadata import Role, Root, Targets

from pipeline.errors import UsageError
from pipeline.trust.layout import (
    ATTESTERS,
    ONLINE,
    ROOT,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    key_name,
)

IN_ROOT: Mapping[str, tuple[str, ...]] = {
    ROOT: (ROOT,),
    TARGETS: (TARGETS,),
    ONLINE: (SNAPSHOT, TIMESTAMP),
}
"""The roles whose keys the root names, and what they are called in it."""

_NUMBERED = re.compile(r"(.*?)-(\d+)")


@dataclass(frozen=True)
class KeyRole:
    """A role, and who may sign it.

    Attributes:
        name: as a person calls it.
        keys: the keys that count, in order.
        threshold: how many of them must sign; 0 for a channel that has no role yet.
    """

    name: str
    keys: tuple[Key, ...]
    threshold: int

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the keys, in order."""
        return tuple(key_name(key) for key in self.keys)


def roles_of(root: Root, targets: Targets, channels: Collection[str] = ()) -> tuple[KeyRole, ...]:
    """Every role and its keys.

    Args:
        root: the root.
        targets: the role that names the channels' keys.
        channels: names of channels that may have no role yet.
    """
    found = [_role(root, name, inside[-1]) for name, inside in IN_ROOT.items()]
    delegations = targets.delegations
    names = list((delegations.roles if delegations else None) or {})
    attesters = [name for name in names if name in ATTESTERS]
    found += [_role(targets, name, name) for name in names if name not in ATTESTERS]
    found += [KeyRole(name, (), 0) for name in channels if name not in names]
    found += [_role(targets, name, name) for name in attesters]
    return tuple(found)


def successor(name: str, taken: Collection[str]) -> str:
    """The name of the key that comes after *name*: ``online-2`` after ``online``.

    Args:
        name: a key's name.
        taken: names that are in use, or were.
    """
    match = _NUMBERED.fullmatch(name)
    return numbered(match[1] if match else name, taken, start=int(match[2]) + 1 if match else 2)


def numbered(stem: str, taken: Collection[str], *, start: int = 1) -> str:
    """The first of ``stem-1``, ``stem-2``, … that is not in *taken*, from *start* on."""
    number = start
    while f"{stem}-{number}" in taken:
        number += 1
    return f"{stem}-{number}"


def add_key(part: Root | Targets, role: str, key: Key) -> None:
    """Let *key* sign a role.

    Args:
        part: the root or ``targets``; changed in place.
        role: as *part* calls it.
        key: the public key, with its name.

    Raises:
        UsageError: it may already, or its name belongs to another key.
    """
    known = _keys(part)
    for keyid in _get(part, role).keyids:
        if keyid == key.keyid or known[keyid].keyval == key.keyval:
            raise UsageError(
                f"the key `{key_name(known[keyid])}` may sign {_called(role)} already",
                hint="A second name would let one person's signature count twice.",
            )
    _require_free(part, key)
    part.add_key(key, role)


def remove_key(part: Root | Targets, role: str, name: str) -> None:
    """Let a key sign a role no more.

    Raises:
        UsageError: it may not anyway, or too few keys would be left.
    """
    key = _find(part, role, name)
    left, threshold = len(_get(part, role).keyids) - 1, _get(part, role).threshold
    if left < threshold:
        called = _called(role)
        short = f"fewer than its threshold of {threshold}" if left else "and nobody could sign it"
        raise UsageError(
            f"without `{name}`, {called} would be left with {count(left, 'key')}, {short}",
            hint=f"Replace it (`recast keys rotate {name}`), or first add another key "
            f"(`recast keys add {called}`)"
            + (" or lower the threshold (`recast keys threshold`)." if left else "."),
        )
    part.revoke_key(key.keyid, role)


def replace_key(part: Root | Targets, role: str, name: str, key: Key) -> None:
    """Let *key* sign a role in place of the one called *name*.

    Raises:
        UsageError: *name* may not sign it, or *key* may already.
    """
    old = _find(part, role, name)
    keyids = _get(part, role).keyids
    place = keyids.index(old.keyid)
    add_key(part, role, key)
    keyids.remove(key.keyid)
    keyids.insert(place, key.keyid)
    part.revoke_key(old.keyid, role)


def set_threshold(part: Root | Targets, role: str, threshold: int) -> None:
    """Change how many keys must sign a role.

    Raises:
        UsageError: it has fewer keys, or *threshold* is not above zero.
    """
    found = _get(part, role)
    if not 1 <= threshold <= len(found.keyids):
        raise UsageError(
            f"{_called(role)} has {count(len(found.keyids), 'key')}: its threshold cannot be "
            f"{threshold}",
            hint=f"Choose one from 1 to {len(found.keyids)}, or add keys first "
            f"(`recast keys add {_called(role)}`).",
        )
    found.threshold = threshold


def _roles(part: Root | Targets) -> Mapping[str, Role]:
    if isinstance(part, Root):
        return part.roles
    return (part.delegations.roles or {}) if part.delegations else {}


def _keys(part: Root | Targets) -> Mapping[str, Key]:
    if isinstance(part, Root):
        return part.keys
    return part.delegations.keys if part.delegations else {}


def _role(part: Root | Targets, name: str, inside: str) -> KeyRole:
    role, keys = _get(part, inside), _keys(part)
    known = tuple(keys[keyid] for keyid in role.keyids if keyid in keys)
    return KeyRole(name, known, role.threshold)


def _get(part: Root | Targets, role: str) -> Role:
    found = _roles(part).get(role)
    if found is None:
        raise UsageError(
            f"there is no role `{role}`", hint=f"There are: {', '.join(_roles(part))}."
        )
    return found


def _find(part: Root | Targets, role: str, name: str) -> Key:
    keys = _keys(part)
    for keyid in _get(part, role).keyids:
        if keyid in keys and key_name(keys[keyid]) == name:
            return keys[keyid]
    names = ", ".join(key_name(keys[keyid]) for keyid in _get(part, role).keyids if keyid in keys)
    raise UsageError(f"{_called(role)} has no key `{name}`", hint=f"It has: {names}.")


def _called(role: str) -> str:
    return ONLINE if role in IN_ROOT[ONLINE] else role


def _require_free(part: Root | Targets, key: Key) -> None:
    """A name means one key: who reads the history must know whose signature it was."""
    for other in _keys(part).values():
        if other.keyid == key.keyid and key_name(other) != key_name(key):
            raise UsageError(
                f"this key is known as `{key_name(other)}`",
                hint=f"Give it that name: `--name {key_name(other)}`.",
            )
        if key_name(other) == key_name(key) and other.keyid != key.keyid:
            raise UsageError(
                f"another key is called `{key_name(key)}` already",
                hint="Choose another name with `--name`.",
            )


def count(number: int, what: str) -> str:
    """``1 key``, ``2 keys``."""
    return f"{number} {what}{'' if number == 1 else 's'}"
