"""How fast a machine may fetch at a moment, by the windows of its site's limits."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from pipeline.models.fields import Moment, Record
from pipeline.models.site import Bandwidth
from pipeline.policy import window


class Limit(Record):
    """How fast a machine may fetch now.

    Attributes:
        rate: bits per second; None: there is no limit.
        until: when that changes, in UTC; None: not within :data:`pipeline.policy.window.AHEAD`.
    """

    rate: int | None = None
    until: Moment | None = None


def limit_at(entries: Sequence[Bandwidth], now: datetime) -> Limit:
    """The limit that holds at *now*.

    It is that of the first entry whose window is open; when none is, of the first without a
    window, wherever that stands; without such a one there is none.

    Args:
        entries: as the site has them.
        now: the present moment.
    """
    now = now.astimezone(UTC)
    default = next((each.rate for each in entries if each.window is None), None)
    limited = [
        (each.rate, tuple(window.spans(each.window, now)))
        for each in entries
        if each.window is not None
    ]

    def rate(moment: datetime) -> int | None:
        for found, spans in limited:
            if any(start <= moment < end for start, end in spans):
                return found
        return default

    edges = {edge for _, spans in limited for span in spans for edge in span}
    ahead = sorted(edge for edge in edges if now < edge and edge - now <= window.AHEAD)
    holds = rate(now)
    return Limit(rate=holds, until=next((edge for edge in ahead if rate(edge) != holds), None))
