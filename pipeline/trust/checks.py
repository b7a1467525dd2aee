"""Checks of one file of signed metadata: python-tuf's own, with words for a person."""

from __future__ import annotations

from typing import Any

from tuf.api.exceptions import LengthOrHashMismatchError, RepositoryError, UnsignedMetadataError
from tuf.api.metadata import Metadata, MetaFile, Root, Targets
from tuf.api.serialization import DeserializationError

from pipeline.errors import TrustError
from pipeline.store.base import MissingError, Reader
from pipeline.trust import layout
from pipeline.trust.state import Loaded, T, verify

_RESTORE = "Bring it back from a copy of the store."


def parse(data: bytes, kind: type[T], key: str, where: str) -> Loaded[T]:
    """Read a file; nothing is verified.

    Raises:
        TrustError: it is not metadata of that kind.
    """
    try:
        metadata: Metadata[T] = Metadata.from_bytes(data)
    except (DeserializationError, RepositoryError) as error:
        raise TrustError(f"{key} in {where} cannot be read as signed metadata") from error
    if metadata.signed.type != kind.type:
        raise TrustError(f"{key} in {where} holds {metadata.signed.type}, not {kind.type}")
    return Loaded(data, metadata)


def follow(trusted: Loaded[Root], data: bytes, key: str, where: str) -> Loaded[Root]:
    """The next root after one that is trusted.

    Raises:
        TrustError: it is not the next one, or lacks the signatures of the old or the new keys.
    """
    new = parse(data, Root, key, where)
    if new.version != trusted.version + 1:
        raise TrustError(f"{key} in {where} holds version {new.version} of the root")
    for delegator in (trusted.signed, new.signed):
        require(delegator, layout.ROOT, new, key, where)
    return new


def require(
    delegator: Root | Targets, role: str, loaded: Loaded[Any], key: str, where: str
) -> None:
    """Demand the signatures that a role needs.

    Raises:
        TrustError: some are missing.
    """
    try:
        delegator.verify_delegate(role, loaded.metadata.signed_bytes, loaded.metadata.signatures)
    except (UnsignedMetadataError, ValueError) as error:
        raise TrustError(
            f"{key} in {where} lacks signatures: {missing(delegator, role, loaded)}",
            hint="It was signed with other keys, or changed afterwards. Whoever can write to the "
            "store may have done that: compare it with a copy.",
        ) from error


def missing(delegator: Root | Targets, role: str, loaded: Loaded[Any]) -> str:
    """How many signatures are there, in words."""
    try:
        result = verify(delegator, role, loaded.metadata)
    except ValueError:
        return "nobody may sign it"
    return f"{len(result.signed)} of the {result.threshold} that {role} needs are there"


def read_named(store: Reader, key: str, meta: MetaFile, limit: int) -> bytes:
    """A file that other metadata names by digest.

    Raises:
        TrustError: it is missing, or another.
        NetworkError, HostError: the store cannot be read.
    """
    try:
        data = store.get(key, limit=limit)
        meta.verify_length_and_hashes(data)
    except MissingError as error:
        raise TrustError(
            f"{key} is missing in {store.url}, and signed metadata names it", hint=_RESTORE
        ) from error
    except LengthOrHashMismatchError as error:
        raise TrustError(
            f"{key} in {store.url} is not the file that was signed: {error}", hint=_RESTORE
        ) from error
    return data
