"""May a release enter a channel, or come back to it? Every gate, each with its reason.

Whoever asks has verified what they say: attestations, signatures and the state of the channels
are facts here, and nothing is looked up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal

from pipeline.clock import duration, iso
from pipeline.models.channel import ChannelDefinition
from pipeline.models.fields import format_duration
from pipeline.models.pointer import Held, Pointer, PublishedRelease, Revocation
from pipeline.policy.budgets import Download, growth, package_changes, wire_budget
from pipeline.policy.verdict import Gate, Verdict

_DIGITS = 12  # of a digest in a message
_LAST_MOMENT = datetime.max.replace(tzinfo=UTC)
_NOT_ASKED = "not asked of a rollback: it was asked when this release came into the channel"


@dataclass(frozen=True)
class TestResult:
    """What a verified attestation says of a release's tests.

    Attributes:
        provider: where they ran.
        passed: their outcome.
        root_hash: of the root that was tested.
        when: when they had ended.
    """

    __test__ = False  # not a test class, whatever pytest makes of the name

    provider: str
    passed: bool
    root_hash: str
    when: datetime


@dataclass(frozen=True)
class Stay:
    """A time that a release was what a channel held.

    Attributes:
        since: when it came.
        until: when another took its place; None while it is there.
    """

    since: datetime
    until: datetime | None = None


@dataclass(frozen=True)
class Approvals:
    """Who signs.

    Attributes:
        needed: signatures of different keys.
        signed: the names of the keys that have signed, or are at hand to.
        keyholders: the names of all keys that may.
        propose: is it left for others to sign where signatures are missing?
    """

    needed: int
    signed: tuple[str, ...]
    keyholders: tuple[str, ...]
    propose: bool = False


@dataclass(frozen=True)
class PromotionFacts:
    """Everything that a promotion or a rollback depends on.

    Attributes:
        action: what is asked for.
        release: what is to enter the channel.
        channel: the channel.
        before: the name of the channel before it; None for the first.
        stays: the times that the channel before held the release; see :func:`stays_of`.
        present: what the channel holds now; None if nothing.
        history: what it has held before.
        previous: what it held just before, which devices may still run.
        frozen: why nothing moves in the channel; empty if it is not frozen.
        revocations: those of the image in all channels, each with the channel's name.
        tests: verified results of its tests.
        provenance: the names of the keys that signed its provenance, verified; empty if none.
        problems: why evidence does not count, by ``provenance`` or the provider's name.
        missing: keys of its objects that are not in the store.
        package_changes: packages added, removed or changed since *present*; None if unknown.
        download: what a machine downloads that runs *present*; None if unknown.
        approvals: who signs.
    """

    action: Literal["promote", "rollback"]
    release: PublishedRelease
    channel: ChannelDefinition
    before: str | None
    approvals: Approvals
    stays: tuple[Stay, ...] = ()
    present: PublishedRelease | None = None
    history: tuple[Held, ...] = ()
    previous: PublishedRelease | None = None
    frozen: str = ""
    revocations: tuple[tuple[str, Revocation], ...] = ()
    tests: tuple[TestResult, ...] = ()
    provenance: tuple[str, ...] = ()
    problems: Mapping[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    package_changes: int | None = None
    download: Download | None = None


def stays_of(pointer: Pointer | None, release: PublishedRelease) -> tuple[Stay, ...]:
    """The times that a channel held *release*, as its pointer tells them, the newest first."""
    if pointer is None:
        return ()
    found = [
        Stay(held.since, held.until)
        for held in pointer.history
        if (held.version, held.root_hash) == _identity(release)
    ]
    if pointer.since and pointer.release and _identity(pointer.release) == _identity(release):
        found.insert(0, Stay(pointer.since))
    return tuple(found)


def judge(facts: PromotionFacts, now: datetime) -> Verdict:
    """Decide, and say why, gate by gate.

    Args:
        facts: what was found out, and verified.
        now: the present moment.

    Returns:
        A verdict with every gate there is, in one order, whatever the outcome; ``tests on …``
        once for each provider that the channel names.
    """
    promote = facts.action == "promote"
    gates = [
        _stored(facts),
        _not_revoked(facts),
        _not_frozen(facts),
        _not_there(facts),
        _newer(facts) if promote else _held_before(facts),
        _clean(facts),
    ]
    if promote:
        gates += [_provenance(facts), *_tests(facts), _soak(facts, now)]
        gates += _budgets(facts)
    else:
        names = ["provenance", *_test_names(facts), "soak"]
        names += [gate.name for gate in _budgets(facts)]
        gates += [Gate(name, True, _NOT_ASKED) for name in names]
    return Verdict((*gates, _approvals(facts.approvals)))


def _identity(release: PublishedRelease) -> tuple[str, str]:
    return release.version, release.root_hash


def _stored(facts: PromotionFacts) -> Gate:
    if not facts.missing:
        return Gate("stored", True, "all its objects are in the store")
    first, more = facts.missing[0], len(facts.missing) - 1
    others = f" and {more} more of its objects are" if more else " is"
    return Gate("stored", False, f"{first}{others} not in the store")


def _not_revoked(facts: PromotionFacts) -> Gate:
    version, root_hash = _identity(facts.release)
    for channel, each in facts.revocations:
        if version == each.version or root_hash == each.root_hash:
            what = f"since {iso(each.when)}: {each.reason}"
            if version != each.version:
                what = f"with {each.version}, which has the same root, {what}"
            return Gate("not revoked", False, f"revoked in {channel} {what}")
    return Gate("not revoked", True, "no channel has revoked it")


def _not_frozen(facts: PromotionFacts) -> Gate:
    name = facts.channel.name
    if facts.frozen:
        return Gate("not frozen", False, f"{name} is frozen: {facts.frozen}")
    return Gate("not frozen", True, f"{name} is not frozen")


def _not_there(facts: PromotionFacts) -> Gate:
    name, present = facts.channel.name, facts.present
    if present is None:
        return Gate("not there", True, f"{name} holds no release of {facts.release.image}")
    if _identity(present) == _identity(facts.release):
        return Gate("not there", False, f"{present.version} is there already")
    return Gate("not there", True, f"{name} holds {present.version}")


def _newer(facts: PromotionFacts) -> Gate:
    """By the time of the commit, then of the build, then by version."""
    name, new, old = facts.channel.name, facts.release, facts.present
    if old is None:
        return Gate("newer", True, f"the first release of {new.image} in {name}")
    if _identity(new) == _identity(old):
        return Gate("newer", False, f"not newer than {old.version}, which is the same")
    if new.commit == old.commit and None in (new.built, old.built):
        # They differ by changes that are in no commit: nothing tells which came first.
        return Gate("newer", True, f"of the same commit as {old.version}")
    if _age(new) > _age(old):
        return Gate("newer", True, f"newer than {old.version}")
    return Gate("newer", False, f"older than {old.version}, which {name} holds")


def _age(release: PublishedRelease) -> tuple[datetime, datetime, str]:
    return release.created, release.built or release.created, release.version


def _held_before(facts: PromotionFacts) -> Gate:
    """A channel goes back only to what it has held: that alone has passed its gates."""
    name, version = facts.channel.name, facts.release.version
    held = {(each.version, each.root_hash) for each in facts.history}
    if facts.previous is not None:
        held.add(_identity(facts.previous))
    if _identity(facts.release) in held:
        return Gate("held before", True, f"{name} has held {version} before")
    if any(version == other for other, _ in held):
        reason = f"{name} has held {version} with another root than this one"
        return Gate("held before", False, reason)
    reason = f"{name} has not held {version}, or too long ago to go back to it"
    return Gate("held before", False, reason)


def _clean(facts: PromotionFacts) -> Gate:
    if not facts.release.dirty:
        return Gate("clean", True, f"built from commit {facts.release.commit[:_DIGITS]}")
    if facts.before is None:
        return Gate("clean", True, "has changes that are in no commit: the first channel takes it")
    reason = "has changes that are in no commit: it cannot leave the first channel"
    return Gate("clean", False, reason)


def _provenance(facts: PromotionFacts) -> Gate:
    problem = facts.problems.get("provenance")
    if facts.provenance and not problem:
        signers = ", ".join(facts.provenance)
        return Gate("provenance", True, f"signed by {signers}")
    return Gate("provenance", False, problem or "nobody has signed how it was built")


def _test_names(facts: PromotionFacts) -> list[str]:
    return [f"tests on {name}" for name in facts.channel.gates.tests] or ["tests"]


def _tests(facts: PromotionFacts) -> list[Gate]:
    providers = facts.channel.gates.tests
    if not providers:
        return [Gate("tests", True, f"{facts.channel.name} asks for none")]
    return [_test(facts, provider) for provider in providers]


def _test(facts: PromotionFacts, provider: str) -> Gate:
    name = f"tests on {provider}"
    problem = facts.problems.get(provider)
    if problem:
        return Gate(name, False, problem)
    results = [result for result in facts.tests if result.provider == provider]
    if not results:
        return Gate(name, False, "no signed result of its tests there")
    # The last word counts; of two at one time the worse.
    last = max(results, key=lambda result: (result.when, not _good(result, facts.release)))
    if last.root_hash != facts.release.root_hash:
        tested, own = last.root_hash[:_DIGITS], facts.release.root_hash[:_DIGITS]
        return Gate(name, False, f"what was tested there is root {tested}…, and this is {own}…")
    if not last.passed:
        return Gate(name, False, f"failed at {iso(last.when)}")
    return Gate(name, True, f"passed at {iso(last.when)}, on this very root")


def _good(result: TestResult, release: PublishedRelease) -> bool:
    return result.passed and result.root_hash == release.root_hash


def _soak(facts: PromotionFacts, now: datetime) -> Gate:
    before, needed = facts.before, facts.channel.gates.soak
    if before is None:
        return Gate("soak", True, f"{facts.channel.name} is the first channel")
    if not facts.stays:
        return Gate("soak", False, f"has never been in {before}")
    held = _held_for(facts.stays, now)
    there = any(stay.until is None for stay in facts.stays)
    if held >= _span(needed):
        asked = f", {format_duration(needed)} asked for" if needed else ""
        return Gate("soak", True, f"in {before} for {duration(held.total_seconds())}{asked}")
    reason = f"in {before} for {duration(held.total_seconds())} of {format_duration(needed)}"
    if not there:
        return Gate("soak", False, f"{reason}, and no longer there")
    # Not from now on: a stay may begin later than that, by the clock of whoever signed it.
    opens = _open_at(facts.stays, _span(needed))
    return Gate("soak", False, f"{reason}, over at {iso(opens)}", opens)


def _span(seconds: float) -> timedelta:
    """*seconds* in the microseconds that moments are counted in, and not one too few."""
    return timedelta(microseconds=math.ceil(seconds * 1e6))


def _held_for(stays: Sequence[Stay], now: datetime) -> timedelta:
    """The time up to *now* that lies in any of *stays*."""
    held, reached = timedelta(0), datetime.min.replace(tzinfo=UTC)
    for stay in sorted(stays, key=lambda each: each.since):
        start = max(stay.since, reached)
        end = now if stay.until is None else min(stay.until, now)
        if end > start:
            held += end - start
            reached = end
    return held


def _open_at(stays: Sequence[Stay], needed: timedelta) -> datetime:
    """When :func:`_held_for` comes to *needed*; one of *stays* goes on."""
    start = min(stay.since for stay in stays if stay.until is None)
    try:
        return start + (needed - _held_for(stays, start))
    except OverflowError:
        return _LAST_MOMENT


def _budgets(facts: PromotionFacts) -> list[Gate]:
    gates, present = facts.channel.gates, facts.present
    return [
        package_changes(present, facts.package_changes, gates.max_package_changes),
        growth(present, facts.release, gates.max_growth),
        wire_budget(present, facts.download, gates.wire_budget),
    ]


def _approvals(who: Approvals) -> Gate:
    valid = [name for name in dict.fromkeys(who.signed) if name in who.keyholders]
    others = [name for name in who.keyholders if name not in valid]
    text = f"{len(valid)} of {who.needed}"
    if valid:
        text += f": {', '.join(valid)}"
    missing = who.needed - len(valid)
    if missing <= 0:
        return Gate("approvals", True, text)
    if len(others) < missing:
        return Gate("approvals", False, f"{text}; only {len(who.keyholders)} have a key")
    text += f"; {missing} more of {', '.join(others)}"
    if who.propose and valid:
        return Gate("approvals", True, f"{text}, to whom it is proposed")
    return Gate("approvals", False, text)
