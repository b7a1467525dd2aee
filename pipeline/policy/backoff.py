"""When a machine asks its store again: often enough, never all at once, never never."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

LONGEST = 6 * 3600.0
"""Seconds between two looks while they fail, at most; more only if the poll itself is longer."""


def pause(device: str, poll: float, failures: int, chance: float) -> float:
    """Seconds until the next look at the store.

    Args:
        device: the machine's name: spreads machines that were powered on in one moment.
        poll: seconds between two looks, as the site says.
        failures: looks that failed in a row.
        chance: a random number in [0, 1): spreads a machine's own looks, so that machines which
            met once do not meet for ever.

    Returns:
        From *poll* up to a quarter more; after failures twice as long for each, up to
        :data:`LONGEST` (or *poll*, if that is more) and a quarter.
    """
    raise NotImplementedError


def due(now: datetime, checked: datetime | None, next: datetime | None, longest: float) -> bool:
    """Is it time to ask the store?

    A clock that jumped must not stop a machine: a next look that lies further ahead than any
    pause, or a last one that lies in the future, means that it is due now.

    Args:
        now: the present moment.
        checked: when the store was last heard.
        next: when it was meant to be asked again.
        longest: the longest pause that there is, in seconds: :func:`longest`.
    """
    raise NotImplementedError


def longest(poll: float) -> float:
    """The longest pause that :func:`pause` gives for a poll, in seconds."""
    raise NotImplementedError


def remaining(now: datetime, moments: Iterable[datetime | None], poll: float) -> float:
    """Seconds until the first of some moments; at least 1 s, at most the longest pause."""
    raise NotImplementedError


def clock_problem(now: datetime, known: Iterable[datetime | None]) -> str:
    """Why this machine's clock cannot be right; empty if nothing speaks against it.

    Args:
        now: what the clock says.
        known: moments that have certainly passed: when the store was last heard, when a release
            that was seen was made.
    """
    raise NotImplementedError
