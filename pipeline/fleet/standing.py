"""What machines' reports amount to: how each stands, who lags and why. Pure: no clock, no store."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from pipeline.clock import iso
from pipeline.fleet.arrivals import Arrival
from pipeline.models.checkin import Checkin
from pipeline.models.fields import format_duration

SILENCE = 3600.0
"""Seconds without a report after which a machine counts as silent."""

_LOOKS = 3  # that a machine may miss, where it asks its store more rarely than that
_RARELY = 8 * 86400.0  # seconds; more than this nobody's word is taken for
_CLOCK = 300.0  # seconds by which a machine's clock may be off without a word

StateName = Literal["current", "moving", "waiting", "failed", "silent"]


@dataclass(frozen=True)
class Standing:
    """How one machine stands.

    Attributes:
        checkin: its newest report.
        heard: when that arrived.
        key: what it was signed with.
        state: of its update, or that nothing was heard.
        reason: why, or which step; empty if there is nothing to say.
        notes: what else a person should know of it.
    """

    checkin: Checkin
    heard: datetime
    key: str
    state: StateName
    reason: str
    notes: tuple[str, ...] = ()

    @property
    def lagging(self) -> bool:
        """Does it not do what its channel wants?"""
        return self.state != "current"

    @property
    def text(self) -> str:
        """``up to date``, ``moving: written``, ``silent since …``."""
        if self.state == "current":
            return "up to date" if self.checkin.channel else "follows no channel"
        if self.state == "silent":
            return self.reason
        return f"{self.state}: {self.reason}" if self.reason else self.state


@dataclass(frozen=True)
class Share:
    """How many machines run one release.

    Attributes:
        image, version: the release; both empty for machines that do not say.
        machines: how many run it.
        of: machines of that image.
        unconfirmed: how many of them run it on trial.
    """

    image: str
    version: str
    machines: int
    of: int
    unconfirmed: int


@dataclass(frozen=True)
class Lag:
    """Machines that lag for one reason."""

    reason: str
    devices: tuple[str, ...]


def stand(arrival: Arrival, now: datetime, silence: float = SILENCE) -> Standing | None:
    """How the machine of *arrival* stands; None if its report cannot be believed.

    Args:
        silence: seconds; a machine that asks its store more rarely may be silent longer.
    """
    if arrival.signed is None:
        return None
    said, heard = arrival.signed.checkin, min(arrival.heard, now)
    state, reason = _state(said)
    if now - heard > timedelta(seconds=_patience(said, silence)):
        more = "" if state == "current" else f"; then {state}: {reason}".rstrip(": ")
        state, reason = "silent", f"silent since {iso(heard)}{more}"
    notes = _notes(said, heard)
    if not reason and said.outcome == "waiting" and said.reason:
        notes = (*notes, said.reason)  # up to date, and in trouble all the same
    return Standing(said, heard, arrival.signed.key, state, reason, notes)


def shares(standings: Iterable[Standing]) -> list[Share]:
    """How many machines run which release, by image, the most common first."""
    runs: dict[tuple[str, str], list[Standing]] = defaultdict(list)
    images: dict[str, int] = defaultdict(int)
    for each in standings:
        runs[each.checkin.image, each.checkin.version].append(each)
        images[each.checkin.image] += 1
    found = [
        Share(image, version, len(who), images[image], sum(not w.checkin.confirmed for w in who))
        for (image, version), who in runs.items()
    ]
    return sorted(found, key=lambda share: (share.image, -share.machines, share.version))


def running(arrivals: Iterable[Arrival], image: str, channel: str) -> dict[str, int]:
    """How many machines of *image* that follow *channel* run which version.

    Whoever does not say what runs, or is not to be believed, does not count.
    """
    said = (each.signed.checkin for each in arrivals if each.signed is not None)
    return dict(
        Counter(
            each.version
            for each in said
            if each.version and (each.image, each.channel) == (image, channel)
        )
    )


def lags(standings: Iterable[Standing]) -> list[Lag]:
    """Who lags, by reason, the most common first. Silence is one reason, whatever its start."""
    found: dict[str, list[str]] = defaultdict(list)
    for each in standings:
        if each.lagging:
            found["silent" if each.state == "silent" else each.text].append(each.checkin.device)
    sizes = sorted(found.items(), key=lambda entry: (-len(entry[1]), entry[0]))
    return [Lag(reason, tuple(devices)) for reason, devices in sizes]


def _state(said: Checkin) -> tuple[StateName, str]:
    there = said.confirmed and said.wanted in ("", said.version)
    if there and (said.wanted or said.outcome == "ok") and not _under_way(said):
        return "current", ""
    if said.outcome == "failed" or (said.step == "failed" and said.wanted == said.target):
        return "failed", f"{said.target}: {said.reason}".strip(": ")
    if said.outcome == "waiting":
        return "waiting", said.reason
    if said.version and not said.confirmed:
        return "moving", "on trial"
    if _under_way(said):
        return "moving", said.step
    return "moving", "has not begun" + (f": {said.reason}" if said.reason else "")


def _under_way(said: Checkin) -> bool:
    """Does it prepare another release than the one that runs?"""
    return said.step not in ("", "confirmed", "failed") and said.target != said.version


def _patience(said: Checkin, silence: float) -> float:
    """Seconds without a report that are no silence yet."""
    between = (said.next - said.sent).total_seconds() if said.next else 0.0
    return max(silence, _LOOKS * between if between <= _RARELY else 0.0)


def _notes(said: Checkin, heard: datetime) -> tuple[str, ...]:
    ahead = (said.sent - heard).total_seconds()
    if ahead > _CLOCK:
        return (f"its clock is {format_duration(_rough(ahead))} ahead",)
    if ahead < -_CLOCK:
        late = format_duration(_rough(-ahead))
        return (f"its report is {late} older than its arrival, or its clock is wrong",)
    return ()


def _rough(seconds: float) -> float:
    """As exact as a person wants it."""
    unit: float = next((u for u in (86400, 3600, 60) if seconds >= 2 * u), 1)
    return seconds // unit * unit


def chosen(
    standings: Sequence[Standing],
    *,
    image: str = "",
    channel: str = "",
    site: str = "",
    release: str = "",
    lagging: bool = False,
) -> list[Standing]:
    """Those that all given words fit; *release*: the version that runs."""
    return [
        each
        for each in standings
        if (not image or each.checkin.image == image)
        and (not channel or each.checkin.channel == channel)
        and (not site or each.checkin.site == site)
        and (not release or each.checkin.version == release)
        and (each.lagging or not lagging)
    ]
