"""What the steps of one turn share: what is known, what is put down, and how it ends."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from pipeline.agent import status as statuses
from pipeline.agent.base import Entry, Machine, Slots
from pipeline.agent.telling import Known, Teller, joined
from pipeline.errors import RecastError
from pipeline.models.checkin import Outcome as Outcomes
from pipeline.models.device import Attempt, Running, State
from pipeline.models.site import Site
from pipeline.policy import backoff

if TYPE_CHECKING:
    from pipeline.agent.state import Memory
    from pipeline.agent.status import Status
    from pipeline.agent.upstream import Upstream
    from pipeline.command import Stop

_UNDER_WAY = ("chosen", "cleared", "written", "verified", "named", "staged", "activated")


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


class Turn:
    """One turn of the agent.

    Args:
        parts: what the agent is put together from.
        asked: a person waits: the store is asked whatever was agreed on.
        override: a person wants it now: neither wave nor window count.

    Attributes:
        known: what is known of the machine by now.
        slots: its slots; None if its disk cannot be used.
        entries: what its boot loader could boot.
        error: what kept the turn from going on.
        looked: the store was asked.
        rebooting: a reboot was begun.
    """

    def __init__(self, parts: Parts, *, asked: bool = False, override: bool = False) -> None:
        self.parts = parts
        self.asked = asked
        self.override = override
        self.known = Known(problems=parts.problems)
        self.slots: Slots | None = None
        self.entries: tuple[Entry, ...] = ()
        self.error: RecastError | None = None
        self.looked = False
        self.rebooting = False
        self._wakes: list[datetime] = []

    @property
    def state(self) -> State:
        """What is remembered."""
        return self.known.state

    @property
    def running(self) -> Running:
        """What runs; known from the turn's beginning on."""
        assert self.known.running is not None
        return self.known.running

    @property
    def under_way(self) -> Attempt | None:
        """The update that was begun, and has not been booted yet."""
        attempt = self.state.attempt
        return attempt if attempt is not None and attempt.step in _UNDER_WAY else None

    def remember(self, **changes: object) -> None:
        """Change what is remembered; put down by the next :meth:`save`."""
        self.known.state = self.state.model_copy(update=changes)

    def save(self, **changes: object) -> None:
        """Change what is remembered, and put it down.

        Raises:
            HostError: it can be kept nowhere.
        """
        self.keep(self.state.model_copy(update=changes))

    def keep(self, state: State) -> None:
        """Remember *state* instead, and put it down.

        Raises:
            HostError: it can be kept nowhere.
        """
        self.known.state = state
        self.parts.memory.save(state)

    def fail(self, error: RecastError) -> None:
        """Remember why it did not go on, and tell it."""
        self.error = error
        said = str(statuses.trouble(error))
        if said != self.state.trouble:
            attempt = self.under_way
            name = attempt.release.name if attempt else ""
            self.say("trouble", error.message, release=name, outcome="waiting")
        self.remember(trouble=said)

    def say(self, step: str, text: str, *, release: str = "", outcome: Outcomes = "ok") -> None:
        """Something happened."""
        self.parts.teller.say(self.known, step, text, release=release, outcome=outcome)

    def problem(self, text: str) -> None:
        """Something is wrong that does not end the turn."""
        self.known.problems = joined(self.known.problems, (text,))

    def wake_in(self, seconds: float) -> None:
        """Have the next turn begin then at the latest."""
        self.wake_at(self.parts.clock() + timedelta(seconds=seconds))

    def wake_at(self, *moments: datetime | None) -> None:
        """Have the next turn begin at the first of these at the latest."""
        self._wakes += [moment for moment in moments if moment is not None]

    def reboot(self) -> None:
        """Put down and report what there is, and begin a reboot.

        Raises:
            HostError: it could not be begun.
        """
        self.parts.teller.status(self.known)
        self.parts.teller.report(self.known)
        self.parts.machine.reboot()
        self.rebooting = True

    def finish(self, *, quietly: bool = False) -> Outcome:
        """Put down what it came to, report it, and arrange the next turn.

        Args:
            quietly: it was stopped: that is no failure, and there is no time for reports.

        Raises:
            HostError: nothing can be remembered.
        """
        p, known = self.parts, self.known
        before, now = self.state, p.clock()
        known.working = None
        changes: dict[str, object] = {}
        failures = before.failures
        if self.error is not None and not quietly:
            failures += 1
        elif known.wanted is not None:
            failures = 0
            changes["trouble"] = ""
        changes["failures"] = failures
        if self.looked or failures > before.failures:
            pause = backoff.pause(p.site.device, p.site.poll, failures, p.chance())
            changes["next"] = now + timedelta(seconds=pause)
        if known.waiting is not None:
            changes["waiting"] = statuses.remembered(known.waiting)
        self.save(**changes)
        known.problems = joined(known.problems, p.memory.problems)
        status = p.teller.status(known)
        if not quietly and not self.rebooting:
            p.teller.report(known)
            moments = (self.state.next, *self._wakes)
            p.machine.wake(backoff.remaining(now, moments, p.site.poll))
        return Outcome(status, self.error, self.rebooting)
