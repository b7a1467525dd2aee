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
# The line that says which address it was; apt has it below those that say why.
_UNFETCHED = re.compile(r"(?:Failed to fetch|Err:\d+) (?P<url>[a-z+]+://\S+)")
_NETWORK = re.compile(
    r"Temporary failure resolving|Could not resolve|Could not connect|Connection timed out"
    r"|Connection refused|Unable to connect to|Connection failed|Failed to fetch"
)
_FULL = re.compile(r"No space left on device|^tar: .*: Wrote only \d+ of \d+ bytes")
_NO_PACKAGE = re.compile(r"E: (?:Unable to locate package|Couldn't find any package by \S+) (\S+)")
_NOISE = re.compile(
    r"^dib-run-parts (-+ |-+$|$|Target|Script|\S+ +[\d.]+$|Sourcing)|^Unmount |^\+"
    r"|block_device\.|^\s*$|^[ID]: |^W: Target |\d+ \(delayed\) \S+ \S+: "
)
# What follows a failure is DIB's own way out; it says nothing about the failure.
_AFTER = re.compile(r"^(Unmount /|INFO diskimage_builder\.block_device|\*\*\* )")
# What diskimage-builder says before its first hook when all is well.
_START = re.compile(
    r"^(diskimage-builder version|Building |Expanded element |Searching elements |\.\.\. done"
    r"|Using default |Copying hooks )|Element <\S+> overrides"
)
_TWICE = re.compile(r"There is a duplicated hook in your elements: \S*/(?P<hook>[a-z-]+\.d/\S+)")
_SHOWN_LINES = 12
_SHOWN_REASONS = 3
_TOLD_OF_NETWORK = 40  # lines before the end in which an address that did not answer is the cause
_OWN = "recast-image"  # the element that is made of the definition


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
    lines: Sequence[str], elements: Mapping[str, Path], error: CommandError, *, log: str = ""
) -> BuildError | NetworkError | DiskFullError:
    """Why a run of DIB failed, from what it printed.

    Args:
        lines: its output, without time stamps.
        elements: the elements that took part, with their folders.
        error: how it ended.
        log: where all of its output is; named in the hint.
    """
    where, said = _last_hook(lines, elements, error)
    if not where:
        if twice := next((match for line in said if (match := _TWICE.search(line))), None):
            return _twice(twice["hook"], elements)
        where = f"diskimage-builder ended with code {error.code} before its first hook"
        said = [line for line in said if not _START.search(line) and not _AFTER.search(line)]
    end = next((n for n, line in enumerate(said) if n and _AFTER.search(line)), len(said))
    said = said[:end]
    told = [line for line in said if not _NOISE.search(line)][-_SHOWN_LINES:]
    tail = "".join(f"\n    {line}" for line in told)
    if any(_FULL.search(line) for line in said):
        return DiskFullError(
            f"no space was left during the build: {where}{tail}",
            hint="Free space on the disk of `artifacts/` (or memory: the build works in a tmpfs), "
            "then run it again.",
        )
    last = said[-_TOLD_OF_NETWORK:]
    if any(_NETWORK.search(line) for line in last):
        found = next((match for line in last if (match := _UNFETCHED.search(line))), None)
        what = found["url"] if found else "an address that the build needs"
        reasons = [line for line in told if _NETWORK.search(line)][-_SHOWN_REASONS:]
        return NetworkError(
            f"{what} could not be reached: {where}" + "".join(f"\n    {r}" for r in reasons),
            hint="Check the network, or name another mirror under `mirror:` in "
            "images/settings.yaml; then run it again.",
        )
    hint = f"The whole output is in {log}." if log else "The whole output is in this stage's log."
    if missing := next((m[1] for line in said if (m := _NO_PACKAGE.search(line))), ""):
        hint = f"Is `{missing}` under `packages:` the name that the archive knows it by? {hint}"
    return BuildError(f"{where}{tail}", hint=hint)


def _last_hook(
    lines: Sequence[str], elements: Mapping[str, Path], error: CommandError
) -> tuple[str, list[str]]:
    """Which hook ran last, in words, and what was printed since."""
    for number in range(len(lines) - 1, -1, -1):
        if match := _RUNNING.search(lines[number]):
            phase, hook = match["phase"], match["hook"]
            since = list(lines[number + 1 :])
            what = f"hook {phase}.d/{hook}{_owner(phase, hook, elements)}"
            done = f"dib-run-parts {hook} completed"
            if done in since:
                return (
                    f"diskimage-builder ended with code {error.code} after {what}",
                    since[since.index(done) + 1 :],
                )
            return f"{what} failed", since
    return "", list(lines)


def _twice(hook: str, elements: Mapping[str, Path]) -> BuildError:
    holders = [name for name, folder in elements.items() if (folder / hook).exists()]
    return BuildError(
        f"the elements {' and '.join(holders)} both have a hook {hook}",
        hint="diskimage-builder puts the hooks of all elements into one folder: rename one of "
        "them.",
    )


def _owner(phase: str, hook: str, elements: Mapping[str, Path]) -> str:
    """The element that a hook comes from, in words."""
    for name, folder in elements.items():
        if (folder / f"{phase}.d" / hook).exists():
            return f" of element {name}"
    return " (made from the image's definition)" if hook.endswith(f"-{_OWN}") else ""
