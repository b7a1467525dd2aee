"""Structured records in the system's journal; silent where there is none.

The protocol: https://systemd.io/JOURNAL_NATIVE_PROTOCOL/.
"""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

SOCKET = Path("/run/systemd/journal/socket")
IDENTIFIER = "recast-agent"

# Of syslog.
ERROR, WARNING, NOTICE, INFO = 3, 4, 5, 6

_MAX_VALUE = 8 << 10  # bytes; a datagram has room for a few of these


class Journal:
    """Writes records with fields of our own, which begin with ``RECAST_``.

    Args:
        path: the journal's socket.
    """

    def __init__(self, path: Path = SOCKET) -> None:
        self._path = path

    def tell(self, message: str, *, priority: int = INFO, **fields: str) -> None:
        """Write one record; that nobody takes it is no error.

        Args:
            message: a sentence.
            priority: of syslog.
            fields: ``step="written"`` becomes ``RECAST_STEP=written``; empty ones are left out.
        """
        record = {
            "MESSAGE": message,
            "PRIORITY": str(priority),
            "SYSLOG_IDENTIFIER": IDENTIFIER,
            **{f"RECAST_{name.upper()}": value for name, value in fields.items() if value},
        }
        data = b"".join(_field(name, value) for name, value in record.items())
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender,
        ):
            sender.setblocking(False)
            sender.sendto(data, str(self._path))


def _field(name: str, value: str) -> bytes:
    raw = value.encode(errors="replace")[:_MAX_VALUE]
    if b"\n" not in raw:
        return name.encode() + b"=" + raw + b"\n"
    return name.encode() + b"\n" + len(raw).to_bytes(8, "little") + raw + b"\n"
