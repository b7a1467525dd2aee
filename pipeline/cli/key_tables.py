"""How roles, their keys, and changes of them are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.cli.terminal import table
from pipeline.clock import iso

if TYPE_CHECKING:
    from pipeline.trust.key_edits import KeyRole
    from pipeline.trust.keys import Keyring
    from pipeline.trust.state import Loaded, State
    from pipeline.trust.views import Outcome

_SHORT = 12  # hexadecimal digits of a key's id


def as_data(roles: Sequence[KeyRole], state: State, ring: Keyring) -> dict[str, Any]:
    """Roles and keys, for JSON."""
    parts = _parts(state)
    return {
        "roles": [_role_data(role, parts) for role in roles],
        "keys": _key_rows(roles, ring),
    }


def as_tables(roles: Sequence[KeyRole], state: State, ring: Keyring) -> str:
    """Roles and keys, for a person."""
    parts = _parts(state)
    upper = [
        (
            role.name,
            f"{role.threshold} of {len(role.keys)}" if role.threshold else "no role yet",
            _until(role.name, parts),
            ", ".join(role.names),
        )
        for role in roles
    ]
    lower = [
        (
            row["name"],
            row["keyid"][:_SHORT],
            ", ".join(row["roles"]) or "none",
            private_place(ring, row["name"]) if row["here"] else "not here",
        )
        for row in _key_rows(roles, ring)
    ]
    return "\n\n".join(
        [
            table(upper, ("role", "signatures", "signed until", "keys")),
            table(lower, ("key", "id", "roles", "private key")),
        ]
    )


def _key_rows(roles: Sequence[KeyRole], ring: Keyring) -> list[dict[str, Any]]:
    """Every key that is in a role or here."""
    from pipeline.trust.layout import key_name

    here = ring.names()
    known = {key_name(key): key for role in roles for key in role.keys}
    rows: list[dict[str, Any]] = []
    for name in dict.fromkeys((*known, *here)):
        key = known[name] if name in known else ring.public(name)
        mine = name in here and (name not in known or ring.signer(key) is not None)
        file = ring.file(name) if mine else None
        rows.append(
            {
                "name": name,
                "keyid": key.keyid,
                "type": key.keytype,
                "roles": [role.name for role in roles if name in role.names],
                "here": mine,
                "uri": ring.uri(name) if mine else None,
                "file": str(file) if file else None,
                "encrypted": ring.encrypted(name) if mine else None,
            }
        )
    return rows


@dataclass(frozen=True)
class _Part:
    """One file of metadata that a role signs."""

    name: str
    version: int
    expires: datetime | None
    problem: str = ""


def _parts(state: State) -> Mapping[str, _Part]:
    """All files, by the role as the metadata calls it."""
    loaded: dict[str, Loaded[Any]] = {
        "root": state.root,
        "targets": state.targets,
        "snapshot": state.snapshot,
        "timestamp": state.timestamp,
        **state.channels,
    }
    found = {name: _Part(name, each.version, each.signed.expires) for name, each in loaded.items()}
    return found | {name: _Part(name, 0, None, why) for name, why in state.broken.items()}


def _of(role: str, parts: Mapping[str, _Part]) -> list[_Part]:
    from pipeline.trust.key_edits import IN_ROOT

    return [parts[name] for name in IN_ROOT.get(role, (role,)) if name in parts]


def _role_data(role: KeyRole, parts: Mapping[str, _Part]) -> dict[str, Any]:
    return {
        "name": role.name,
        "threshold": role.threshold,
        "keys": list(role.names),
        "metadata": [
            {
                "name": part.name,
                "version": part.version,
                "expires": iso(part.expires) if part.expires else None,
                "problem": part.problem,
            }
            for part in _of(role.name, parts)
        ],
    }


def _until(role: str, parts: Mapping[str, _Part]) -> str:
    mine = _of(role, parts)
    times = [part.expires for part in mine if part.expires is not None]
    if any(part.problem for part in mine):
        return "refused"
    return iso(min(times))[:10] if times else "-"


def short_path(path: Path) -> str:
    """*path* as seen from here, if it is below."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def private_place(ring: Keyring, name: str) -> str:
    """Where a private key is, and how it is kept."""
    file = ring.file(name)
    if file is None:
        return ring.uri(name)
    words = {True: "encrypted", False: "not encrypted", None: "not within reach"}
    return f"{short_path(file)}, {words[ring.encrypted(name)]}"


def sentences(outcome: Outcome) -> list[str]:
    """What came of a change of keys, for a person."""
    names = ", ".join(outcome.signed_by)
    if outcome.version is None:
        more = f"{outcome.missing} more signature{'s are' if outcome.missing != 1 else ' is'}"
        lines = [
            f"{outcome.channel}: proposed as {outcome.proposal}, signed by {names or 'nobody'}; "
            f"{more} needed: `recast approve {outcome.proposal}`."
        ]
    elif outcome.published:
        lines = [f"{outcome.channel}: version {outcome.version} is signed by {names}."]
    else:
        lines = [
            f"{outcome.channel}: version {outcome.version} is signed by {names}, and waits for "
            "the online key: `recast refresh`, where that is."
        ]
    return [*lines, *outcome.notices]
