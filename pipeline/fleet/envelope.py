"""A report as it arrives: a DSSE envelope, which its own key signed.

The format is told in :mod:`pipeline.agent.reports`, which makes it. The signature says that the
holder of a key wrote this, and nothing more: whose key it is decides who takes reports.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from pipeline.errors import TrustError
from pipeline.files import format_size
from pipeline.models.checkin import MAX_CHECKIN, PAYLOAD_TYPE, Checkin
from pipeline.models.fields import Record, Sha256, first_problem

_KEY = re.compile(
    r"checkins/(?:history/(?P<old>{0})/(?P<number>\d{{12}})|(?P<new>{0}))\.json".format(
        r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?"
    )
)
_ED25519 = "ed25519"


@dataclass(frozen=True)
class Place:
    """What the key of an object below ``checkins/`` stands for.

    Attributes:
        device: whose report it is.
        number: of a report in the history; None for the newest one.
    """

    device: str
    number: int | None


@dataclass(frozen=True)
class Signed:
    """A report that its own key signed.

    Attributes:
        checkin: what it says; text in it is printable, and moves no cursor.
        key: the ed25519 key, as 64 hexadecimal digits.
    """

    checkin: Checkin
    key: str


class _Signature(Record):
    keyid: str = Field(max_length=200)
    sig: str = Field(max_length=200)


class _Envelope(Record):
    payload: str
    payload_type: Literal["application/vnd.recast.checkin+json"] = Field(alias="payloadType")
    signatures: Annotated[tuple[_Signature, ...], Field(min_length=1, max_length=1)]


class _Payload(Checkin):
    key: Sha256  # an ed25519 key looks the same: 64 hexadecimal digits


def place_of(key: str) -> Place | None:
    """What the object *key* is; None if no report belongs there."""
    match = _KEY.fullmatch(key)
    if match is None:
        return None
    if match["old"]:
        return Place(match["old"], int(match["number"]))
    return Place(match["new"], None)


def opened(data: bytes, place: Place) -> Signed:
    """The report in an envelope that was found at, or is meant for, *place*.

    Raises:
        TrustError: it is too large, no such envelope, not signed by the key that it names, or
            about something else.
    """
    if len(data) > MAX_CHECKIN:
        raise TrustError(f"a report has at most {format_size(MAX_CHECKIN)}")
    said = _verified(data)
    if said.device != place.device:
        raise TrustError(f"it is a report of {_plain(said.device)}, not of {place.device}")
    if place.number not in (None, said.number):
        raise TrustError(f"it is report {said.number}, not {place.number}")
    return Signed(said, said.key)


def _verified(data: bytes) -> _Payload:
    from securesystemslib.dsse import Envelope
    from securesystemslib.exceptions import Error
    from securesystemslib.signer import SSlibKey

    try:
        shape = _Envelope.model_validate_json(data)
        envelope = Envelope.from_dict(
            {
                "payload": shape.payload,
                "payloadType": PAYLOAD_TYPE,
                "signatures": [each.model_dump() for each in shape.signatures],
            }
        )
        payload = _Payload.model_validate_json(envelope.payload)
    except ValidationError as error:
        raise TrustError(f"it is no report: {_plain(first_problem(error))}") from error
    except (Error, ValueError, KeyError, TypeError) as error:
        raise TrustError(f"it is no envelope: {_plain(str(error))}") from error
    keyid = next(iter(envelope.signatures))
    key = SSlibKey(keyid, _ED25519, _ED25519, {"public": payload.key})
    try:
        envelope.verify([key], 1)
    except (Error, ValueError) as error:
        raise TrustError("the key that it names has not signed it") from error
    text = envelope.payload.decode()
    return payload if text.isprintable() and "\\" not in text else _printable(payload)


def _printable(said: _Payload) -> _Payload:
    """Without what would move the cursor of a terminal."""
    changed: dict[str, object] = {}
    for name, value in said:
        if isinstance(value, str) and not value.isprintable():
            changed[name] = _plain(value)
        elif isinstance(value, Mapping):
            changed[name] = {
                _plain(str(key)): _plain(each) if isinstance(each, str) else each
                for key, each in value.items()
            }
    return said.model_copy(update=changed)


def _plain(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text[:1000])
