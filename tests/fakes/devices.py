"""Simulated devices: each decides by the rules alone, with nothing but a pointer and a clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from pipeline.models.device import Attempt, KnownBad, Running, State, Step
from pipeline.models.pointer import Pointer, PublishedRelease
from pipeline.models.site import Site
from pipeline.policy import backoff, installation
from pipeline.policy.installation import Wanted
from pipeline.policy.verdict import Verdict

POLL = 900.0


def running(release: PublishedRelease, **changes: object) -> Running:
    """What a machine says that runs *release*, confirmed."""
    made = Running(
        image=release.image,
        version=release.version,
        arch=release.arch,
        root_hash=release.root_hash,
        boot_id="boot-1",
        uptime=3600.0,
        entry="recast-1.conf",
        complete=True,
    )
    return made.model_copy(update=changes)


def attempt(release: PublishedRelease, step: Step, when: datetime, reason: str = "") -> Attempt:
    """An update to *release* that stands at *step*."""
    ended = when if step in ("confirmed", "failed") else None
    return Attempt(
        release=release, channel="stable", started=when, step=step, reason=reason, ended=ended
    )


def known_bad(release: PublishedRelease, when: datetime, reason: str = "it hung") -> KnownBad:
    """That *release* failed on a machine."""
    return KnownBad(
        image=release.image,
        version=release.version,
        root_hash=release.root_hash,
        boot_digest=release.boot_digest,
        reason=reason,
        when=when,
    )


@dataclass
class Device:
    """A machine that asks its channel, decides, and reimages itself in no time.

    Attributes:
        name: decides its place in rollouts, and when it asks.
        runs: the release that it runs.
        fails: versions that cannot become healthy on it.
        moves: each release that it went to, and when.
    """

    name: str
    runs: PublishedRelease
    fails: frozenset[str] = frozenset()
    state: State = field(default_factory=State)
    moves: list[tuple[datetime, PublishedRelease]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.site = Site(device=self.name, channel="stable", poll=POLL)

    def asks_at(self, moment: datetime) -> None:
        """Have it ask its channel next at *moment*."""
        self._note(next=moment)

    def decide(self, pointer: Pointer, now: datetime) -> tuple[Wanted, Verdict]:
        """What it wants, and whether it may begin with it."""
        facts = (pointer, self.site, running(self.runs), self.state, now)
        wanted = installation.wanted(*facts)
        return wanted, installation.judge(wanted, *facts)

    def look(self, pointer: Pointer, now: datetime) -> None:
        """Ask the channel, if it is time to, and do what it says."""
        if not backoff.due(now, self.state.checked, self.state.next, backoff.longest(POLL)):
            return
        following = now + timedelta(seconds=backoff.pause(self.name, POLL, 0, 0.5))
        self._note(checked=now, next=following)
        wanted, verdict = self.decide(pointer, now)
        if wanted.settled or wanted.release is None or not verdict.allowed:
            return
        if wanted.release.version in self.fails:
            bad = known_bad(wanted.release, now)
            self._note(bad=(bad, *self.state.bad), attempt=attempt(wanted.release, "failed", now))
            return
        self.runs = wanted.release
        self.moves.append((now, wanted.release))
        self._note(attempt=attempt(wanted.release, "confirmed", now))

    def _note(self, **changes: object) -> None:
        self.state = self.state.model_copy(update=changes)


def share_on(devices: Sequence[Device], release: PublishedRelease) -> float:
    """The share of *devices* that run *release*."""
    return sum(each.runs.version == release.version for each in devices) / len(devices)
