"""One turn of the agent: what became of the last update, what is wanted, and on to it.

Settle → check → decide → prepare the other slot → wait for the window → activate → reboot. Each
step is on the medium before the next one begins; whoever comes after a cut goes on where it stood.
What the outside world does wrong ends in words, never in a machine that stops following.

The boot loader hears of a new release last, when the machine may reboot and is about to: a machine
that loses power outside its window comes back as it was.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from pipeline.agent import settle as rules
from pipeline.agent import status as statuses
from pipeline.agent.base import Entry, Machine, Slots
from pipeline.agent.telling import Known, Teller, joined
from pipeline.errors import (
    HostError,
    Interrupted,
    NetworkError,
    RecastError,
    TrustError,
    UsageError,
)
from pipeline.models.device import Attempt, Running, State, Step
from pipeline.models.pointer import Pointer, PublishedRelease
from pipeline.models.site import Site
from pipeline.policy import backoff, installation, window
from pipeline.policy.installation import Wanted
from pipeline.policy.verdict import Gate
from pipeline.store.base import MissingError

if TYPE_CHECKING:
    from pipeline.agent.state import Memory
    from pipeline.agent.status import Status
    from pipeline.agent.upstream import Upstream
    from pipeline.command import Stop

OBSTACLE_PAUSE = 300.0
"""Seconds until what asks for no reboot is asked again."""

TRIAL_PAUSE = 30.0
"""Seconds until a release that is on trial is looked at again, at most."""

_UNDER_WAY = ("chosen", "cleared", "written", "verified", "named", "staged", "activated")
_FOR_GOOD = ("not revoked", "not failed here", "machine class")


@dataclass(frozen=True)
class Parts:
    """What the agent of one machine is put together from.

    Attributes:
        site: its settings.
        machine: the machine itself.
        slots: its slots, for what runs; may raise HostError.
        memory: what it remembers.
        teller: says what happens.
        upstream: the stores that it follows; None: *unconfigured* says what is missing.
        unconfigured: why nothing is followed.
        problems: what is wrong with its settings.
        clock: the present moment.
        chance: a random number in [0, 1).
        stop: ends work when set.
    """

    site: Site
    machine: Machine
    slots: Callable[[Running], Slots]
    memory: Memory
    teller: Teller
    upstream: Upstream | None
    clock: Callable[[], datetime]
    unconfigured: str = ""
    problems: tuple[str, ...] = ()
    chance: Callable[[], float] = random.random
    stop: Stop | None = None


@dataclass(frozen=True)
class Outcome:
    """What a turn came to.

    Attributes:
        status: as it stands at its end.
        error: what kept it from going on; None if nothing did, or time alone does.
        rebooting: a reboot was begun.
    """

    status: Status
    error: RecastError | None = None
    rebooting: bool = False


@dataclass
class _Turn:
    """What came up in one turn."""

    override: bool = False
    asked: bool = False
    looked: bool = False
    error: RecastError | None = None
    rebooting: bool = False
    wakes: list[datetime] = field(default_factory=list)


class Agent:
    """Does the turns; whoever calls holds the lock (:func:`pipeline.agent.state.at_work`).

    Args:
        parts: what it is put together from.
    """

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self._p = parts
        self._known = Known(problems=parts.problems)
        self._slots: Slots | None = None
        self._entries: tuple[Entry, ...] = ()
        self._turn = _Turn()

    def update(
        self, *, asked: bool = False, override: bool = False, until: Step = "activated"
    ) -> Outcome:
        """One turn.

        Args:
            asked: a person waits: the store is asked whatever was agreed on.
            override: a person wants it now: neither wave nor window count.
            until: ``staged``: have everything on the disk, and leave the rest to a later turn.

        Raises:
            Interrupted: it was stopped; the next turn goes on.
            HostError: this is no machine that Recast made, or nothing can be remembered.
        """
        self._turn = _Turn(override=override, asked=asked)
        try:
            self._begin()
            if self._running.trial:
                self._on_trial()
            else:
                self._follow(until)
        except Interrupted:
            self._finish(quietly=True)
            raise
        except OSError as error:
            self._fail(HostError(f"the system said no: {error}"))
        except RecastError as error:
            if self._known.running is None:
                raise
            self._fail(error)
        return self._finish()

    def check(self) -> Outcome:
        """Ask the store, and decide; nothing is installed.

        Raises:
            HostError: as :meth:`update`.
        """
        self._turn = _Turn(asked=True)
        self._begin()
        try:
            pointer = self._look()
            if pointer is not None:
                wanted = self._want(pointer)
                if wanted.release is not None and not wanted.settled:
                    gates = self._gates(wanted, pointer)
                    if not [gate for gate in gates if not gate.passed]:
                        gates.append(self._window())
                    self._known.waiting = tuple(gate for gate in gates if not gate.passed)
        except RecastError as error:
            self._fail(error)
        return self._finish()

    def judge(self) -> Outcome:
        """Give up what is on trial if it is not healthy, or its time is over.

        Raises:
            HostError: as :meth:`update`.
        """
        self._begin()
        running = self._running
        if running.complete:
            return self._finish()
        complaints = self._p.machine.complaints()
        if not running.trial:
            if complaints:
                self._problem(f"this machine is not healthy: {'; '.join(complaints)}")
            return self._finish()
        self._judge(complaints)
        return self._finish()

    def confirm(self, *, by: str) -> Outcome:
        """Call good what is on trial.

        Args:
            by: who says so.

        Raises:
            UsageError: nothing is on trial.
            HostError: the ESP cannot be written.
        """
        self._begin()
        if not self._running.trial:
            raise UsageError(
                f"{self._running.version} is not on trial: there is nothing to confirm",
                hint="`recast-agent status` shows what runs.",
            )
        self._bless(self._running.entry, by=by)
        return self._finish()

    # What a turn consists of.

    @property
    def _running(self) -> Running:
        assert self._known.running is not None
        return self._known.running

    def _begin(self) -> None:
        """Find out what runs, and what became of the last update."""
        p, known = self._p, self._known
        known.state = p.memory.load()
        known.running = p.machine.running()
        known.problems = joined(known.problems, p.memory.problems)
        try:
            self._slots = p.slots(known.running)
            self._entries = self._slots.entries()
        except HostError as error:
            self._problem(error.message)
            attempt = known.state.attempt
            if attempt is not None and not rules.runs(attempt.release, known.running):
                return  # without the entries nobody knows what became of it
        settled = rules.settle(
            known.state, known.running, self._entries, p.memory.marks(), p.clock()
        )
        if settled.state != known.state:
            self._save(settled.state)
        for event in settled.events:
            p.teller.event(event)
        if settled.bless:
            self._bless(settled.bless)
        elif settled.events:
            p.teller.report(known)

    def _bless(self, entry: str, by: str = "") -> None:
        """Take the counter off what runs, and remember that it is good."""
        if self._slots is None or not entry:
            raise HostError(
                "what runs cannot be confirmed: its boot entry is not known",
                hint="See whether the ESP is mounted at /efi.",
            )
        self._slots.bless(entry)
        running = self._running.model_copy(update={"tries_left": None})
        state, event = rules.blessed(self._known.state, running, self._p.clock(), by=by)
        self._known.running = running
        self._save(state)
        if event:
            self._p.teller.event(event)
            self._p.teller.report(self._known)

    def _on_trial(self) -> None:
        """What runs is not known to be good yet: nothing else begins before that."""
        running = self._running
        complaints = self._p.machine.complaints()
        if complaints or running.uptime >= self._p.site.deadline:
            self._judge(complaints)
            return
        gate = Gate("confirmed", False, f"{running.version} is on trial: not known to be good yet")
        self._known.waiting = (gate,)
        self._wake_in(min(TRIAL_PAUSE, self._p.site.deadline - running.uptime + 1))

    def _judge(self, complaints: Sequence[str]) -> None:
        running, site = self._running, self._p.site
        late = running.uptime >= site.deadline
        if not complaints and not late:
            self._wake_in(site.deadline - running.uptime + 1)
            return
        why = "; ".join(complaints)
        if not why:
            why = f"it was not healthy {site.deadline:.0f} s after power-on, with nothing failed"
        back = rules.way_back(running, self._entries)
        if back is None or self._slots is None or not running.entry:
            self._problem(f"this machine is not healthy, and has no other release to go to: {why}")
            return
        now = self._p.clock()
        try:
            self._save(rules.condemned(self._known.state, running, why, now))
        except HostError as error:  # the boot loader's entry tells the next one enough
            self._problem(error.message)
        self._slots.give_up(running.entry)
        name = f"{running.image}_{running.version}_{running.arch}"
        self._say("failed", f"it is given up: {why}", release=name, failed=True)
        self._p.teller.report(self._known)
        self._p.machine.reboot()
        self._turn.rebooting = True

    def _follow(self, until: Step) -> None:
        """On to what the channel wants."""
        pointer = self._look()
        attempt = self._under_way()
        if pointer is None:
            # What is activated is decided; all else waits for word from the store.
            if attempt is not None and attempt.step == "activated" and until == "activated":
                self._switch()
            return
        wanted = self._want(pointer)
        attempt = self._drop_unwanted(wanted, pointer)
        if wanted.release is None or wanted.settled:
            return
        gates = self._gates(wanted, pointer)
        refused = tuple(gate for gate in gates if not gate.passed)
        self._known.waiting = refused
        if refused:
            self._wake_at(*(gate.opens for gate in refused))
            return
        if attempt is None:
            self._choose(wanted.release)
        if self._known.state.attempt is None or self._known.state.attempt.step != "activated":
            self._apply("staged")
        if until == "activated":
            self._switch()

    def _look(self) -> Pointer | None:
        """What the channel says; None if nothing that can be believed is known."""
        p, known = self._p, self._known
        if p.upstream is None:
            if p.unconfigured:
                known.waiting = (Gate("configured", False, p.unconfigured),)
            return None
        channel, image = p.site.channel or "", p.site.image or self._running.image
        state, now = known.state, p.clock()
        due = self._turn.asked or backoff.due(
            now, state.checked, state.next, backoff.longest(p.site.poll)
        )
        if not due and p.upstream.recall():
            attempt = self._under_way()
            ready = attempt is not None and attempt.step in ("staged", "activated")
            if state.failures and not ready:
                return None  # a link or a store that failed is left alone for a while
            return p.upstream.pointer(channel, image)
        self._turn.looked = True
        self._p.teller.progress(known, "check", 0, 0)
        try:
            p.upstream.ask()
        except (NetworkError, TrustError, MissingError) as error:
            self._fail(error)
            if not p.upstream.recall():
                return None
        else:
            known.state = known.state.model_copy(update={"checked": now, "trouble": ""})
        return p.upstream.pointer(channel, image)

    def _want(self, pointer: Pointer) -> Wanted:
        p, known = self._p, self._known
        wanted = installation.wanted(
            pointer, p.site, self._running, known.state, p.clock(), override=self._turn.override
        )
        known.wanted, known.waiting = wanted, ()
        version = wanted.version or (self._running.version if wanted.settled else "")
        known.state = known.state.model_copy(update={"wanted": version})
        return wanted

    def _gates(self, wanted: Wanted, pointer: Pointer) -> list[Gate]:
        """All gates before the disk is written; the costly ones once the others have passed."""
        p, state, running = self._p, self._known.state, self._running
        assert wanted.release is not None
        verdict = installation.judge(
            wanted, pointer, p.site, running, state, p.clock(), override=self._turn.override
        )
        gates = list(verdict.gates)
        attempt = self._under_way()
        if verdict.allowed and (attempt is None or attempt.step == "chosen"):
            if self._slots is None:
                gates.append(Gate("disk", False, "the disk of this machine cannot be used"))
            else:
                gates += self._slots.check(wanted.release)
        if attempt is None and all(gate.passed for gate in gates):
            assert p.upstream is not None
            gates.append(p.upstream.attested(wanted.release))
        return gates

    def _under_way(self) -> Attempt | None:
        attempt = self._known.state.attempt
        return attempt if attempt is not None and attempt.step in _UNDER_WAY else None

    def _drop_unwanted(self, wanted: Wanted, pointer: Pointer) -> Attempt | None:
        """Give up an update that was begun and is not wanted any more."""
        attempt = self._under_way()
        if attempt is None:
            return None
        release = attempt.release
        revoked = pointer.revocation(release.version, release.root_hash)
        same = wanted.release is not None and _same(wanted.release, release)
        if same and not wanted.settled and revoked is None:
            return attempt
        if attempt.step == "activated" and self._slots is not None and attempt.entry:
            self._slots.give_up(attempt.entry)
        why = (
            f"it is revoked: {revoked.reason}" if revoked else f"not wanted any more: {wanted.why}"
        )
        ended = attempt.model_copy(
            update={"step": "failed", "reason": why, "ended": self._p.clock()}
        )
        self._save(self._known.state.model_copy(update={"attempt": ended}))
        self._say("failed", why, release=release.name)
        return None

    def _choose(self, release: PublishedRelease) -> None:
        """Decide on a release; from here on a cut is followed by going on."""
        state = self._known.state
        attempt = Attempt(
            release=release,
            channel=self._p.site.channel or "",
            rollback=release.version < self._running.version,
            started=self._p.clock(),
        )
        # Larger than any that was used here, also by an agent that this one knows nothing of.
        sequence = max(state.sequence, rules.newest_sequence(self._entries)) + 1
        self._known.state = state.model_copy(update={"sequence": sequence})
        self._note(attempt)

    def _note(self, attempt: Attempt) -> None:
        self._known.working = None
        self._save(self._known.state.model_copy(update={"attempt": attempt}))
        self._p.teller.step(self._known, attempt)

    def _apply(self, until: Step) -> None:
        attempt = self._under_way()
        if attempt is None or self._slots is None or self._p.upstream is None:
            return
        done = self._slots.apply(
            attempt,
            self._p.upstream.source,
            self._note,
            tries=self._p.site.tries,
            sequence=self._known.state.sequence,
            progress=lambda step, done, total: self._p.teller.progress(
                self._known, step, done, total
            ),
            stop=self._p.stop,
            until=until,
        )
        self._known.working = None
        if done != self._known.state.attempt:
            self._save(self._known.state.model_copy(update={"attempt": done}))

    def _window(self) -> Gate:
        return window.judge(self._p.site.window, self._p.clock(), override=self._turn.override)

    def _switch(self) -> None:
        """Reboot into what is ready, once the window is open and nothing speaks against it."""
        attempt = self._under_way()
        if attempt is None or attempt.step not in ("staged", "activated"):
            return
        gate = self._window()
        if not gate.passed:
            self._known.waiting = (gate,)
            self._wake_at(gate.opens)
            return
        obstacles = self._p.machine.obstacles()
        if obstacles:
            self._known.waiting = tuple(Gate("reboot", False, each) for each in obstacles)
            self._wake_in(OBSTACLE_PAUSE)
            return
        if attempt.step == "staged":
            self._apply("activated")
        self._known.waiting = ()
        self._say("rebooting", "the machine reboots into it", release=attempt.release.name)
        self._p.teller.status(self._known)
        self._p.teller.report(self._known)
        self._p.machine.reboot()
        self._turn.rebooting = True

    # What a turn ends with.

    def _finish(self, *, quietly: bool = False) -> Outcome:
        p, known, turn = self._p, self._known, self._turn
        state, now = known.state, p.clock()
        known.working = None
        failures = state.failures
        if turn.error is not None and not quietly:
            failures += 1
        elif known.wanted is not None:
            failures = 0
        update: dict[str, object] = {"failures": failures}
        if turn.error is None and known.wanted is not None:
            update["trouble"] = ""
        if turn.looked or failures > state.failures:
            pause = backoff.pause(p.site.device, p.site.poll, failures, p.chance())
            update["next"] = now + timedelta(seconds=pause)
        if known.waiting is not None:
            update["waiting"] = statuses.remembered(known.waiting)
        state = state.model_copy(update=update)
        self._save(state)
        known.problems = joined(known.problems, p.memory.problems)
        status = p.teller.status(known)
        if not quietly and not turn.rebooting:
            p.teller.report(known)
            p.machine.wake(backoff.remaining(now, (state.next, *turn.wakes), p.site.poll))
        return Outcome(status, turn.error, turn.rebooting)

    def _fail(self, error: RecastError) -> None:
        """Remember why it did not go on, and tell it."""
        self._turn.error = error
        said = str(statuses.trouble(error))
        known = self._known
        if said != known.state.trouble:
            attempt = self._under_way()
            name = attempt.release.name if attempt else ""
            self._p.teller.say(known, "trouble", error.message, release=name, outcome="waiting")
        known.state = known.state.model_copy(update={"trouble": said})

    def _say(self, step: str, text: str, *, release: str = "", failed: bool = False) -> None:
        self._p.teller.say(
            self._known, step, text, release=release, outcome="failed" if failed else "ok"
        )

    def _problem(self, text: str) -> None:
        self._known.problems = joined(self._known.problems, (text,))

    def _save(self, state: State) -> None:
        self._known.state = state
        self._p.memory.save(state)

    def _wake_in(self, seconds: float) -> None:
        self._wake_at(self._p.clock() + timedelta(seconds=seconds))

    def _wake_at(self, *moments: datetime | None) -> None:
        self._turn.wakes += [moment for moment in moments if moment is not None]


def _same(one: PublishedRelease, other: PublishedRelease) -> bool:
    return (one.image, one.version, one.root_hash, one.boot_digest) == (
        other.image,
        other.version,
        other.root_hash,
        other.boot_digest,
    )
