"""When a machine may reboot into another release: the windows of its site, in their time zones.

A window begins at a day's wall-clock time and ends at the next such time, in its own zone. On the
days when the clocks change it keeps its wall-clock times: a window over the changed hour is an
hour shorter or longer. A time that the change leaves out counts as the moment of the change.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from pipeline.models.site import Window
from pipeline.policy.verdict import Gate


def is_open(windows: Sequence[Window], now: datetime) -> bool:
    """Is *now* in one of the windows? Without any it always is."""
    raise NotImplementedError


def next_opening(windows: Sequence[Window], now: datetime) -> datetime | None:
    """The first moment from *now* on that is in a window, in UTC; *now* itself if one is open.

    Returns:
        None if none ever opens: a window without days.
    """
    raise NotImplementedError


def judge(windows: Sequence[Window], now: datetime, *, override: bool = False) -> Gate:
    """May a machine reboot into another release at *now*?

    Args:
        windows: of its site; none: at any time.
        now: the present moment.
        override: a person asked for it now (``update --now``).

    Returns:
        The gate ``window``; `Gate.opens` is the moment to look again.
    """
    raise NotImplementedError


def unknown_zones(windows: Sequence[Window]) -> tuple[str, ...]:
    """The time zones that this machine does not know, each once: taken for UTC, to be told."""
    raise NotImplementedError
