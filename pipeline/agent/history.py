"""What has happened on this machine: one line for each event, the newest few hundred."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from pydantic import ValidationError

from pipeline.errors import DiskFullError
from pipeline.files import write_atomically
from pipeline.models.checkin import Outcome
from pipeline.models.fields import Moment, Record

KEPT = 500
"""Events that are kept at least; twice as many at most."""

_MAX_BYTES = 4 << 20


class Event(Record):
    """Something that happened on this machine.

    Attributes:
        when: by the machine's own clock.
        step: of the update that it is about, or another word: ``refused``, ``pinned``.
        release: name of the release that it is about; empty for none.
        outcome: as a check-in has it.
        text: a sentence for a person.
        boot: id of the boot.
    """

    when: Moment
    step: str
    release: str = ""
    outcome: Outcome = "ok"
    text: str = ""
    boot: str = ""


class History:
    """The events of a machine, in a file of lines. Never in the way: what fails is left out.

    Args:
        path: the file; made by the first event.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, event: Event) -> None:
        """Append an event."""
        with contextlib.suppress(OSError, DiskFullError):
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._path.open("ab+") as file:
                start = b""
                if file.tell():
                    # A line that a power cut tore must not spoil this one.
                    file.seek(-1, os.SEEK_END)
                    start = b"" if file.read(1) == b"\n" else b"\n"
                file.write(start + event.model_dump_json(exclude_defaults=True).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            lines = self._lines()
            if len(lines) > 2 * KEPT:
                write_atomically(self._path, b"\n".join(lines[-KEPT:]) + b"\n", mode=0o600)

    def read(self, count: int = KEPT) -> tuple[Event, ...]:
        """The newest events, the oldest of them first; damaged lines are left out."""
        found: list[Event] = []
        for line in reversed(self._lines()):
            if len(found) >= count:
                break
            with contextlib.suppress(ValidationError):
                found.append(Event.model_validate_json(line))
        return tuple(reversed(found))

    def _lines(self) -> list[bytes]:
        try:
            with self._path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                file.seek(max(0, size - _MAX_BYTES))
                return [line for line in file.read(_MAX_BYTES).split(b"\n") if line.strip()]
        except OSError:
            return []
