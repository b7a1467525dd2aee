"""Why a store's signed metadata is refused, in words for the person who has to find out why."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime

from tuf.api import exceptions
from tuf.api.metadata import Metadata, MetaFile, Root, Signed, Snapshot, Targets, Timestamp
from tuf.api.serialization import DeserializationError

from pipeline import clock
from pipeline.errors import TrustError
from pipeline.trust import layout

_COUNT = re.compile(r"signed by (\d+)/(\d+) keys")
_KINDS = (layout.ROOT, layout.TIMESTAMP, layout.SNAPSHOT, layout.TARGETS)

SAFE = "Nothing was taken over from it, and this machine goes on with what it has. "
ATTACK = (
    SAFE + "Either that copy of the store is broken or out of step, or somebody tampers with it: "
    "compare it with the original, and tell those who run it."
)


class ExpiredError(TrustError):
    """Signed metadata has run out, by the clock of this machine.

    Attributes:
        role: whose metadata.
        expired: when it ran out.
        now: what this machine takes for the present moment.
    """

    def __init__(self, role: str, where: str, expired: datetime, now: datetime) -> None:
        super().__init__(
            f"{of_role(role)} in {where} was good until {clock.iso(expired)}, and by the clock of "
            f"this machine it is {clock.iso(now)}: what has run out is refused, for it may be old "
            "news that somebody keeps handing out",
            hint="If that clock is right, the store is stale: "
            + (
                "`recast refresh` renews it where the online key is, or a mirror has stopped "
                "following."
                if role in (layout.TIMESTAMP, layout.SNAPSHOT)
                else f"those who hold the keys of {of_role(role)} must sign it anew "
                "(`recast refresh`)."
            )
            + " If it is wrong, set the clock of this machine.",
        )
        self.role = role
        self.expired = expired
        self.now = now


def of_role(role: str) -> str:
    """What a role is called in a sentence."""
    if role == layout.ROOT:
        return "the root of trust"
    if role == layout.TARGETS:
        return "the list of channels and their keys"
    if role in (layout.SNAPSHOT, layout.TIMESTAMP):
        return f"the {role}"
    return f"channel {role}"


def role_of(key: str) -> str:
    """The role whose metadata is at *key*."""
    if key == layout.TIMESTAMP_KEY:
        return layout.TIMESTAMP
    parsed = layout.parse_metadata_key(key)
    return parsed[0] if parsed else key


def explain(
    error: Exception,
    *,
    where: str,
    fetched: Mapping[str, bytes],
    known: Mapping[str, bytes],
    now: datetime,
    channel: str = "",
) -> TrustError:
    """The refusal that stands for an error of TUF's client.

    Args:
        error: what the client raised.
        where: the store's URL.
        fetched: what it was given, by key; the last is what it refused.
        known: by role, what this machine had trusted before.
        now: this machine's time.
        channel: which one it was about, if it was about one.
    """
    if isinstance(error, exceptions.DownloadHTTPError):
        return missing(getattr(error.__cause__, "key", ""), where)
    key = next(reversed(list(fetched)), "")
    role = role_of(key)
    offered = _read(fetched.get(key, b""))
    if isinstance(error, exceptions.ExpiredMetadataError):
        expired = _expired(fetched, known, where, now, channel)
        return expired or _other(error, key, where)
    if isinstance(error, DeserializationError) or (offered is None and key):
        return TrustError(
            f"{key} in {where} cannot be read as signed metadata: it is damaged, or something "
            "else was put in its place",
            hint=ATTACK,
        )
    kind = role if role in _KINDS else layout.TARGETS
    if offered is not None and offered.type != kind:
        return TrustError(
            f"{key} in {where} holds other metadata than its name says ({offered.type}): files "
            "were exchanged",
            hint=ATTACK,
        )
    if isinstance(error, exceptions.UnsignedMetadataError):
        return _unsigned(error, key, role, where)
    if isinstance(error, exceptions.LengthOrHashMismatchError):
        return TrustError(
            f"{key} in {where} is not the file that the signed metadata names: its digest or "
            "length is another. Parts of different states of a store are mixed here",
            hint=ATTACK,
        )
    if isinstance(error, exceptions.BadVersionNumberError) and offered is not None:
        return _bad_version(key, role, offered, _read(known.get(role, b"")), where)
    if isinstance(offered, Snapshot):
        gone = _removed(offered, _read(known.get(role, b"")))
        if gone:
            return TrustError(
                f"{key} in {where} no longer lists {of_role(gone)}, which this machine has seen: "
                "what was signed once cannot just be dropped",
                hint=ATTACK,
            )
    return _other(error, key, where)


def missing(key: str, where: str) -> TrustError:
    """The refusal of a store that lacks a file which it must have."""
    if key == layout.TIMESTAMP_KEY:
        return TrustError(
            f"{where} has no {key}: it is no signed store, or an incomplete copy of one",
            hint="Check the store's URL. `recast init` makes a signed store.",
        )
    return TrustError(
        f"{where} has no {key or 'such file'}, which its signed metadata names: that copy of the "
        "store is incomplete, or somebody holds the file back",
        hint=ATTACK,
    )


def step_back(role: str, offered: int, seen: int, where: str) -> TrustError:
    """The refusal of metadata that is older than what this machine has seen."""
    return TrustError(
        f"{where} takes a step back: it offers version {offered} of {of_role(role)}, and this "
        f"machine has seen version {seen}. Older metadata is refused, whoever signed it: it "
        "could bring back what was withdrawn",
        hint=ATTACK + " A store that was restored from a backup looks the same: `recast "
        "refresh` on the newest copy mends that.",
    )


def _unsigned(error: Exception, key: str, role: str, where: str) -> TrustError:
    count = _COUNT.search(str(error))
    given = f"{count[1]} of the {count[2]}" if count else "not all of the"
    return TrustError(
        f"{key} in {where} carries {given} signatures that {of_role(role)} needs: it was signed "
        "with the wrong key, or changed after it was signed",
        hint=ATTACK + " If its keys were changed on purpose, a newer root of trust says so: make "
        "sure that the store has it.",
    )


def _expired(
    fetched: Mapping[str, bytes],
    known: Mapping[str, bytes],
    where: str,
    now: datetime,
    channel: str,
) -> ExpiredError | None:
    newest = {role: _read(data) for role, data in known.items()}
    for key, data in fetched.items():
        newest[role_of(key)] = _read(data)
    for role in (*_KINDS, channel):
        signed = newest.get(role)
        if signed is not None and signed.is_expired(now):
            return ExpiredError(role, where, signed.expires, now)
    return None


def _bad_version(
    key: str, role: str, offered: Signed, before: Signed | None, where: str
) -> TrustError:
    older = _rolled_back(role, offered, before)
    if older:
        return step_back(*older, where)
    return TrustError(
        f"{key} in {where} holds version {offered.version} of {of_role(role)}, which is not the "
        "version that the signed metadata names. Parts of different states of a store are mixed "
        "here",
        hint=ATTACK,
    )


def _rolled_back(role: str, offered: Signed, before: Signed | None) -> tuple[str, int, int] | None:
    """Whose version went back, to which, and from which."""
    if before is not None and offered.version < before.version and role == layout.TIMESTAMP:
        return role, offered.version, before.version
    for name, old in _named(before).items():
        new = _named(offered).get(name)
        if new is not None and new.version < old.version:
            return name.removesuffix(".json"), new.version, old.version
    return None


def _removed(offered: Signed, before: Signed | None) -> str:
    missing = sorted(set(_named(before)) - set(_named(offered)))
    return missing[0].removesuffix(".json") if missing else ""


def _named(signed: Signed | None) -> dict[str, MetaFile]:
    if isinstance(signed, Timestamp):
        return {"snapshot.json": signed.snapshot_meta}
    return signed.meta if isinstance(signed, Snapshot) else {}


def _other(error: Exception, key: str, where: str) -> TrustError:
    return TrustError(f"{key or 'signed metadata'} in {where} is refused: {error}", hint=ATTACK)


def _read(data: bytes) -> Root | Timestamp | Snapshot | Targets | None:
    """What a file says, nothing verified: good for words alone."""
    try:
        signed: Root | Timestamp | Snapshot | Targets = Metadata.from_bytes(data).signed
    except DeserializationError:
        return None
    return signed
