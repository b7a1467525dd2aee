"""One turn of the agent: what became of the last update, what is wanted, and on to it.

Settle → check → decide → prepare the other slot → wait for the window → activate → reboot. Each
step is on the medium before the next one begins; whoever comes after a cut goes on where it stood.
What the outside world does wrong ends in words, never in a machine that stops following.

The boot loader hears of a new release last, when the machine may reboot and is about to: a machine
that loses power outside its window comes back as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pipeline.agent import settle as rules
from pipeline.agent import trial
from pipeline.agent.turn import Outcome, Parts, Turn
from pipeline.errors import (
    HostError,
    Interrupted,
    NetworkError,
    RecastError,
    TrustError,
    UsageError,
)
from pipeline.models.device import Attempt, Step
from pipeline.policy import backoff, installation, window
from pipeline.policy.verdict import Gate
from pipeline.store.base import MissingError

if TYPE_CHECKING:
    from pipeline.models.pointer import Pointer, PublishedRelease
    from pipeline.policy.installation import Wanted

OBSTACLE_PAUSE = 300.0
"""Seconds until what asks for no reboot is asked again."""


class Agent:
    """Does the turns; whoever calls holds the lock (:func:`pipeline.agent.state.at_work`).

    Args:
        parts: what it is put together from.
    """

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self._turn = Turn(parts)

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

        def go_on() -> None:
            if self._turn.running.trial:
                trial.watch(self._turn)
            else:
                self._follow(until)

        return self._one(go_on, Turn(self.parts, asked=asked, override=override))

    def check(self) -> Outcome:
        """Ask the store, and decide; nothing is installed.

        Raises:
            Interrupted, HostError: as :meth:`update`.
        """
        return self._one(self._decide, Turn(self.parts, asked=True))

    def judge(self) -> Outcome:
        """Give up what is on trial if it is not healthy, or its time is over.

        Raises:
            Interrupted, HostError: as :meth:`update`.
        """

        def go_on() -> None:
            if self._turn.running.complete:
                return
            complaints = self.parts.machine.complaints()
            if self._turn.running.trial:
                trial.judge(self._turn, complaints)
            elif complaints:
                self._turn.problem(f"this machine is not healthy: {'; '.join(complaints)}")

        return self._one(go_on, Turn(self.parts))

    def confirm(self, *, by: str) -> Outcome:
        """Call good what is on trial.

        Args:
            by: who says so.

        Raises:
            UsageError: nothing is on trial.
            Interrupted, HostError: as :meth:`update`.
        """
        running = self.parts.machine.running()
        if not running.trial:
            raise UsageError(
                f"{running.version} is not on trial: there is nothing to confirm",
                hint="`recast-agent status` shows what runs.",
            )

        def go_on() -> None:
            if self._turn.running.trial:  # one that is healthy is blessed as each turn begins
                trial.bless(self._turn, running.entry, by=by)

        return self._one(go_on, Turn(self.parts))

    def _one(self, go_on: Callable[[], None], turn: Turn) -> Outcome:
        """A turn around *go_on*."""
        self._turn = turn
        try:
            trial.begin(turn)
            go_on()
        except Interrupted:
            if turn.known.running is not None:
                turn.finish(quietly=True)
            raise
        except OSError as error:
            turn.fail(HostError(f"the system said no: {error}"))
        except RecastError as error:
            if turn.known.running is None:
                raise
            turn.fail(error)
        return turn.finish()

    def _decide(self) -> None:
        """What would be done now?"""
        pointer = self._look()
        if pointer is None:
            return
        wanted = self._want(pointer)
        if wanted.release is None or wanted.settled:
            return
        gates = self._gates(wanted, pointer)
        if all(gate.passed for gate in gates):
            gates.append(self._window())
        self._turn.known.waiting = tuple(gate for gate in gates if not gate.passed)

    def _follow(self, until: Step) -> None:
        """On to what the channel wants."""
        pointer = self._look()
        attempt = self._turn.under_way
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
        self._turn.known.waiting = refused
        if refused:
            self._turn.wake_at(*(gate.opens for gate in refused))
            return
        if attempt is None:
            self._choose(wanted.release)
        if self._turn.state.attempt is None or self._turn.state.attempt.step != "activated":
            self._apply("staged")
        if until == "activated":
            self._switch()

    def _look(self) -> Pointer | None:
        """What the channel says; None if nothing that can be believed is known."""
        p, known = self._turn.parts, self._turn.known
        if p.upstream is None:
            if p.unconfigured:
                known.waiting = (Gate("configured", False, p.unconfigured),)
            return None
        channel, image = p.site.channel or "", p.site.image or self._turn.running.image
        state, now = known.state, p.clock()
        due = self._turn.asked or backoff.due(
            now, state.checked, state.next, backoff.longest(p.site.poll)
        )
        if not due and p.upstream.recall():
            attempt = self._turn.under_way
            ready = attempt is not None and attempt.step in ("staged", "activated")
            if state.failures and not ready:
                return None  # a link or a store that failed is left alone for a while
            return p.upstream.pointer(channel, image)
        self._turn.looked = True
        self._turn.parts.teller.progress(known, "check", 0, 0)
        try:
            p.upstream.ask()
        except (NetworkError, TrustError, MissingError) as error:
            self._turn.fail(error)
            if not p.upstream.recall():
                return None
        else:
            self._turn.remember(checked=now, trouble="")
        return p.upstream.pointer(channel, image)

    def _want(self, pointer: Pointer) -> Wanted:
        p, known = self._turn.parts, self._turn.known
        wanted = installation.wanted(
            pointer,
            p.site,
            self._turn.running,
            known.state,
            p.clock(),
            override=self._turn.override,
        )
        known.wanted, known.waiting = wanted, ()
        version = wanted.version or (self._turn.running.version if wanted.settled else "")
        self._turn.remember(wanted=version)
        return wanted

    def _gates(self, wanted: Wanted, pointer: Pointer) -> list[Gate]:
        """All gates before the disk is written; the costly ones once the others have passed."""
        p, state, running = self._turn.parts, self._turn.state, self._turn.running
        assert wanted.release is not None
        verdict = installation.judge(
            wanted, pointer, p.site, running, state, p.clock(), override=self._turn.override
        )
        gates = list(verdict.gates)
        attempt = self._turn.under_way
        if verdict.allowed and (attempt is None or attempt.step == "chosen"):
            if self._turn.slots is None:
                gates.append(Gate("disk", False, "the disk of this machine cannot be used"))
            else:
                gates += self._turn.slots.check(wanted.release)
        if attempt is None and all(gate.passed for gate in gates):
            assert p.upstream is not None
            gates.append(p.upstream.attested(wanted.release))
        return gates

    def _drop_unwanted(self, wanted: Wanted, pointer: Pointer) -> Attempt | None:
        """Give up an update that was begun and is not wanted any more."""
        attempt = self._turn.under_way
        if attempt is None:
            return None
        release = attempt.release
        revoked = pointer.revocation(release.version, release.root_hash)
        same = wanted.release is not None and _same(wanted.release, release)
        if same and not wanted.settled and revoked is None:
            return attempt
        # A cut may have come between the entry and the note of it.
        if self._turn.slots is not None and any(
            each.id == attempt.entry for each in self._turn.slots.entries()
        ):
            self._turn.slots.give_up(attempt.entry)
        why = (
            f"it is revoked: {revoked.reason}" if revoked else f"not wanted any more: {wanted.why}"
        )
        ended = attempt.model_copy(
            update={"step": "failed", "reason": why, "ended": self._turn.parts.clock()}
        )
        self._turn.save(attempt=ended)
        self._turn.say("failed", why, release=release.name)
        return None

    def _choose(self, release: PublishedRelease) -> None:
        """Decide on a release; from here on a cut is followed by going on."""
        state = self._turn.state
        attempt = Attempt(
            release=release,
            channel=self._turn.parts.site.channel or "",
            rollback=release.version < self._turn.running.version,
            started=self._turn.parts.clock(),
        )
        # Larger than any that was used here, also by an agent that this one knows nothing of.
        sequence = max(state.sequence, rules.newest_sequence(self._turn.entries)) + 1
        self._turn.remember(sequence=sequence)
        self._note(attempt)

    def _note(self, attempt: Attempt) -> None:
        self._turn.known.working = None
        self._turn.save(attempt=attempt)
        self._turn.parts.teller.step(self._turn.known, attempt)

    def _apply(self, until: Step) -> None:
        attempt = self._turn.under_way
        if attempt is None or self._turn.slots is None or self._turn.parts.upstream is None:
            return
        done = self._turn.slots.apply(
            attempt,
            self._turn.parts.upstream.source,
            self._note,
            tries=self._turn.parts.site.tries,
            sequence=self._turn.state.sequence,
            progress=lambda step, done, total: self._turn.parts.teller.progress(
                self._turn.known, step, done, total
            ),
            stop=self._turn.parts.stop,
            until=until,
        )
        self._turn.known.working = None
        if done != self._turn.state.attempt:
            self._turn.save(attempt=done)

    def _window(self) -> Gate:
        return window.judge(
            self._turn.parts.site.window, self._turn.parts.clock(), override=self._turn.override
        )

    def _switch(self) -> None:
        """Reboot into what is ready, once the window is open and nothing speaks against it."""
        attempt = self._turn.under_way
        if attempt is None or attempt.step not in ("staged", "activated"):
            return
        if self._turn.parts.stop is not None:
            self._turn.parts.stop.check()
        gate = self._window()
        if not gate.passed:
            self._turn.known.waiting = (gate,)
            self._turn.wake_at(gate.opens)
            return
        obstacles = self._turn.parts.machine.obstacles()
        if obstacles:
            self._turn.known.waiting = tuple(Gate("reboot", False, each) for each in obstacles)
            self._turn.wake_in(OBSTACLE_PAUSE)
            return
        if attempt.step == "staged":
            self._apply("activated")
        self._turn.known.waiting = ()
        self._turn.say("rebooting", "the machine reboots into it", release=attempt.release.name)
        self._turn.reboot()


def _same(one: PublishedRelease, other: PublishedRelease) -> bool:
    return (one.image, one.version, one.root_hash, one.boot_digest) == (
        other.image,
        other.version,
        other.root_hash,
        other.boot_digest,
    )
