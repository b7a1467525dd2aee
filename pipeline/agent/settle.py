"""What became of the last update: worked out from what runs, what is remembered and what is there.

Pure rules, no I/O. A machine may have lost its memory (its data partition is damaged), may have
been cut off between a step and the note of it, and may have been booted by hand. What is sure is
what runs; next, the boot loader's entries and their counters; next, what was remembered.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from pipeline.agent.base import Entry
from pipeline.agent.history import Event
from pipeline.agent.state import Mark
from pipeline.models.device import Attempt, KnownBad, Running, State, Step
from pipeline.models.pointer import PublishedRelease

MISSES = 3
"""Boots in which the boot loader passes a new release by, after which it is given up."""

_MOST_BAD = 32
_OURS = re.compile(r"recast-(\d+)\.conf")
_NAME = re.compile(r"(?P<image>[^_]+)_(?P<version>[^_]+)_(?P<arch>[^_]+)")


@dataclass(frozen=True)
class Settled:
    """What came out.

    Attributes:
        state: what is remembered from now on.
        events: what happened, for journal, history and reports.
        bless: entry that is on trial and has proved good; its counter is to be taken off, then
            :func:`blessed` says what is remembered.
        give_up: entry of what has failed that still has tries; they are to be taken from it.
    """

    state: State
    events: tuple[Event, ...] = ()
    bless: str = ""
    give_up: str = ""


def settle(
    state: State,
    running: Running,
    entries: Sequence[Entry],
    marks: Sequence[Mark],
    now: datetime,
) -> Settled:
    """Work out what became of the last update; doing so twice in one boot changes nothing.

    Args:
        state: what is remembered.
        running: what runs.
        entries: what the boot loader could boot.
        marks: boots that came as far as their services, the oldest first.
        now: the present moment.
    """
    fresh = state.settled != running.boot_id
    attempt = _found(state, entries, running)
    events: tuple[Event, ...] = ()
    give_up = ""
    if attempt is not None and attempt.step in ("activated", "booted"):
        entry = next((each for each in entries if each.id == attempt.entry), None)
        if runs(attempt.release, running):
            attempt, events = _running(attempt, running, now)
        elif entry is not None and entry.tries_left is None:
            # It was blessed, and nobody could note it; then somebody booted the other one.
            attempt = _ended(attempt, "confirmed", now)
            events = (_event(attempt, running, now, "it had proved good before"),)
        elif fresh:
            since = _since(marks, state.settled)
            attempt, events = _elsewhere(attempt, entry, since, running, now)
            if attempt.step == "failed" and entry is not None and entry.tries_left:
                give_up = entry.id
    state = state.model_copy(update={"attempt": attempt})
    if attempt is not None and attempt.step == "failed" and events:
        state = remember_bad(state, attempt.release, attempt.reason, now)
    elif attempt is not None and attempt.step == "confirmed" and events:
        state = _forgiven(state, running) if runs(attempt.release, running) else state
    state = _used_up(state, running, entries, now)
    state = state.model_copy(update={"settled": running.boot_id})
    bless = running.entry if running.trial and running.complete else ""
    return Settled(state, events, bless, give_up)


def blessed(
    state: State, running: Running, now: datetime, *, by: str = ""
) -> tuple[State, Event | None]:
    """What is remembered once what runs is blessed.

    Args:
        state: what was remembered before.
        running: what runs.
        now: the present moment.
        by: who says so, if a person does.

    Returns:
        And an event, if that ends an update.
    """
    state = _forgiven(state, running)
    attempt = state.attempt
    if (
        attempt is None
        or attempt.step in ("confirmed", "failed")
        or not runs(attempt.release, running)
    ):
        return state, None
    ended = _healthy(attempt, running, now)
    text = f"it is healthy, {by} says" if by else "it is healthy, and stays"
    return state.model_copy(update={"attempt": ended}), _event(ended, running, now, text)


def condemned(state: State, running: Running, why: str, now: datetime) -> State:
    """What is remembered once what runs, on trial, was found not healthy."""
    attempt = state.attempt
    if attempt is not None and runs(attempt.release, running):
        attempt = attempt.model_copy(
            update={"reason": why, "step": "booted", "boots": _with(attempt.boots, running)}
        )
        state = state.model_copy(update={"attempt": attempt})
        return remember_bad(state, attempt.release, why, now)
    bad = KnownBad(
        image=running.image,
        version=running.version,
        root_hash=running.root_hash,
        boot_digest="",
        reason=why,
        when=now,
    )
    return _with_bad(state, bad)


def remember_bad(state: State, release: PublishedRelease, why: str, now: datetime) -> State:
    """Have a release not tried again; what a person allowed before does not count any more."""
    bad = KnownBad(
        image=release.image,
        version=release.version,
        root_hash=release.root_hash,
        boot_digest=release.boot_digest,
        reason=why,
        when=now,
    )
    return _with_bad(state, bad)


def runs(release: PublishedRelease, running: Running) -> bool:
    """Is it this release that runs? One of the same root, under another name, is another."""
    return (release.image, release.version, release.root_hash) == (
        running.image,
        running.version,
        running.root_hash,
    )


def newest_sequence(entries: Sequence[Entry]) -> int:
    """The largest number that a boot entry of ours has; 0 if there is none."""
    found = (_OURS.fullmatch(each.id) for each in entries)
    return max((int(match[1]) for match in found if match), default=0)


def way_back(running: Running, entries: Sequence[Entry]) -> Entry | None:
    """The entry that is booted once what runs is given up; None if there is none to go to."""
    others = [
        each
        for each in entries
        if each.id != running.entry and (each.tries_left is None or each.tries_left > 0)
    ]
    return next((each for each in others if each.tries_left is None), others[0] if others else None)


def _found(state: State, entries: Sequence[Entry], running: Running) -> Attempt | None:
    """The attempt as it really stands: power may have gone between its last step and the note."""
    attempt = state.attempt
    if attempt is None or attempt.step in ("activated", "booted", "confirmed", "failed"):
        return attempt
    if runs(attempt.release, running):
        entry = attempt.entry or running.entry
        return attempt.model_copy(update={"step": "activated", "entry": entry})
    if attempt.step != "staged":
        return attempt
    # Others may be left of this release from an earlier attempt.
    own = attempt.entry or f"recast-{state.sequence}.conf"
    if any(each.id == own and _is_for(each, attempt) for each in entries):
        return attempt.model_copy(update={"step": "activated", "entry": own})
    return attempt


def _is_for(entry: Entry, attempt: Attempt) -> bool:
    return (entry.release, entry.root_hash) == (attempt.release.name, attempt.release.root_hash)


def _running(
    attempt: Attempt, running: Running, now: datetime
) -> tuple[Attempt, tuple[Event, ...]]:
    """The new release runs."""
    new = running.boot_id not in attempt.boots
    attempt = attempt.model_copy(
        update={"step": "booted", "boots": _with(attempt.boots, running), "missed": 0}
    )
    events: tuple[Event, ...] = ()
    if new:
        told = "it runs, on trial" if running.trial else "it runs"
        events = (_event(attempt, running, now, told),)
    if not running.trial and running.complete:
        attempt = _healthy(attempt, running, now)
        events = (*events, _event(attempt, running, now, "it is healthy, and stays"))
    return attempt, events


def _elsewhere(
    attempt: Attempt,
    entry: Entry | None,
    marks: Sequence[Mark],
    running: Running,
    now: datetime,
) -> tuple[Attempt, tuple[Event, ...]]:
    """Another release runs than the one that was activated before this boot."""
    if attempt.reason or (entry is not None and entry.tries_left == 0):
        why = attempt.reason or _evidence(attempt, entry, marks)
        failed = _ended(attempt, "failed", now, why)
        text = f"it was given up, and {running.version} runs again: {why}"
        return failed, (_event(failed, running, now, text),)
    if attempt.missed + 1 >= MISSES:
        why = f"the boot loader did not take it, in {MISSES} boots, though it had tries left"
        failed = _ended(attempt, "failed", now, why)
        return failed, (_event(failed, running, now, why),)
    missed = {"missed": attempt.missed + 1}
    if entry is None:
        # A damaged ESP is not the release's fault: its boot file and entry are made again.
        again = attempt.model_copy(update={**missed, "step": "named"})
        text = "its boot entry is gone from the ESP; it is made again"
        return again, (_event(again, running, now, text, "waiting"),)
    tried = f" after {entry.tries_done} tries" if entry.tries_done else ""
    text = (
        f"{running.version} was booted instead{tried}, and it has {entry.tries_left} tries left: "
        "somebody chose that, or power went in between; it is tried again at the next reboot"
    )
    waiting = attempt.model_copy(update={**missed, "step": "activated"})
    return waiting, (_event(waiting, running, now, text, "waiting"),)


def _evidence(attempt: Attempt, entry: Entry | None, marks: Sequence[Mark]) -> str:
    """Why a release is not there any more that said nothing itself."""
    seen = {mark.boot for mark in marks if mark.release == attempt.release.name}
    seen |= set(attempt.boots)
    times = _times(max(entry.tries_done if entry else 0, len(seen), 1))
    if not seen:
        return (
            f"it was started {times} and never got as far as its services: a kernel panic, a "
            "hang or a power cut before that"
        )
    if len(seen) < (entry.tries_done if entry else 0):
        return (
            f"it was started {times}, got as far as its services {_times(len(seen))}, and never "
            "became healthy"
        )
    return f"it was started {times} and never became healthy"


def _used_up(state: State, running: Running, entries: Sequence[Entry], now: datetime) -> State:
    """Know releases as bad whose tries are used up, should their failing be forgotten."""
    for entry in entries:
        named = _NAME.fullmatch(entry.release)
        if not (entry.tries_left == 0 and named and entry.root_hash):
            continue
        if not _OURS.fullmatch(entry.id) or entry.id == running.entry:
            continue
        if any(each.release == entry.release and each.tries_left != 0 for each in entries):
            continue  # it was good at another try, or has one before it
        if named["version"] in state.allowed:
            continue
        known = {(each.version, each.root_hash) for each in state.bad}
        if (named["version"], entry.root_hash) not in known:
            why = f"it was started {_times(max(entry.tries_done, 1))} and never became healthy"
            bad = KnownBad(
                image=named["image"],
                version=named["version"],
                root_hash=entry.root_hash,
                boot_digest="",
                reason=why,
                when=now,
            )
            state = _with_bad(state, bad)
    return state


def _since(marks: Sequence[Mark], boot: str) -> Sequence[Mark]:
    """The marks of the boots after *boot*; all if it is not among them."""
    places = [index for index, mark in enumerate(marks) if mark.boot == boot]
    return marks[places[-1] + 1 :] if places else marks


def _with_bad(state: State, bad: KnownBad) -> State:
    others = [e for e in state.bad if (e.version, e.root_hash) != (bad.version, bad.root_hash)]
    return state.model_copy(
        update={
            "bad": (bad, *others)[:_MOST_BAD],
            "allowed": tuple(each for each in state.allowed if each != bad.version),
        }
    )


def _forgiven(state: State, running: Running) -> State:
    """What runs is good: that it failed once, and that a person allowed it, is over."""
    bad = tuple(
        each
        for each in state.bad
        if (each.version, each.root_hash) != (running.version, running.root_hash)
    )
    allowed = tuple(each for each in state.allowed if each != running.version)
    return state.model_copy(update={"bad": bad, "allowed": allowed})


def _with(boots: tuple[str, ...], running: Running) -> tuple[str, ...]:
    return boots if running.boot_id in boots else (*boots, running.boot_id)


def _healthy(attempt: Attempt, running: Running, now: datetime) -> Attempt:
    """Confirmed; how long that took is counted from power-on, for clocks jump."""
    seconds = {**attempt.seconds, "confirmed": round(running.uptime, 1)}
    return _ended(attempt, "confirmed", now).model_copy(update={"seconds": seconds})


def _ended(attempt: Attempt, step: Step, now: datetime, reason: str = "") -> Attempt:
    return attempt.model_copy(update={"step": step, "reason": reason, "ended": now})


def _event(
    attempt: Attempt, running: Running, now: datetime, text: str, outcome: str = ""
) -> Event:
    return Event.model_validate(
        {
            "when": now,
            "step": attempt.step,
            "release": attempt.release.name,
            "outcome": outcome or ("failed" if attempt.step == "failed" else "ok"),
            "text": text,
            "boot": running.boot_id,
        }
    )


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")
