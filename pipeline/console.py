"""What a serial console says: the text without its terminal codes, and signs of a failed boot."""

from __future__ import annotations

import re

TAIL_LINES = 15

_CODES = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[()][A-Z0-9]|[=>78cM])"
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")

# Each is the machine's own word that it will not come up. Text that a kernel or systemd prints
# in passing must not match: the whole console up to ssh is looked through.
_SIGNS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"Kernel panic - not syncing[^\n]*"), "the kernel panicked"),
    (
        re.compile(r"(?:Entering|You are in) (?:emergency|rescue) mode"),
        "it stopped in emergency mode",
    ),
    (
        re.compile(r"UEFI Interactive Shell v\d"),
        "the firmware found nothing to boot on the disk",
    ),
)


def plain(text: str) -> str:
    """*text* without terminal codes; lines end in a newline, and progress lines are kept apart."""
    text = _CODES.sub("", text).replace("\r\n", "\n").replace("\r", "\n")
    return _CONTROL.sub("", text)


def tail(text: str, lines: int = TAIL_LINES) -> list[str]:
    """The last *lines* lines that have something on them."""
    kept = [line.rstrip() for line in plain(text[-lines * 2000 :]).split("\n") if line.strip()]
    return kept[-lines:]


def gave_up(text: str) -> str | None:
    """Why the machine says that it will not come up; None while it has not said so."""
    for pattern, meaning in _SIGNS:
        found = pattern.search(text)
        if found:
            detail = found[0].removeprefix("Kernel panic - not syncing").strip(": \r")
            panicked = meaning.startswith("the kernel") and detail
            return f"{meaning}: {plain(detail).strip()}" if panicked else meaning
    return None
