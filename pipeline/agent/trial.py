"""What runs, before anything else: what became of the last update, and is this boot healthy?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.agent import settle as rules
from pipeline.agent.telling import joined
from pipeline.errors import HostError
from pipeline.policy.verdict import Gate

if TYPE_CHECKING:
    from pipeline.agent.base import Entry, Slots
    from pipeline.agent.turn import Turn
    from pipeline.models.device import State

LOOK = 30.0
"""Seconds until a release that is on trial is looked at again, at most."""


def begin(turn: Turn) -> None:
    """Find out what runs, and what became of the last update.

    Raises:
        HostError: this is no machine that Recast made, or nothing can be remembered.
    """
    p, known = turn.parts, turn.known
    known.state = p.memory.load()
    known.running = p.machine.running()
    known.problems = joined(known.problems, p.memory.problems)
    try:
        turn.slots = p.slots(known.running)
        turn.entries = _entries(turn.slots)
    except HostError as error:
        turn.slots = None
        turn.problem(error.message)
        attempt = known.state.attempt
        if attempt is not None and not rules.runs(attempt.release, known.running):
            return  # without the entries nobody knows what became of it
    settled = rules.settle(known.state, known.running, turn.entries, p.memory.marks(), p.clock())
    _put_down(turn, settled.state)
    for event in settled.events:
        p.teller.event(event)
    if settled.give_up and turn.slots is not None:
        turn.slots.give_up(settled.give_up)
    if settled.bless:
        bless(turn, settled.bless)
    elif settled.events:
        p.teller.report(known)


def bless(turn: Turn, entry: str, *, by: str = "") -> None:
    """Take the counter off what runs, and remember that it is good.

    Args:
        turn: the turn.
        entry: its boot entry.
        by: who says so, if a person does.

    Raises:
        HostError: the ESP cannot be written.
    """
    if turn.slots is None or not entry:
        raise HostError(
            "what runs cannot be confirmed: its boot entry is not known",
            hint="See whether the ESP is mounted at /efi.",
        )
    turn.slots.bless(entry)
    running = turn.running.model_copy(update={"tries_left": None})
    turn.known.running = running
    state, event = rules.blessed(turn.state, running, turn.parts.clock(), by=by)
    _put_down(turn, state)
    if event:
        turn.parts.teller.event(event)
        turn.parts.teller.report(turn.known)


def watch(turn: Turn) -> None:
    """What runs is not known to be good yet: nothing else begins before that."""
    running, site = turn.running, turn.parts.site
    complaints = turn.parts.machine.complaints()
    if complaints or running.uptime >= site.deadline:
        judge(turn, complaints)
        return
    gate = Gate("confirmed", False, f"{running.version} is on trial: not known to be good yet")
    turn.known.waiting = (gate,)
    turn.wake_in(min(LOOK, site.deadline - running.uptime + 1))


def judge(turn: Turn, complaints: Sequence[str]) -> None:
    """Give up what is on trial if there are complaints, or its time is over.

    Raises:
        HostError: a reboot cannot be begun.
    """
    running, site = turn.running, turn.parts.site
    if not complaints and running.uptime < site.deadline:
        turn.wake_in(site.deadline - running.uptime + 1)
        return
    why = "; ".join(complaints)
    if not why:
        why = f"it was not healthy {site.deadline:.0f} s after power-on, with nothing failed"
    way_back = rules.way_back(running, turn.entries)
    if way_back is None or turn.slots is None or not running.entry:
        turn.problem(f"this machine is not healthy, and has no other release to go to: {why}")
        return
    try:
        turn.keep(rules.condemned(turn.state, running, why, turn.parts.clock()))
    except HostError as error:  # the boot loader's entry tells the next one enough
        turn.problem(error.message)
    try:
        turn.slots.give_up(running.entry)
    except HostError as error:  # its tries are counted down by the reboots alone, then
        turn.problem(error.message)
    name = f"{running.image}_{running.version}_{running.arch}"
    turn.say("failed", f"it is given up: {why}", release=name, outcome="failed")
    turn.reboot()


def _entries(slots: Slots) -> tuple[Entry, ...]:
    found = slots.entries()
    if not found:
        raise HostError(
            "the ESP holds nothing to boot, not even what runs: it is not mounted, or damaged",
            hint="See `systemctl status efi.mount`, and `journalctl -b -u efi.mount`.",
        )
    return found


def _put_down(turn: Turn, state: State) -> None:
    if state != turn.state:
        turn.keep(state)
