"""Machines that report, without being there."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner

from pipeline import digest
from pipeline.models.checkin import KEY_FIELD, PAYLOAD_TYPE, Checkin

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def said(device: str = "berlin-2", **fields: Any) -> Checkin:
    """A report of a machine that is up to date."""
    return Checkin.model_validate(
        {
            "device": device,
            "site": "berlin",
            "number": 1,
            "sent": NOW,
            "image": "edge-web",
            "version": "2",
            "confirmed": True,
            "channel": "stable",
            "wanted": "2",
            "step": "confirmed",
            "target": "2",
        }
        | fields
    )


class Reporter:
    """One machine with its key."""

    def __init__(self, device: str = "berlin-2") -> None:
        self.device = device
        self.signer = CryptoSigner.generate_ed25519()

    @property
    def key(self) -> str:
        """Its public key, as reports name it."""
        return str(self.signer.public_key.to_dict()["keyval"]["public"])

    def report(self, number: int = 1, /, **fields: Any) -> bytes:
        """An envelope as it would send it."""
        checkin = said(self.device).model_copy(update={"number": number})
        return self.sealed(checkin.model_dump(mode="json") | {KEY_FIELD: self.key} | fields)

    def sealed(self, payload: object, payload_type: str = PAYLOAD_TYPE) -> bytes:
        """An envelope around anything."""
        envelope = Envelope(digest.canonical(payload), payload_type, {})
        envelope.sign(self.signer)
        return digest.canonical(envelope.to_dict())
