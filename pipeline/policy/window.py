"""When a machine may reboot into another release: the windows of its site, in their time zones.

A window begins when the clock on the wall first shows its start on one of its days, and ends when
that clock next shows its end. So on the days when clocks change, a window over the change is
shorter or longer by as much. A time that the change leaves out is the moment of the change: a
window that lies wholly in what is left out does not open on that day.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from zoneinfo import ZoneInfo

from pipeline.clock import duration, iso
from pipeline.models.site import Window
from pipeline.policy.verdict import Gate

_DAY = timedelta(days=1)
_SECOND = timedelta(seconds=1)
# Two weeks: a weekly window may fall into an hour that is left out, or a day (Samoa, 2011-12-30).
_DAYS_AHEAD = 15

AHEAD = timedelta(days=_DAYS_AHEAD - 2)
"""How far :func:`spans` looks ahead, whatever the time zone."""


def is_open(windows: Sequence[Window], now: datetime) -> bool:
    """Is *now* in one of the windows? Without any it always is."""
    return not windows or next_opening(windows, now) == now


def next_opening(windows: Sequence[Window], now: datetime) -> datetime | None:
    """The first moment from *now* on that is in a window, in UTC; *now* itself if one is open.

    Returns:
        None if none opens: all are without days, or of no length.
    """
    now = now.astimezone(UTC)
    if not windows:
        return now
    opens = [max(start, now) for each in windows for start, end in spans(each, now) if end > now]
    return min(opens, default=None)


def closing(windows: Sequence[Window], now: datetime) -> datetime | None:
    """When what is open at *now* ends, in UTC; None if nothing is open, or ever closes."""
    now = now.astimezone(UTC)
    ends = [end for each in windows for start, end in spans(each, now) if start <= now < end]
    return max(ends, default=None)


def judge(windows: Sequence[Window], now: datetime, *, override: bool = False) -> Gate:
    """May a machine reboot into another release at *now*?

    Args:
        windows: of its site; none: at any time.
        now: the present moment.
        override: a person asked for it now (``update --now``).

    Returns:
        The gate ``window``; `Gate.opens` is the moment to look again.
    """
    if not windows:
        return Gate("window", True, "this machine may reboot at any time")
    opens = next_opening(windows, now)
    if opens == now:
        end = closing(windows, now)
        until = f" until {iso(end)}" if end is not None else ""
        return Gate("window", True, f"its window is open{until}")
    if override:
        return Gate("window", True, "a person asked for it now, outside of its window")
    if opens is None:
        return Gate("window", False, "its window never opens")
    wait = duration((opens - now).total_seconds())
    return Gate("window", False, f"its window opens at {iso(opens)}, in {wait}", opens)


def unknown_zones(windows: Sequence[Window]) -> tuple[str, ...]:
    """The time zones that this machine does not know, each once: taken for UTC, to be told."""
    zones = dict.fromkeys(each.zone for each in windows)
    return tuple(zone for zone in zones if _find_zone(zone) is None)


def spans(window: Window, now: datetime) -> Iterator[tuple[datetime, datetime]]:
    """The times that a window is open, in UTC: from its start until, and without, its end.

    All of those that hold a moment from *now* until :data:`AHEAD` later, in their order.
    """
    zone = _find_zone(window.zone) or UTC
    later = _DAY if window.end <= window.start else timedelta()
    for ahead in range(-2, _DAYS_AHEAD):
        try:
            day = now.astimezone(zone).date() + ahead * _DAY
            start, end = _moment(day, window.start, zone), _moment(day + later, window.end, zone)
        except (OverflowError, ValueError):  # beyond the first or the last year there is
            continue
        if day.weekday() in window.days and start < end:
            yield start, end


def _moment(day: date, wall: time, zone: tzinfo) -> datetime:
    """When the clock on the wall of *zone* first shows that time, or goes past it; in UTC."""
    local = datetime.combine(day, wall, tzinfo=zone)
    # In what a change leaves out (PEP 495), the offset before it makes a moment after it, and the
    # offset after it one before it.
    late, early = local.astimezone(UTC), local.replace(fold=1).astimezone(UTC)
    if early >= late:  # it is there, once or twice
        return late
    before = early.astimezone(zone).utcoffset()
    while late - early > _SECOND:
        middle = early + (late - early) // 2
        if middle.astimezone(zone).utcoffset() == before:
            early = middle
        else:
            late = middle
    return late.replace(microsecond=0)


def _find_zone(name: str) -> tzinfo | None:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # not there, no name of a zone, a folder of zones
        return None
