"""How an update goes, for a person at a terminal."""

from __future__ import annotations

import sys
import time
from typing import TextIO

from pipeline.agent.history import Event
from pipeline.files import format_size

_EVERY = 0.2  # seconds between two updates of a line


class Progress:
    """Prints events as lines and, on a terminal, how a step goes in one that is written over.

    Args:
        stream: where to.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._last = 0.0
        self._open = False

    def event(self, event: Event) -> None:
        """Something happened."""
        self._clear()
        about = f"{event.release}: " if event.release else ""
        print(f"{event.step}: {about}{event.text}", file=self._stream, flush=True)

    def step(self, step: str, done: int, total: int) -> None:
        """Bytes of a step are done."""
        now = time.monotonic()
        if not self._live or now - self._last < _EVERY:
            return
        self._last = now
        if total:
            text = f"  {step}: {format_size(done)} of {format_size(total)}, {done * 100 // total} %"
        else:
            text = f"  {step} …"
        self._stream.write(f"\r\x1b[K{text}")
        self._stream.flush()
        self._open = True

    def close(self) -> None:
        """Leave no half line behind."""
        self._clear()

    def _clear(self) -> None:
        if self._open:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
            self._open = False
