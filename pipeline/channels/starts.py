"""From which releases machines of a channel start, and what another release costs from there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from pipeline.errors import RecastError
from pipeline.fleet.arrivals import StoreCheckIns
from pipeline.fleet.standing import running
from pipeline.policy.rollout import reached
from pipeline.transfer.costs import Costs, Total, costs, total

if TYPE_CHECKING:
    from datetime import datetime

    from pipeline.channels.desk import Desk
    from pipeline.models.pointer import Pointer, PublishedRelease

REPORTS = 1000
"""Reports of machines that are read at most: it is a look, and must not take minutes."""

VERSIONS = 8
"""Releases besides those of the channel that are told of at most: those of most machines."""


@dataclass(frozen=True)
class Start:
    """A release that machines run now.

    Attributes:
        version: of that release.
        kind: ``held`` by the channel; held ``before``, and still to be run by machines that its
            rollout has not reached; or ``reported`` by machines alone.
        costs: what the other release costs a machine from there; from nothing where the store
            has not got this one any more.
        machines: how many reported that they run it; None if that is not known.
    """

    version: str
    kind: Literal["held", "before", "reported"]
    costs: Costs
    machines: int | None = None

    @property
    def total(self) -> Total:
        """The sum of all parts, each in its cheapest way."""
        return total(self.costs)


@dataclass(frozen=True)
class Fleet:
    """What machines' reports say of where they start from.

    Attributes:
        starts: what the channel holds, and what else machines run, those of most machines first.
        read: how many reports were read.
        reports: how many there are.
        others: how many machines run still other releases.
        problem: why there is nothing to tell; empty if there is.
    """

    starts: tuple[Start, ...]
    read: int = 0
    reports: int = 0
    others: int = 0
    problem: str = ""


def find_starts(
    desk: Desk, release: PublishedRelease, pointer: Pointer | None, now: datetime
) -> tuple[Start, ...]:
    """What the signed channel says that machines run, and what *release* costs them from there.

    Args:
        desk: knows the store.
        release: what is to enter the channel.
        pointer: what the channel says of the image; None if nothing.
        now: the present moment; a rollout that is under way has not reached all by then.

    Raises:
        TrustError, NetworkError, HostError: the store cannot be read or believed.
    """
    if pointer is None or pointer.release is None:
        return ()
    held, before = pointer.release, pointer.previous
    starts = [Start(held.version, "held", costs(desk.store, release, held))]
    under_way = pointer.rollout is not None and reached(pointer.rollout, now) < 1
    if before is not None and under_way and before.version != held.version:
        starts.append(Start(before.version, "before", costs(desk.store, release, before)))
    return tuple(starts)


def ask_machines(
    desk: Desk, channel: str, release: PublishedRelease, starts: Sequence[Start]
) -> Fleet:
    """Count the machines at each start, and add those that only machines know of.

    Reports that cannot be read are told of, never raised: they decide nothing.

    Args:
        desk: knows the store, and what machines have reported there.
        channel: only machines that follow it count.
        release: what is to enter it.
        starts: what :func:`find_starts` said.
    """
    try:
        arrivals, reports = StoreCheckIns(desk.store).sample(REPORTS)
        counts = running(arrivals, release.image, channel)
        named = [replace(each, machines=counts.get(each.version, 0)) for each in starts]
        known = {each.version for each in starts}
        rest = {version: n for version, n in counts.items() if version not in known}
        shown = _reported(desk, release, rest)
    except RecastError as error:
        return Fleet(tuple(starts), problem=error.message)
    if not counts:
        return Fleet(tuple(starts), len(arrivals), reports)
    others = sum(rest.values()) - sum(each.machines or 0 for each in shown)
    return Fleet((*named, *shown), len(arrivals), reports, others)


def _reported(desk: Desk, release: PublishedRelease, counts: Mapping[str, int]) -> list[Start]:
    most = sorted(counts.items(), key=lambda each: (-each[1], each[0]))[:VERSIONS]
    return [
        Start(
            version,
            "reported",
            costs(desk.store, release, desk.published.find(release.image, version)),
            machines,
        )
        for version, machines in most
    ]
