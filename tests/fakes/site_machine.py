"""A machine at a site: its slots, boot loader, health and link, with faults by name.

One object is the machine through all of its boots; :meth:`SiteMachine.turn` has a new agent do one
turn on it, as the timer does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pipeline.agent.base import Entry, Note, Progress
from pipeline.agent.history import History
from pipeline.agent.journal import Journal
from pipeline.agent.state import Memory
from pipeline.agent.telling import Teller
from pipeline.agent.turn import Outcome, Parts
from pipeline.agent.update import Agent
from pipeline.command import Stop
from pipeline.errors import DiskFullError, HostError, NetworkError, RecastError, UsageError
from pipeline.models.channel import ALL_AT_ONCE
from pipeline.models.checkin import Checkin
from pipeline.models.device import STEPS, Attempt, Running, State, Step
from pipeline.models.pointer import Pointer, PublishedRelease, Revocation, Rollout
from pipeline.models.site import Site
from pipeline.policy.verdict import Gate
from pipeline.transfer.base import Filled, Seed, Source, Target
from pipeline.transfer.base import Progress as Bytes
from tests.fakes.pointers import make_published

IMAGE = "edge-web"
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)  # a Monday
SIZE = 1000  # bytes that a download counts as


class PowerCut(BaseException):
    """The machine lost its power."""


@dataclass
class Way:
    """A boot entry, and what it boots."""

    id: str
    release: PublishedRelease
    sequence: int = 0
    left: int | None = None
    done: int = 0

    def shown(self) -> Entry:
        return Entry(self.id, self.release.name, self.release.root_hash, self.left, self.done)


class NoSource:
    """A source that nobody asks: the fake slots take releases as they are."""

    def fill(
        self,
        release: PublishedRelease,
        role: str,
        target: Target,
        seeds: Sequence[Seed],
        *,
        progress: Bytes | None = None,
        stop: Stop | None = None,
    ) -> Filled:
        raise AssertionError("the fake slots fetch nothing")


class FakeUpstream:
    """Stores that say *pointer*.

    Attributes:
        pointer_now: what the channel says.
        error: what asking ends in; None: it is answered.
        remembers: is what was heard earlier still good?
        proof: the gate ``attested``.
        asked: how often the store was asked.
    """

    def __init__(self, pointer: Pointer) -> None:
        self.pointer_now = pointer
        self.error: RecastError | None = None
        self.remembers = False
        self.proof = Gate("attested", True, "made as signed, tests passed on qemu")
        self.asked = 0

    @property
    def source(self) -> Source:
        return NoSource()

    def ask(self) -> None:
        self.asked += 1
        if self.error is not None:
            raise self.error
        self.remembers = True

    def recall(self) -> bool:
        return self.remembers

    def pointer(self, channel: str, image: str) -> Pointer:
        if (channel, image) != (self.pointer_now.channel, self.pointer_now.image):
            raise UsageError(f"channel {channel} holds no image {image}")
        return self.pointer_now

    def attested(self, release: PublishedRelease) -> Gate:
        return self.proof


@dataclass
class SiteMachine:
    """Implements Machine, Slots and Reports at once.

    Attributes:
        folder: where its data partition and /run are.
        site: its settings.
        now: its clock.
        ill: by version, how it behaves: ``panics`` or ``hangs`` before its services, ``fails`` a
            health check, ``stalls`` without a word.
        faults: by step, what happens on the way to it, once: ``network``, ``disk full``,
            ``broken disk``, ``cut`` (before the step), ``cut before its note``, ``cut after its
            note``.
        gates: what :meth:`check` says.
        stands_in_the_way: obstacles to a reboot.
        unreadable: the ESP cannot be read.
        ignores: ids of entries that the boot loader passes by.
        by_hand: id of an entry that somebody chooses at each boot.
    """

    folder: Path
    site: Site = field(
        default_factory=lambda: Site.model_validate(
            {"device": "m1", "store": ["https://store.example"], "channel": "stable"}
        )
    )
    now: datetime = NOW
    ill: dict[str, str] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    gates: tuple[Gate, ...] = ()
    stands_in_the_way: tuple[str, ...] = ()
    unreadable: bool = False
    ignores: set[str] = field(default_factory=set)
    by_hand: str = ""
    mount: Path | None = None
    upstream: FakeUpstream | None = None
    reports: list[Checkin] = field(default_factory=list)
    ways: list[Way] = field(default_factory=list)
    applied: list[Step] = field(default_factory=list)
    downloaded: int = 0
    wakes: list[float] = field(default_factory=list)
    reboots: int = 0
    boots: int = 0
    uptime: float = 100.0
    other: PublishedRelease | None = None
    current: PublishedRelease = field(default_factory=lambda: make_published(IMAGE, 1))
    way: Way | None = None
    wants_reboot: bool = False

    def __post_init__(self) -> None:
        if not self.ways:
            self.ways = [Way(f"{self.current.name}.efi", self.current)]
        if self.upstream is None:
            self.upstream = FakeUpstream(channel(1))
        self.boot()

    # What tests do with it.

    @property
    def stores(self) -> FakeUpstream:
        assert self.upstream is not None
        return self.upstream

    @property
    def state(self) -> State:
        return self.memory().load()

    @property
    def attempt(self) -> Attempt:
        attempt = self.state.attempt
        assert attempt is not None
        return attempt

    @property
    def version(self) -> str:
        return self.running().version

    @property
    def confirmed(self) -> bool:
        return not self.running().trial

    def history(self) -> list[str]:
        return [each.step for each in History(self.memory().folder / "history.jsonl").read()]

    def memory(self) -> Memory:
        return Memory(
            self.folder / "data/recast/agent", self.folder / "run/recast/agent", mount=self.mount
        )

    def agent(self, **changes: Any) -> Agent:
        memory = self.memory()
        teller = Teller(
            self.site,
            self,
            Journal(self.folder / "no journal"),
            History(memory.folder / "history.jsonl"),
            lambda: self.now,
            status=self.folder / "run/recast/status.json",
        )
        parts = Parts(
            site=self.site,
            machine=self,
            slots=lambda _running: self,
            memory=memory,
            teller=teller,
            upstream=self.upstream,
            clock=lambda: self.now,
            chance=lambda: 0.5,
        )
        return Agent(replace(parts, **changes))

    def turn(self, **asked: Any) -> Outcome | None:
        """One turn of a new agent, and the reboot that comes of it; None if power was cut."""
        try:
            outcome = self.agent().update(**asked)
        except PowerCut:
            self.boot()
            return None
        if self.wants_reboot:
            self.boot()
        return outcome

    def judged(self) -> Outcome:
        outcome = self.agent().judge()
        if self.wants_reboot:
            self.boot()
        return outcome

    def settle_down(self, turns: int = 20) -> None:
        """Turns until nothing moves any more; power cuts and reboots included."""
        for _ in range(turns):
            before = (self.boots, self.state.attempt, self.version, self.confirmed)
            self.now += timedelta(hours=12)
            self.turn()
            if before == (self.boots, self.state.attempt, self.version, self.confirmed):
                return
        raise AssertionError("it never comes to rest")

    def boot(self) -> None:
        """Power on, until some release has come up; what the boot loader counts, it counts."""
        self.wants_reboot = False
        for _ in range(20):
            self.boots += 1
            self.uptime = 30.0
            way = self._taken()
            if way.left is not None:
                way.left, way.done = max(0, way.left - 1), way.done + 1
            if self.ill.get(way.release.version) in ("panics", "hangs"):
                continue  # a watchdog reboots it
            self.way, self.current = way, way.release
            self._mark(way.release)
            # systemd-bless-boot
            if way.left is not None and self._healthy(way.release):
                way.left, way.done = None, 0
            return
        raise AssertionError("this machine does not come up any more")

    def _taken(self) -> Way:
        if self.by_hand:
            return next(way for way in self.ways if way.id == self.by_hand)
        ways = [way for way in self.ways if way.id not in self.ignores]
        return sorted(ways, key=lambda way: (way.left == 0, -way.sequence))[0]

    def _mark(self, release: PublishedRelease) -> None:
        path = self.folder / "data/recast/agent/boots"
        if self.mount is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a") as file:
                file.write(f"boot-{self.boots} {release.name}\n")

    def _healthy(self, release: PublishedRelease) -> bool:
        return release.version not in self.ill

    # Machine

    def running(self) -> Running:
        assert self.way is not None
        return Running(
            image=self.current.image,
            version=self.current.version,
            arch=self.current.arch,
            root_hash=self.current.root_hash,
            boot_id=f"boot-{self.boots}",
            uptime=self.uptime,
            entry=self.way.id,
            tries_left=self.way.left,
            complete=self._healthy(self.current),
        )

    def complaints(self) -> tuple[str, ...]:
        if self.ill.get(self.current.version) == "fails":
            return ("the health check `page` failed: it does not answer",)
        return ()

    def obstacles(self) -> tuple[str, ...]:
        return self.stands_in_the_way

    def reboot(self) -> None:
        self.reboots += 1
        self.wants_reboot = True

    def wake(self, seconds: float) -> None:
        self.wakes.append(seconds)

    # Reports

    def send(self, checkin: Checkin) -> None:
        self.reports.append(checkin)

    # Slots

    def check(self, release: PublishedRelease) -> Sequence[Gate]:
        return self.gates

    def holds(self, release: PublishedRelease) -> bool:
        return self.other == release

    def apply(
        self,
        attempt: Attempt,
        source: Source,
        note: Note,
        *,
        tries: int = 3,
        sequence: int,
        progress: Progress | None = None,
        stop: Stop | None = None,
        until: Step = "activated",
    ) -> Attempt:
        if STEPS.index(attempt.step) >= STEPS.index(until):
            return attempt
        if attempt.step == "chosen":
            reuse = self.holds(attempt.release)
            attempt = attempt.model_copy(update={"reuse": reuse})
        for step in STEPS[STEPS.index(attempt.step) + 1 : STEPS.index(until) + 1]:
            fault = self.faults.pop(step, "")
            self._trip(fault)
            attempt = self._to(step, attempt, tries, sequence, progress)
            if fault == "cut before its note":
                raise PowerCut
            note(attempt)
            self.applied.append(step)
            if fault == "cut after its note":
                raise PowerCut
        return attempt

    def _trip(self, fault: str) -> None:
        errors: dict[str, Callable[[], BaseException]] = {
            "cut": PowerCut,
            "network": lambda: NetworkError("https://store.example does not answer"),
            "disk full": lambda: DiskFullError("the ESP is full"),
            "broken disk": lambda: HostError("the disk failed"),
        }
        if fault in errors:
            raise errors[fault]()

    def _to(
        self, step: Step, attempt: Attempt, tries: int, sequence: int, progress: Progress | None
    ) -> Attempt:
        update: dict[str, object] = {"step": step}
        update["seconds"] = {**attempt.seconds, step: 1.0}
        if step == "cleared" and not attempt.reuse:
            self.ways = [way for way in self.ways if way is self.way or way.release != self.other]
            self.other = None
        elif step == "written" and not attempt.reuse:
            assert attempt.release != self.current
            self.other = attempt.release
            self.downloaded += SIZE
            update["downloaded"] = SIZE
            if progress:
                progress("written", SIZE, SIZE)
        elif step == "activated":
            made = f"recast-{sequence}.conf"
            update["entry"] = made
            if made not in [way.id for way in self.ways]:
                self.ways.append(Way(made, attempt.release, sequence, tries))
        return attempt.model_copy(update=update)

    def entries(self) -> tuple[Entry, ...]:
        if self.unreadable:
            raise HostError("the ESP cannot be read")
        ways = sorted(self.ways, key=lambda way: (way.left == 0, -way.sequence))
        return tuple(way.shown() for way in ways)

    def give_up(self, entry: str) -> None:
        for way in self.ways:
            if way.id == entry:
                way.left = 0

    def bless(self, entry: str) -> None:
        for way in self.ways:
            if way.id == entry:
                way.left, way.done = None, 0


def channel(
    number: int,
    *,
    previous: int = 0,
    state: str = "rolling",
    revoked: Sequence[int] = (),
    frozen: str = "",
) -> Pointer:
    """What the channel says: its release is the *number*-th, for all machines at once."""
    since = NOW - timedelta(hours=1)
    rollout = Rollout.model_validate(
        {
            "id": f"rollout-{number}",
            "waves": ALL_AT_ONCE,
            "wave": 0,
            "opened": since,
            "state": state,
        }
    )
    return Pointer(
        channel="stable",
        image=IMAGE,
        release=make_published(IMAGE, number),
        since=since,
        previous=make_published(IMAGE, previous) if previous else None,
        rollout=rollout,
        revoked=tuple(
            Revocation(
                version=make_published(IMAGE, each).version,
                root_hash=make_published(IMAGE, each).root_hash,
                reason="it forgets its door code",
                when=since,
            )
            for each in revoked
        ),
        frozen=frozen,
    )
