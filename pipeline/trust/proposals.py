"""Proposed changes in a store, and the signatures that are collected for them.

A proposal holds the very bytes that are to be signed, and each signature has an object of its
own, so that any number of people can sign at once. Nothing here is believed because it is there:
what a proposal would do is read from those bytes, and a signature counts if it verifies.
"""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import ValidationError
from securesystemslib.signer import Signature
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata
from tuf.api.serialization import DeserializationError

from pipeline import digest
from pipeline.errors import TrustError, UsageError
from pipeline.models.fields import Moment, Record
from pipeline.store.base import ExistsError, MissingError, Store
from pipeline.trust import layout
from pipeline.trust.draft import Draft
from pipeline.trust.state import State, keys_of

_FILE = "proposal.json"
_SIGNATURE = ".sig.json"
_ID = 12  # characters of the digest; for people to type the beginning of


class ProposalFile(Record):
    """A proposal as it is stored.

    Attributes:
        role: what it is about.
        proposed: when.
        base: by role, the version that must be in force for it to make sense.
        parts: by role, what is to be signed.
        lost: see :class:`pipeline.trust.draft.Draft`.
    """

    role: str
    proposed: Moment
    base: Mapping[str, int]
    parts: Mapping[str, dict[str, Any]]
    lost: bool = False
    format: int = 1


class SignatureFile(Record):
    """One key's signatures of a proposal, by role.

    Attributes:
        name: what the signer calls the key; for messages alone.
        signatures: by role.
    """

    name: str = ""
    signatures: Mapping[str, dict[str, Any]]


@dataclass(frozen=True)
class Stored:
    """A proposal in a store; nothing of it is verified.

    Attributes:
        id: digest of its content, shortened.
        role: what it is about.
        draft: the new versions, with the signatures that count once they are collected.
    """

    id: str
    role: str
    file: ProposalFile
    draft: Draft

    @property
    def prefix(self) -> str:
        """The beginning of the keys of all of its objects."""
        return layout.proposal_key(self.role, self.id).removesuffix(_FILE)


class ProposalStore:
    """The proposals of a store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def add(self, draft: Draft, base: Mapping[str, int], now: datetime) -> Stored:
        """Store a draft, and the signatures that it has."""
        parts = {
            role: Metadata(part.signed).to_dict()["signed"] for role, part in draft.parts.items()
        }
        file = ProposalFile(role=draft.role, proposed=now, base=base, parts=parts, lost=draft.lost)
        data = digest.canonical(file.model_dump(mode="json"))
        if len(data) > layout.MAX_PROPOSAL:
            raise UsageError("the proposed change is too large")
        for key, pointer in draft.pointers.items():
            self._store.put(key, pointer, sha256=digest.of_bytes(pointer))
        identity = digest.of_bytes(data)[:_ID]
        # The same change at the same second, or a request that was sent twice, is there already.
        with contextlib.suppress(ExistsError):
            self._store.create(layout.proposal_key(draft.role, identity), data)
        stored = Stored(identity, draft.role, file, draft)
        signed = [keyid for part in draft.parts.values() for keyid in part.signatures]
        self.add_signatures(stored, draft, tuple(dict.fromkeys(signed)))
        return stored

    def add_signatures(self, stored: Stored, draft: Draft, keyids: tuple[str, ...]) -> None:
        """Store the signatures that *draft* has of some keys."""
        for keyid in keyids:
            signatures = {
                role: part.signatures[keyid].to_dict()
                for role, part in draft.parts.items()
                if keyid in part.signatures
            }
            data = digest.canonical({"signatures": signatures})
            key = layout.signature_key(stored.role, stored.id, keyid)
            try:
                self._store.create(key, data)
            except ExistsError:
                # Ours from before, or something that only looks like it: this one verifies.
                self._store.delete(key)
                with contextlib.suppress(ExistsError):  # our own key, at work elsewhere
                    self._store.create(key, data)

    def all(self) -> Iterator[Stored]:
        """Every proposal that can be read, sorted by role."""
        for info in self._store.list(layout.PROPOSALS):
            parts = info.key.split("/")
            if len(parts) == 4 and parts[3] == _FILE:
                try:
                    yield self._read(parts[1], parts[2])
                except (MissingError, TrustError):
                    continue  # withdrawn meanwhile, or put there by somebody else

    def get(self, identity: str) -> Stored:
        """The proposal whose id begins with *identity*.

        Raises:
            UsageError: there is none, or more than one.
            TrustError: it cannot be read.
        """
        role, found = self.locate(identity)
        return self._read(role, found)

    def locate(self, identity: str) -> tuple[str, str]:
        """Role and whole id of the proposal whose id begins with *identity*.

        Raises:
            UsageError: there is none, or more than one.
        """
        ids = {
            parts[2]: parts[1]
            for parts in (info.key.split("/") for info in self._store.list(layout.PROPOSALS))
            if len(parts) == 4 and parts[3] == _FILE
        }
        found = [each for each in ids if identity and each.startswith(identity)]
        if len(found) != 1:
            raise UsageError(
                f"`{identity}` is the id of {len(found) or 'no'} proposals in {self._store.url}",
                hint=f"There are: {', '.join(sorted(ids))}. `recast proposals` tells more."
                if ids
                else "Nothing waits for a signature.",
            )
        return ids[found[0]], found[0]

    def collect(self, stored: Stored, state: State) -> tuple[Draft, tuple[str, ...]]:
        """The draft with all signatures that count, and what is wrong with others."""
        parts = {role: copy.deepcopy(part) for role, part in stored.draft.parts.items()}
        draft = Draft(stored.draft.role, parts, stored.draft.pointers, stored.draft.lost)
        notices: list[str] = []
        for info in self._store.list(stored.prefix):
            keyid = info.key.removeprefix(stored.prefix)
            if not keyid.endswith(_SIGNATURE):
                continue
            keyid = keyid.removesuffix(_SIGNATURE)
            try:
                data = self._store.get(info.key, limit=layout.MAX_ROOT)
                file = SignatureFile.model_validate_json(data)
                found = {role: Signature.from_dict(dict(d)) for role, d in file.signatures.items()}
            except (MissingError, ValidationError, ValueError, KeyError, TypeError, TrustError):
                notices.append(f"{info.key} cannot be read as signatures.")
                continue
            for role, signature in found.items():
                why = _objection(draft, state, role, keyid, signature)
                if why:
                    notices.append(why)
                else:
                    parts[role].signatures[keyid] = signature
        return draft, tuple(notices)

    def remove(self, role: str, identity: str) -> None:
        """Remove a proposal, itself before its signatures."""
        key = layout.proposal_key(role, identity)
        self._store.delete(key)
        for info in list(self._store.list(key.removesuffix(_FILE))):
            self._store.delete(info.key)

    def _read(self, role: str, identity: str) -> Stored:
        key = layout.proposal_key(role, identity)
        data = self._store.get(key, limit=layout.MAX_PROPOSAL)
        try:
            file = ProposalFile.model_validate_json(data)
            parts: dict[str, Metadata[Any]] = {
                name: Metadata.from_bytes(json.dumps({"signatures": [], "signed": part}).encode())
                for name, part in file.parts.items()
            }
        except (ValidationError, DeserializationError, RepositoryError) as error:
            raise TrustError(f"{key} in {self._store.url} cannot be read as a proposal") from error
        if digest.of_bytes(data)[:_ID] != identity or file.role != role or role not in parts:
            raise TrustError(
                f"{key} in {self._store.url} is not the proposal that its name says",
                hint=f"Somebody has changed it: `recast proposals withdraw {identity}`.",
            )
        return Stored(identity, role, file, Draft(role, parts, {}, file.lost))


def _objection(draft: Draft, state: State, role: str, keyid: str, signature: Signature) -> str:
    """Why a signature does not count; empty if it does."""
    if role not in draft.parts or signature.keyid != keyid:
        return f"A signature of the key {keyid[:12]} is for something else."
    judges = list(draft.judges(state, role))
    allowed = {key.keyid: key for judge in judges for key in keys_of(judge, role)}
    if keyid not in allowed:
        name = key_names(state).get(keyid, keyid[:12])
        return f"The signature of `{name}` does not count: that key may not sign {role}."
    trial = Metadata(draft.parts[role].signed, {keyid: signature})
    for judge in judges:
        result = judge.get_verification_result(role, trial.signed_bytes, trial.signatures)
        if keyid in result.signed:
            return ""
    return f"The signature of `{layout.key_name(allowed[keyid])}` is not one of this change."


def key_names(state: State) -> dict[str, str]:
    """The names of all keys that the store's metadata knows, by id."""
    delegations = state.targets.signed.delegations
    keys = {**state.root.signed.keys, **(delegations.keys if delegations else {})}
    return {keyid: layout.key_name(key) for keyid, key in keys.items()}
