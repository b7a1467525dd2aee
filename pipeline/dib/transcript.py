"""What diskimage-builder printed: passed on to a log, and asked when it failed."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

from pipeline.command import CommandError
from pipeline.errors import BuildError, DiskFullError, NetworkError

_STAMP = re.compile(r"^\d{4}-\d\d-\d\d \S+ \| ")
_RUNNING = re.compile(r"dib-run-parts Running (?P<path>\S+/(?P<phase>[a-z-]+)\.d/(?P<hook>\S+))")
_NETWORK = re.compile(
    r"(Temporary failure resolving|Could not resolve|Could not connect|Connection timed out"
    r"|Connection refused|Unable to connect to|Connection failed|Failed to fetch (?P<url>\S+))"
)
_FULL = re.compile(r"No space left on device")
_NOISE = re.compile(
    r"^dib-run-parts (-+ |-+$|$|Target|Script|\S+ +[\d.]+$|Sourcing)|^Unmount |^\+"
    r"|block_device\.|^\s*$"
)
# What follows a failure is DIB's own way out; it says nothing about the failure.
_AFTER = re.compile(r"^(Unmount /|INFO diskimage_builder\.block_device|\*\*\* )")
_SHOWN_LINES = 12


class Transcript:
    """A log that keeps its lines, and hears which hook runs.

    Args:
        log: where everything goes.
        progress: told of each hook as it starts.
    """

    def __init__(self, log: IO[str], progress: Callable[[str], None]) -> None:
        self._log = log
        self._progress = progress
        self.lines: list[str] = []

    def write(self, text: str) -> int:
        """Take one line."""
        line = _STAMP.sub("", text.rstrip("\n"))
        self.lines.append(line)
        if match := _RUNNING.search(line):
            self._progress(f"{match['phase']}.d/{match['hook']}")
        return self._log.write(text)

    def flush(self) -> None:
        """Pass on what is held back."""
        self._log.flush()


def explain(
    lines: Sequence[str], elements: Mapping[str, Path], error: CommandError
) -> BuildError | NetworkError | DiskFullError:
    """Why a run of DIB failed, from what it printed.

    Args:
        lines: its output, without time stamps.
        elements: the elements that took part, with their folders.
        error: how it ended.
    """
    where, said = _last_hook(lines, elements)
    if not where:
        where = f"diskimage-builder ended with code {error.code} before its first hook"
    end = next((n for n, line in enumerate(said) if n and _AFTER.search(line)), len(said))
    told = [line for line in said[:end] if not _NOISE.search(line)][-_SHOWN_LINES:]
    tail = "".join(f"\n    {line}" for line in told)
    text = "\n".join(said)
    if _FULL.search(text):
        return DiskFullError(
            f"no space was left during the build: {where}{tail}",
            hint="Free space on the disk of `artifacts/` (or memory: the build works in a tmpfs), "
            "then run it again.",
        )
    if network := _NETWORK.search(text):
        url = network["url"] or "the package archive"
        return NetworkError(
            f"{url} could not be reached: {where}{tail}",
            hint="Check the network, or name a mirror under `mirror:` in images/settings.yaml; "
            "then run it again.",
        )
    return BuildError(f"{where}{tail}", hint="The whole output is in this stage's log.")


def _last_hook(lines: Sequence[str], elements: Mapping[str, Path]) -> tuple[str, list[str]]:
    """Which hook ran last, in words, and what was printed since."""
    for number in range(len(lines) - 1, -1, -1):
        if match := _RUNNING.search(lines[number]):
            phase, hook = match["phase"], match["hook"]
            holders = (name for name, at in elements.items() if (at / f"{phase}.d" / hook).exists())
            owner = next(holders, "recast-image")
            return f"hook {phase}.d/{hook} of element {owner} failed", list(lines[number + 1 :])
    return "", list(lines)
