"""Reads what a channel says of an image, and believes it only where it belongs."""

from __future__ import annotations

from pydantic import ValidationError
from tuf.api.exceptions import LengthOrHashMismatchError
from tuf.api.metadata import TargetFile

from pipeline import digest
from pipeline.errors import TrustError
from pipeline.models.pointer import Pointer
from pipeline.store.base import Reader
from pipeline.trust import layout, refusals
from pipeline.trust.fetcher import read_limited

_SHA256 = 64  # hexadecimal digits


def find_key(store: Reader, channel: str, image: str, target: TargetFile) -> str:
    """Where the pointer is that a channel's verified metadata names with *target*.

    Raises:
        TrustError: nothing honest can be named like that.
    """
    sha256 = target.hashes.get("sha256", "")
    if len(sha256) != _SHA256 or target.length > layout.MAX_POINTER:
        raise TrustError(
            f"channel {channel} in {store.url} names a pointer of {image} that cannot be one: "
            f"{target.length} bytes, SHA-256 {sha256 or 'missing'}",
            hint="Whoever holds that channel's keys has signed it: ask them.",
        )
    return layout.pointer_key(channel, image, sha256)


def fetch(store: Reader, key: str, target: TargetFile) -> bytes:
    """The bytes of a pointer.

    Raises:
        DownloadError: there is no such object.
        TrustError: they are not those that *target* names.
        NetworkError, HostError: as :meth:`Reader.get`.
    """
    data = read_limited(store, key, target.length)
    if not fits(target, data):
        channel, image = layout.parse_pointer_path(target.path)
        raise TrustError(
            f"{key} in {store.url} is not what channel {channel} has signed for {image}: it has "
            f"SHA-256 {digest.of_bytes(data)}",
            hint=refusals.ATTACK,
        )
    return data


def fits(target: TargetFile, data: bytes) -> bool:
    """Are these the bytes that *target* names?"""
    try:
        target.verify_length_and_hashes(data)
    except LengthOrHashMismatchError:
        return False
    return True


def parse(store: Reader, key: str, target: TargetFile, data: bytes) -> Pointer:
    """The pointer that these bytes hold.

    Raises:
        TrustError: it is none, or speaks of another channel or image than its path.
    """
    channel, image = layout.parse_pointer_path(target.path)
    try:
        pointer = Pointer.model_validate_json(data)
    except ValidationError as error:
        raise TrustError(
            f"{key} in {store.url} is signed, and cannot be read: {error.errors()[0]['msg']}",
            hint="A newer Recast may have written it: bring this one up to date.",
        ) from error
    told = {(pointer.channel, pointer.image)}
    told |= {(channel, each.image) for each in (pointer.release, pointer.previous) if each}
    for other_channel, other_image in sorted(told - {(channel, image)}):
        raise TrustError(
            f"{key} in {store.url} speaks of image {other_image} in channel {other_channel}, not "
            f"of {image} in {channel}: a pointer counts only where it belongs",
            hint=f"Somebody with a key of channel {channel} has put it there: ask those who hold "
            "its keys.",
        )
    return pointer
