"""What a release costs a machine's link: the bytes of each way in which its parts can come there.

Told from descriptions alone, before anything moves: what a machine really downloads depends on
what else lies on it, and is never more than what stands here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pipeline.store.base import MissingError
from pipeline.transfer.chunks import BLOCK, Frame, Place, read_index
from pipeline.transfer.packed import WrongError
from pipeline.transfer.ranged import Link
from pipeline.transfer.segments import Segment, read_table
from pipeline.transfer.ways import MOST_INDEX

if TYPE_CHECKING:
    from pipeline.models.pointer import PublishedPart, PublishedRelease
    from pipeline.store.base import Reader

Way = Literal["delta", "chunks", "whole"]

WAYS: tuple[Way, ...] = ("delta", "chunks", "whole")
"""All ways; of two that cost the same the first is taken."""

ROLES = ("root", "uki")
"""The parts that a machine downloads; the rest it makes itself."""

LINK = 256_000
"""Bits per second of the link that times are told for: a poor one."""


@dataclass(frozen=True)
class Cost:
    """What one part costs in one way.

    Attributes:
        way: how it comes.
        size: bytes over the link, indexes included.
    """

    way: Way
    size: int


Costs = Mapping[str, tuple[Cost, ...]]
"""By role, the cheapest way first; there always is one."""


@dataclass(frozen=True)
class Total:
    """What all parts together cost, each in its cheapest way.

    Attributes:
        size: bytes.
        ways: those that something comes by, in the order of :data:`WAYS`.
    """

    size: int
    ways: tuple[Way, ...]


def costs(store: Reader, new: PublishedRelease, base: PublishedRelease | None) -> Costs:
    """What each part of *new* costs a machine that runs *base*.

    A part that is the same costs nothing, whichever way.

    Args:
        store: has the objects of both.
        new: the release that is wanted.
        base: the release that runs; None for a machine with nothing of the kind.

    Raises:
        TrustError, NetworkError, HostError: the store cannot be read or believed.
    """
    return {role: _part(store, role, new, base) for role in ROLES if role in new.parts}


def chunk_cost(store: Reader, part: PublishedPart, base_part: PublishedPart) -> int | None:
    """Bytes of the chunks that a machine lacks which has *base_part*, and of their index.

    Told from the indexes of both, which are fetched for it.

    Returns:
        None where one of the parts is not there as chunks, or that cannot be told.

    Raises:
        NetworkError, HostError: the store cannot be read.
    """
    if part.chunks is None or base_part.chunks is None:
        return None
    try:
        places, frames = _chunks(store, part)
        known = {place.chunk.name for place in _chunks(store, base_part)[0]}
        segments = _segments(store, part)
    except (WrongError, ValueError, MissingError):
        return None
    length = segments[0].size
    from_whole: set[int] = set()
    wanted: list[Place] = []
    for place in places:
        if place.chunk.name in known or not place.chunk.name:
            continue
        if place.frame < 0:
            begin, end = place.chunk.block * BLOCK, (place.chunk.block + place.chunk.blocks) * BLOCK
            last = min((end - 1) // length, len(segments) - 1)
            from_whole.update(range(begin // length, last + 1))
        else:
            wanted.append(place)
    packed = {place.frame for place in wanted}
    sizes = [frames[each].stored for each in packed] + [segments[n].stored for n in from_whole]
    table = part.segments.size if part.segments is not None else 0
    return sum(sizes) + part.chunks.index.size + table


def _chunks(store: Reader, part: PublishedPart) -> tuple[tuple[Place, ...], tuple[Frame, ...]]:
    assert part.chunks is not None
    stored = part.chunks.pack.size if part.chunks.pack is not None else 0
    return read_index(Link(store).get(part.chunks.index, MOST_INDEX), part.size, stored)


def _segments(store: Reader, part: PublishedPart) -> tuple[Segment, ...]:
    assert part.stored is not None
    if part.segments is None:
        return (Segment(0, part.size, 0, part.stored.size, b""),)
    table = Link(store).get(part.segments, MOST_INDEX)
    return read_table(table, part.size, part.stored.size)


def total(found: Costs) -> Total:
    """What all parts cost that a machine downloads, each in its cheapest way."""
    best = [each[0] for each in found.values() if each]
    used = {cost.way for cost in best if cost.size}
    return Total(sum(cost.size for cost in best), tuple(way for way in WAYS if way in used))


def by_way(found: Costs) -> dict[Way, int]:
    """Bytes of all parts together by way, for each way that a part can come by.

    A part that cannot come by a way comes by its cheapest one.
    """
    sizes: dict[Way, int] = {}
    for way in WAYS:
        parts = [next((c for c in each if c.way == way), None) for each in found.values()]
        if any(parts):
            best = (each[0] for each in found.values())
            sizes[way] = sum((c or cheapest).size for c, cheapest in zip(parts, best, strict=True))
    return sizes


def link_seconds(size: int) -> int:
    """Seconds that *size* bytes take over a link of :data:`LINK`, at least."""
    return math.ceil(size * 8 / LINK)


def link_time(size: int) -> str:
    """The same for a person: ``no time``, ``under 1m``, ``4m``, ``2h01m``."""
    if not size:
        return "no time"
    minutes = math.ceil(link_seconds(size) / 60)
    if link_seconds(size) < 60:
        return "under 1m"
    return f"{minutes}m" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"


def _part(
    store: Reader, role: str, new: PublishedRelease, base: PublishedRelease | None
) -> tuple[Cost, ...]:
    part = new.parts[role]
    base_part = base.parts.get(role) if base is not None else None
    if base is None or base_part is None:
        return (_whole(part),)
    identity = base.identity(role)
    if identity == new.identity(role):
        return (Cost("whole", 0),)
    sizes: dict[Way, int] = {"whole": _whole(part).size}
    # Where the bytes of a delta belong, the table of segments tells.
    table = part.segments.size if part.segments is not None else 0
    deltas = [each.size + table for each in part.deltas if each.base == identity]
    if deltas:
        sizes["delta"] = min(deltas)
    chunks = chunk_cost(store, part, base_part)
    if chunks is not None:
        sizes["chunks"] = chunks
    found = (Cost(way, sizes[way]) for way in WAYS if way in sizes)
    return tuple(sorted(found, key=lambda cost: cost.size))


def _whole(part: PublishedPart) -> Cost:
    return Cost("whole", sum(each.size for each in part.whole))
