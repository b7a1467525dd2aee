"""What a machine is told at its site: who it is, what it follows, and when it may reboot.

Small, typed and limited on purpose: whatever differs between two machines of one image is here.
Each setting is a systemd credential of its own; see :mod:`pipeline.agent.site` for their names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import time
from decimal import Decimal
from typing import Annotated

from pydantic import AfterValidator, Field

from pipeline.models.fields import Duration, Label, Model, WholeNumber, matching, shown

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_WINDOW = re.compile(
    r"(?:(?P<first>[A-Z][a-z]{2})(?:-(?P<last>[A-Z][a-z]{2}))?\s+)?"
    r"(?P<start>\d{2}:\d{2})-(?P<end>\d{2}:\d{2})(?:\s+(?P<zone>[A-Za-z]+(?:/[A-Za-z_+-]+)*))?"
)
_BANDWIDTH = re.compile(
    r"(?:(?P<window>.+) )?"
    r"(?:(?P<number>[0-9]{1,6}(?:\.[0-9]{1,3})?) ?(?P<prefix>[kMG]?)bit/s|unlimited)"
)
_PREFIXES = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}
_MINUTE = 60.0
_HOUR = 3600.0

LEAST_RATE = 8000
"""Bits per second below which a link is of no use: stores give up slower ones."""


class Window(Model):
    """When a machine may reboot into another release.

    Attributes:
        days: 0 is Monday; the days on which it begins.
        start, end: a day's time; it lasts into the next day if *end* is not later than *start*.
        zone: an IANA time zone.
    """

    days: tuple[int, ...] = tuple(range(7))
    start: time
    end: time
    zone: str = "UTC"


def parse_window(text: str) -> Window:
    """A window from ``02:00-05:00``, ``Mon-Fri 02:00-05:00``, ``Sat 22:00-04:00 Europe/Berlin``.

    Raises:
        ValueError: it is none.
    """
    match = _WINDOW.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"expected a window such as `Mon-Fri 02:00-05:00 UTC`, got {shown(text)}")
    days: tuple[int, ...] = tuple(range(7))
    if match["first"]:
        names = [match["first"], match["last"] or match["first"]]
        unknown = [name for name in names if name not in _DAYS]
        if unknown:
            raise ValueError(f"expected days such as Mon or Sat, got {shown(unknown[0])}")
        first, last = (_DAYS.index(name) for name in names)
        days = tuple((first + step) % 7 for step in range((last - first) % 7 + 1))
    try:
        start, end = (time.fromisoformat(match[name]) for name in ("start", "end"))
    except ValueError as error:
        raise ValueError(f"expected times such as 02:00, got {shown(text)}") from error
    return Window(days=days, start=start, end=end, zone=match["zone"] or "UTC")


class Bandwidth(Model):
    """How fast a machine may fetch, at some time or else.

    Attributes:
        window: when that holds; None: when no entry with a window does.
        rate: bits per second; None: there is no limit.
    """

    window: Window | None = None
    rate: Annotated[int, Field(ge=LEAST_RATE)] | None = None


def parse_bandwidth(text: str) -> Bandwidth:
    """A limit from ``256 kbit/s``, ``Mon-Fri 07:00-19:00 Europe/Berlin 1.5 Mbit/s``, ``unlimited``.

    What stands before the rate is a window, as :func:`parse_window` reads it. A kbit is 1000 bits.

    Raises:
        ValueError: it is none.
    """
    match = _BANDWIDTH.fullmatch(" ".join(text.split()))
    if match is None:
        raise ValueError(
            "expected a rate such as `256 kbit/s` or `unlimited`, or one after a window such as "
            f"`Mon-Fri 07:00-19:00 UTC 1.5 Mbit/s`, got {shown(text)}"
        )
    window = parse_window(match["window"]) if match["window"] else None
    if match["number"] is None:
        return Bandwidth(window=window)
    rate = round(Decimal(match["number"]) * _PREFIXES[match["prefix"]])
    if rate < LEAST_RATE:
        raise ValueError(f"expected at least {format_rate(LEAST_RATE)}, got {shown(text)}")
    return Bandwidth(window=window, rate=rate)


def format_rate(rate: int | None) -> str:
    """Bits per second for a person: ``256 kbit/s``, ``1.5 Mbit/s``; ``unlimited`` for None."""
    if rate is None:
        return "unlimited"
    # The largest unit in which it can be written, and read again, without loss.
    fits = (each for each in "GMk" if rate >= _PREFIXES[each] and not 1000 * rate % _PREFIXES[each])
    prefix = next(fits, "")
    number = f"{Decimal(rate) / _PREFIXES[prefix]:.3f}".rstrip("0").rstrip(".")
    return f"{number} {prefix}bit/s"


StoreUrl = Annotated[
    str,
    AfterValidator(
        matching(
            r"(?:https?://[^\s/?#@]+(?:/[^\s?#]*)?|file:///[^\s?#]+)",
            "a URL with https, http or file, without a user and a query",
        )
    ),
]
DeviceName = Annotated[
    str,
    AfterValidator(
        matching(
            r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?",
            "at most 64 letters, digits and ._-, with a letter or digit at both ends",
        )
    ),
]
_LabelKey = Annotated[
    str, AfterValidator(matching(r"[a-z0-9](?:[a-z0-9._-]{0,62})", "a lower-case name"))
]
_LabelValue = Annotated[
    str, AfterValidator(matching(r"[A-Za-z0-9 ._:/@+-]{0,128}", "at most 128 plain characters"))
]


class Site(Model):
    """The settings of one machine. Every one has a default, so that a wrong one stops nothing.

    Attributes:
        device: the machine's name, of which there is one only; decides its place in rollouts.
        store: where releases come from, the first that answers; none: nothing is followed.
        channel: the channel that is followed; empty: none.
        image: the image that is followed; empty: the one that runs.
        window: when it may reboot into another release; none: at any time.
        bandwidth: how fast it may fetch; the first entry whose window is open holds, and when
            none is, the one without a window; none: as fast as it can.
        checkins: where reports go; empty: to ``checkins/`` of the first store.
        poll: seconds between two looks at the store, to which some jitter is added.
        tries: how often a new release may die without a word before the boot loader goes back.
        deadline: seconds from power-on in which a new release must become healthy.
    """

    device: DeviceName = "unnamed"
    site: Label | None = None
    labels: Annotated[Mapping[_LabelKey, _LabelValue], Field(max_length=32)] = {}
    store: tuple[StoreUrl, ...] = ()
    channel: Label | None = None
    image: Label | None = None
    window: tuple[Window, ...] = ()
    bandwidth: tuple[Bandwidth, ...] = ()
    checkins: StoreUrl | None = None
    poll: Annotated[Duration, Field(ge=10.0, le=7 * 24 * _HOUR)] = 15 * _MINUTE
    tries: WholeNumber = Field(default=3, ge=1, le=9)
    deadline: Annotated[Duration, Field(ge=60.0, le=24 * _HOUR)] = 10 * _MINUTE
