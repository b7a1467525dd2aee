"""All that an agent says: to the journal, its history, its status, and whoever takes reports."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from pipeline import __version__
from pipeline.agent import journal as levels
from pipeline.agent.base import Reports
from pipeline.agent.history import Event, History
from pipeline.agent.journal import Journal
from pipeline.agent.status import PATH, Status, Working, make_status, save
from pipeline.errors import DiskFullError, Interrupted
from pipeline.models.checkin import Checkin, Outcome
from pipeline.models.device import Attempt, Running, State
from pipeline.models.site import Site
from pipeline.policy.installation import Wanted
from pipeline.policy.verdict import Gate

STEPS: dict[str, str] = {
    "chosen": "it is to be installed",
    "cleared": "nothing points to the other slot any more",
    "written": "its root is in the other slot",
    "verified": "its root was read back and is what was signed",
    "named": "the partition table names it",
    "staged": "its boot file is on the ESP",
    "activated": "the boot loader tries it at the next boot",
}
"""What a person is told of each step."""

_MAX_REASON = 1000  # characters, as models.checkin has it
_PATIENCE = 2.0  # seconds: a link on which a report takes longer gets none between two steps
_BRINGS = {"written": "root", "staged": "uki"}  # the part that a step brings
_EVERY = 1.0  # seconds between two looks at how a step goes


@dataclass
class Known:
    """What is known of a machine in the middle of a turn.

    Attributes:
        running: what runs; None while that cannot be told.
        state: what is remembered.
        wanted: what it should run; None if that was not worked out.
        waiting: gates that keep it from that; None if that was not worked out.
        working: what is being done.
        problems: what is wrong besides.
    """

    state: State = field(default_factory=State)
    running: Running | None = None
    wanted: Wanted | None = None
    waiting: tuple[Gate, ...] | None = None
    working: Working | None = None
    problems: tuple[str, ...] = ()


class Teller:
    """Says what happens. Nothing that fails in here stops an update.

    Args:
        site: the settings of this machine.
        reports: where check-ins go.
        journal: the system's.
        history: this machine's.
        status: the file for everybody else.
        clock: the present moment.
        listen: hears of each event as well: a terminal.
        watch: hears how a step goes: its name, bytes done, bytes in all.
    """

    def __init__(
        self,
        site: Site,
        reports: Reports,
        journal: Journal,
        history: History,
        clock: Callable[[], datetime],
        *,
        status: Path = PATH,
        listen: Callable[[Event], None] | None = None,
        watch: Callable[[str, int, int], None] | None = None,
    ) -> None:
        self._site = site
        self._reports = reports
        self._journal = journal
        self._history = history
        self._clock = clock
        self._status = status
        self._listen = listen
        self._watch = watch
        self._slow = False
        self._last = 0.0

    def event(self, event: Event) -> None:
        """Something happened."""
        level = {"ok": levels.INFO, "waiting": levels.NOTICE, "failed": levels.ERROR}
        self._journal.tell(
            f"{event.release}: {event.text}" if event.release else event.text,
            priority=level[event.outcome],
            step=event.step,
            release=event.release,
            outcome=event.outcome,
        )
        self._history.add(event)
        if self._listen:
            self._listen(event)

    def say(
        self, known: Known, step: str, text: str, *, release: str = "", outcome: Outcome = "ok"
    ) -> None:
        """Something happened; see :class:`Event`."""
        boot = known.running.boot_id if known.running else ""
        self.event(
            Event(
                when=self._clock(),
                step=step,
                release=release,
                outcome=outcome,
                text=text,
                boot=boot,
            )
        )

    def step(self, known: Known, attempt: Attempt) -> None:
        """A step of an update is done."""
        text = STEPS.get(attempt.step, attempt.step)
        if attempt.step == "written":
            if attempt.same_root:
                text = "the running slot has this very root: nothing is written"
            elif attempt.reuse:
                text = "the other slot has it already: nothing is downloaded"
        how = attempt.how.get(_BRINGS.get(attempt.step, ""))
        if how and not (attempt.step == "written" and (attempt.same_root or attempt.reuse)):
            text += f" ({how})"
        self.say(known, attempt.step, text, release=attempt.release.name)
        self.status(known)
        self.report(known, between=True)

    def progress(self, known: Known, step: str, done: int, total: int) -> None:
        """Bytes of a step are done."""
        known.working = Working(step=step, done=done, total=total)
        if self._watch:
            self._watch(step, done, total)
        if time.monotonic() - self._last >= _EVERY:
            self.status(known)

    def status(self, known: Known) -> Status:
        """Put down what is going on, and return it."""
        now = self._clock()
        made = make_status(
            now,
            self._site,
            known.running,
            known.state,
            wanted=known.wanted,
            waiting=known.waiting or (),
            working=known.working,
            problems=known.problems,
        )
        self._last = time.monotonic()
        with contextlib.suppress(OSError, DiskFullError):  # a full /run is no reason to stop
            save(made, self._status)
        return made

    def report(self, known: Known, *, between: bool = False) -> None:
        """Send a check-in.

        Args:
            known: what it says.
            between: between two steps: left out where the link is slow.
        """
        if between and self._slow:
            return
        start = time.monotonic()
        checkin = make_checkin(self._site, known, self._clock())
        try:
            self._reports.send(checkin)
        except Interrupted:
            raise
        except Exception as error:
            self._journal.tell(f"a report was not sent: {error}", priority=levels.WARNING)
        self._slow = time.monotonic() - start > _PATIENCE


def make_checkin(site: Site, known: Known, now: datetime) -> Checkin:
    """What this machine reports of itself."""
    running, state = known.running, known.state
    attempt = state.attempt
    outcome, reason = _outcome(known)
    return Checkin(
        device=site.device,
        site=site.site or "",
        labels=dict(site.labels),
        number=1,  # whoever sends it numbers it
        sent=now,
        agent=__version__,
        image=running.image if running else "",
        version=running.version if running else "",
        root_hash=running.root_hash if running else "",
        confirmed=running is not None and not running.trial,
        channel=site.channel or "",
        wanted=state.wanted,
        step=attempt.step if attempt else "",
        target=attempt.release.version if attempt else "",
        outcome=outcome,
        reason=reason[:_MAX_REASON],
        seconds=dict(attempt.seconds) if attempt else {},
        downloaded=attempt.downloaded if attempt else 0,
        written=attempt.written if attempt else 0,
        next=state.next,
    )


def _outcome(known: Known) -> tuple[Outcome, str]:
    state, attempt = known.state, known.state.attempt
    at_work = attempt is not None and attempt.step not in ("confirmed", "failed")
    if attempt is not None and attempt.step == "failed":
        same = not state.wanted or state.wanted == attempt.release.version
        if same and attempt.reason:
            return "failed", attempt.reason
    if attempt is not None and attempt.step == "booted" and attempt.reason:
        return "failed", attempt.reason
    if state.trouble:
        return "waiting", state.trouble.replace("\n", ". ")
    if state.waiting:
        return "waiting", "; ".join(state.waiting)
    if not at_work and known.problems and known.running is None:
        return "waiting", known.problems[0]
    return "ok", ""


def joined(problems: Sequence[str], more: Sequence[str]) -> tuple[str, ...]:
    """Problems, each once, in order."""
    return tuple(dict.fromkeys((*problems, *more)))
