"""Log files of stages: written whatever happens, and their last lines."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

_TAIL_LINES = 15
_TAIL_BYTES = 1 << 14


class Log(io.TextIOWrapper):
    """A stage's log, written line by line, that never makes its stage fail.

    On a full disk the stage itself says so; a log that raised would hide that, and would leave
    the program that is being logged waiting for a reader.

    Raises:
        OSError: the file cannot be made.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path.open("wb"), encoding="utf-8", errors="replace", line_buffering=True)

    def write(self, text: str, /) -> int:
        """Write what can be written; say that all was."""
        with contextlib.suppress(OSError, ValueError):  # ValueError: closed, by a late reader
            super().write(text)
        return len(text)

    def flush(self) -> None:
        """Flush what can be flushed."""
        with contextlib.suppress(OSError, ValueError):
            super().flush()

    def close(self) -> None:
        """Close it; what could not be written is let go."""
        with contextlib.suppress(OSError):
            super().close()


def tail_of(path: Path, lines: int = _TAIL_LINES) -> tuple[str, ...]:
    """The last lines of a log; empty when there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return ()
    return tuple(line.rstrip() for line in text.splitlines() if line.strip())[-lines:]
