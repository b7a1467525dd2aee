"""When a machine asks its store again: soon after a slip, rarely in an outage, never in a herd."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import datetime, timedelta

from pipeline.clock import iso

LONGEST = 6 * 3600.0
"""Seconds between two looks while they fail, at most; more only if the poll itself is longer."""

WRONG_CLOCK = "this machine's clock says"
"""How :func:`clock_problem` begins."""

_FIRST = 60.0  # seconds after one failure: most are over by then
_JITTER = 0.25  # of a pause, at most, on top of it
_SLACK = timedelta(minutes=10)  # that a clock may be off without a word


def pause(device: str, poll: float, failures: int, chance: float) -> float:
    """Seconds until the next look at the store.

    Args:
        device: the machine's name: spreads machines that were powered on in one moment.
        poll: seconds between two looks, as the site says.
        failures: looks that failed in a row.
        chance: a random number in [0, 1): spreads a machine's own looks, so that machines which
            met once do not meet for ever.

    Returns:
        *poll*; after one failure a minute (or *poll*, if that is less), and twice as long for
        each further one, up to :data:`LONGEST` (or *poll*, if that is more). On top of it comes
        up to a quarter, half of it by the device's name and half by chance.
    """
    base = poll
    if failures > 0:
        base = min(min(_FIRST, poll) * 2.0 ** min(failures - 1, 30), max(LONGEST, poll))
    return base * (1 + _JITTER * (_place(device) + chance) / 2)


def longest(poll: float) -> float:
    """The longest pause that :func:`pause` gives for a poll, in seconds."""
    return max(LONGEST, poll) * (1 + _JITTER)


def due(now: datetime, checked: datetime | None, next: datetime | None, longest: float) -> bool:
    """Is it time to ask the store?

    A clock that jumped must not stop a machine: a next look that lies further ahead than any
    pause, or a last one that lies in the future, means that it is due.

    Args:
        now: the present moment.
        checked: when the store was last heard.
        next: when it was meant to be asked again; None: it was never asked.
        longest: the longest pause that there is, in seconds: :func:`longest`.
    """
    if next is None or now >= next:
        return True
    if checked is not None and checked > now:
        return True
    return (next - now).total_seconds() > longest


def remaining(now: datetime, moments: Iterable[datetime | None], poll: float) -> float:
    """Seconds until the first of some moments; at least 1 s, at most the longest pause."""
    waits = [(moment - now).total_seconds() for moment in moments if moment is not None]
    return max(1.0, min([*waits, longest(poll)]))


def clock_problem(now: datetime, passed: Iterable[datetime | None]) -> str:
    """Why this machine's clock cannot be right; empty if nothing speaks against it.

    Args:
        now: what the clock says.
        passed: moments that have certainly passed, none of them told by this clock: when a
            verified release was made, when its rollout opened.
    """
    latest = max((moment for moment in passed if moment is not None), default=None)
    if latest is None or now >= latest - _SLACK:
        return ""
    return f"{WRONG_CLOCK} {iso(now)}, and it is {iso(latest)} or later"


def _place(device: str) -> float:
    """A number in [0, 1) from a device's name; not its place in a rollout."""
    hashed = hashlib.sha256(f"poll:{device}".encode()).digest()
    return int.from_bytes(hashed[:4], "big") / (1 << 32)
