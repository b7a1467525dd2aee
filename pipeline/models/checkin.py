"""A machine's report of itself: small, signed by its own key, the newest in place of the last."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from pipeline.models.fields import Moment, Record

PAYLOAD_TYPE = "application/vnd.recast.checkin+json"
"""Of the DSSE envelope that a report comes in."""

MAX_CHECKIN = 16 << 10
"""Bytes of an envelope, at most."""


def checkin_key(device: str) -> str:
    """Where the newest report of a device is: ``checkins/<device>.json``."""
    return f"checkins/{device}.json"


def history_key(device: str, number: int) -> str:
    """Where a report of how an update ended stays: ``checkins/history/<device>/….json``."""
    return f"checkins/history/{device}/{number:012d}.json"


KEY_FIELD = "key"
"""Field of the payload beside those of `Checkin`: the machine's ed25519 key, 64 hex digits."""


Outcome = Literal["ok", "waiting", "failed"]


class Checkin(Record):
    """What one machine reports.

    Attributes:
        device, site, labels: who, as its site settings say.
        number: grows with every report of this machine; an older one never replaces a newer.
        sent: by the machine's own clock.
        agent: version of Recast.
        image, version, root_hash, boot_digest, confirmed: what runs, and whether it is blessed.
        channel: what is followed; empty if nothing is.
        wanted: the version that the channel wants here; empty if that is not known.
        step: where the update in progress, or the last one, stands; empty if there was none.
        target: the version that it is about.
        outcome: ``waiting`` if something but time or work keeps it from what is wanted.
        reason: why it has not moved, or went back; one sentence.
        seconds: how long each step took.
        downloaded, written: bytes of that update.
        next: when it asks the store again.
    """

    device: str = Field(min_length=1, max_length=64)
    site: str = ""
    labels: Mapping[str, str] = {}
    number: int = Field(ge=1)
    sent: Moment
    agent: str = ""
    image: str = ""
    version: str = ""
    root_hash: str = ""
    confirmed: bool = False
    channel: str = ""
    wanted: str = ""
    step: str = ""
    target: str = ""
    outcome: Outcome = "ok"
    reason: str = Field(default="", max_length=1000)
    seconds: Mapping[str, float] = {}
    downloaded: int = 0
    written: int = 0
    next: Moment | None = None
    format: int = 1
