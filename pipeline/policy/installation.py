"""What should this machine run, and may it begin to install that now? Every gate with its reason.

Whoever asks has verified the pointer; nothing is looked up here.

A machine should run its channel's release. Exceptions:

- **A pin** holds it at one version, unless that version is revoked.
- **What runs is revoked**: it moves off at once, to the channel's release, or to what the channel
  held before where the rollout has not come to this machine. That beats wave, hold and halt, since
  staying is the greater risk. It does not beat a freeze, by which a person stops everything.
- **The rollout has not come here yet**, and the machine runs something that the channel held
  before its previous release, or never: it moves to the previous one, which had spread everywhere.
  One that runs a release in between, which was replaced while it spread, waits for its wave: one
  reboot instead of two.

What is activated is finished whatever the channel says meanwhile, short of a revocation or another
release: all that it lacks is a reboot. Before that a machine waits where it stands while its
channel is frozen or halted. Having begun, it never waits for its wave again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from pipeline.clock import iso
from pipeline.models.device import Attempt, Running, State
from pipeline.models.pointer import Pointer, PublishedRelease
from pipeline.models.site import Site
from pipeline.policy import rollout as waves
from pipeline.policy.verdict import Gate, Verdict

Kind = Literal["channel", "previous", "pin", "stay"]

_ENDED = ("confirmed", "failed")
_ACTIVATED = ("activated", "booted")


@dataclass(frozen=True)
class Wanted:
    """What a machine should run.

    Attributes:
        release: to be installed, or what runs already; None if it stays as it is: a pin says so,
            or nothing can be had.
        kind: where that comes from; ``stay`` if there is no release.
        why: a sentence for a person on site.
        settled: there is nothing to do: it runs already, or what runs is what a pin holds it at.
        leaving: what runs is revoked, for this reason; empty if it is not.
        notes: what else a person should know: a pin that does not count.
    """

    release: PublishedRelease | None
    kind: Kind
    why: str
    settled: bool = False
    leaving: str = ""
    notes: tuple[str, ...] = ()

    @property
    def version(self) -> str:
        """Of the release; empty if there is none."""
        return self.release.version if self.release else ""


def wanted(
    pointer: Pointer,
    site: Site,
    running: Running,
    state: State,
    now: datetime,
    *,
    override: bool = False,
) -> Wanted:
    """What this machine should run, as its channel, its pin and its past say.

    Args:
        pointer: what its channel says, verified.
        site: its settings.
        running: what runs.
        state: what it remembers.
        now: the present moment.
        override: a person asked for it now (``update --now``): the wave does not count.
    """
    facts = _Facts(pointer, site, running, state, now, override)
    leaving = facts.leaving
    pinned, notes = _pinned(facts)
    found = pinned or (_leave(facts) if leaving else _follow(facts))
    settled = found.settled or (
        found.release is not None and not leaving and _has(found.release, facts)
    )
    return replace(found, settled=settled, leaving=leaving, notes=(*found.notes, *notes))


def judge(
    wanted: Wanted,
    pointer: Pointer,
    site: Site,
    running: Running,
    state: State,
    now: datetime,
    *,
    override: bool = False,
    attested: Gate | None = None,
) -> Verdict:
    """May this machine begin, or go on, to install what it wants?

    The caller appends the gates of :meth:`pipeline.agent.base.Slots.check`. When it may reboot is
    another question: :func:`pipeline.policy.window.judge`.

    Args:
        wanted: of :func:`wanted`, with the same arguments. If it is settled there is nothing to
            install, and no need to ask.
        pointer: what its channel says, verified.
        site: its settings.
        running: what runs.
        state: what it remembers.
        now: the present moment.
        override: a person asked for it now: the wave does not count. All else does.
        attested: what its attestations came to; None: not looked at yet, so there is no such
            gate. They cost a download: look once everything else allows it.

    Returns:
        The gates ``available``, ``confirmed``, ``machine class``, ``not revoked``, ``not failed
        here``, ``not frozen``, ``not halted``, ``wave``, ``attested``, as far as they apply.
    """
    release = wanted.release
    if release is None:
        return Verdict((Gate("available", False, wanted.why),))
    facts = _Facts(pointer, site, running, state, now, override)
    gates = [
        _confirmed(running),
        _machine_class(release, facts),
        _not_revoked(release, pointer),
        _not_failed(release, state),
    ]
    attempt = facts.begun(release)
    if attempt is None or attempt.step not in _ACTIVATED:
        gates += _of_the_rollout(wanted, release, facts)
    if attested is not None:
        gates.append(attested)
    return Verdict(tuple(gates))


def runs(release: PublishedRelease, running: Running) -> bool:
    """Is *release*, under its own name, what runs?"""
    return (release.image, release.version, release.arch, release.root_hash) == (
        running.image,
        running.version,
        running.arch,
        running.root_hash,
    )


@dataclass(frozen=True)
class _Facts:
    pointer: Pointer
    site: Site
    running: Running
    state: State
    now: datetime
    override: bool

    @property
    def leaving(self) -> str:
        """Why what runs is revoked; empty if it is not."""
        revoked = self.pointer.revocation(self.running.version, self.running.root_hash)
        return (revoked.reason or "no reason was given") if revoked else ""

    def usable(self, release: PublishedRelease | None) -> bool:
        """Is it a release that is not revoked?"""
        return release is not None and not _revoked(release, self.pointer)

    def begun(self, release: PublishedRelease) -> Attempt | None:
        """The attempt to install *release*, if one is under way."""
        attempt = self.state.attempt
        if attempt is None or attempt.step in _ENDED or not _same(attempt.release, release):
            return None
        return attempt

    def came(self, release: PublishedRelease) -> bool:
        """Has the rollout of the channel's *release* come to this machine?"""
        rollout = self.pointer.rollout
        if rollout is None or self.override or self.begun(release) or _has(release, self):
            return True
        return waves.position(rollout.id, self.site.device) < waves.share(rollout, self.now)


def _follow(facts: _Facts) -> Wanted:
    pointer = facts.pointer
    release, before = pointer.release, pointer.previous
    for each in (release, before):  # what is activated is finished
        attempt = facts.begun(each) if each is not None and facts.usable(each) else None
        if each is None or attempt is None or attempt.step not in _ACTIVATED:
            continue
        if not _has(each, facts):
            kind: Kind = "channel" if each is release else "previous"
            return Wanted(each, kind, f"{each.version} is installed already, and needs a reboot")
    if release is None or not facts.usable(release):
        return _without_release(facts)
    other = before is not None and facts.usable(before) and not _same(before, release)
    if before is not None and other and not facts.came(release) and not _is_near(facts):
        return Wanted(before, "previous", _previous_why(facts, release, before))
    why = f"channel {pointer.channel} holds {release.version}"
    if runs(release, facts.running):
        why = f"that is what channel {pointer.channel} wants here"
    elif _has(release, facts):
        why = f"{why}, which is what runs, byte for byte"
    return Wanted(release, "channel", why)


def _leave(facts: _Facts) -> Wanted:
    """Where to go from a release that is revoked: to whatever is allowed, past every wave."""
    pointer = facts.pointer
    release, before = pointer.release, pointer.previous
    found = [each for each in (release, before) if each is not None and facts.usable(each)]
    sound = [each for each in found if not _known_bad(each, facts.state)] or found
    if not sound:
        return Wanted(
            None,
            "stay",
            f"{facts.running.version} is revoked ({facts.leaving}), and channel "
            f"{pointer.channel} holds no other release to go to: this machine stays as it is "
            "until it does",
        )
    came = release is not None and facts.came(release)
    chosen = sound[0] if came or len(sound) == 1 else sound[-1]
    kind: Kind = "channel" if chosen is release else "previous"
    why = (
        f"{facts.running.version} is revoked ({facts.leaving}), so this machine goes to "
        f"{chosen.version} at once"
    )
    return Wanted(chosen, kind, why)


def _without_release(facts: _Facts) -> Wanted:
    """What to run while the channel holds no release that may be installed."""
    pointer = facts.pointer
    release, before = pointer.release, pointer.previous
    reason = f"channel {pointer.channel} holds no release of {pointer.image}"
    if release is not None:
        reason = f"{release.version} of channel {pointer.channel} is revoked"
    if before is None or not facts.usable(before):
        return Wanted(None, "stay", f"{reason}: this machine stays as it is", settled=True)
    why = f"{reason}; the release before it is {before.version}"
    return Wanted(before, "previous", why)


def _previous_why(facts: _Facts, release: PublishedRelease, before: PublishedRelease) -> str:
    rollout = facts.pointer.rollout
    state = rollout.state if rollout is not None else "rolling"
    where = "has not come to this machine yet" if state == "rolling" else f"is {state}"
    return (
        f"the rollout of {release.version} {where}; until then {before.version} is what channel "
        f"{facts.pointer.channel} wants here"
    )


def _is_near(facts: _Facts) -> bool:
    """Does it run the previous release, or one that the channel held after that?"""
    pointer, running = facts.pointer, facts.running
    if pointer.previous is not None and _has(pointer.previous, facts):
        return True
    for held in pointer.history:  # the newest first
        if held.version == running.version and held.root_hash == running.root_hash:
            return True
        if pointer.previous is not None and held.version == pointer.previous.version:
            return False
    return False


def _pinned(facts: _Facts) -> tuple[Wanted | None, tuple[str, ...]]:
    """What a pin comes to; None if it does not count, with the reason."""
    pin, pointer = facts.state.pin, facts.pointer
    if pin is None:
        return None, ()
    revocation = pointer.revocation(pin.version)
    if revocation is not None:
        return None, (f"the pin to {pin.version} does not count: it is revoked",)
    attempt = facts.state.attempt
    known = (pointer.release, pointer.previous, attempt.release if attempt else None)
    release = next((each for each in known if each and each.version == pin.version), None)
    if release is not None and not facts.usable(release):
        return None, (f"the pin to {pin.version} does not count: its root is revoked",)
    why = f"a person pinned this machine to {pin.version} on {iso(pin.when)}"
    if pin.version == facts.running.version and not facts.leaving:
        return Wanted(release, "pin" if release else "stay", why, settled=True), ()
    if release is not None:
        return Wanted(release, "pin", why), ()
    away = f"{pin.version}, which channel {pointer.channel} does not hold any more"
    if facts.leaving:
        return None, (f"the pin does not count: it is to {away}, and what runs is revoked",)
    return Wanted(None, "stay", f"a person pinned this machine to {away}: it stays as it is"), ()


def _of_the_rollout(wanted: Wanted, release: PublishedRelease, facts: _Facts) -> list[Gate]:
    pointer, rollout = facts.pointer, facts.pointer.rollout
    verdict = waves.may_start(rollout, facts.site.device, facts.now) if rollout else Verdict(())
    frozen = pointer.frozen
    text = f"channel {pointer.channel} is frozen: {frozen}" if frozen else "it is not frozen"
    gates = [Gate("not frozen", not frozen, text)]
    if pointer.release is None or not _same(release, pointer.release):
        return gates  # what had spread everywhere does not spread in waves
    for gate in verdict.gates:
        if gate.name == "not frozen":
            continue
        passes = "" if gate.passed else _passes(gate.name, wanted, release, facts)
        gates.append(Gate(gate.name, True, passes) if passes else gate)
    return gates


def _passes(gate: str, wanted: Wanted, release: PublishedRelease, facts: _Facts) -> str:
    """Why a gate of the rollout that says no does not count; empty if it does."""
    if wanted.leaving:
        return "what runs is revoked: that does not wait"
    if gate != "wave":
        return ""
    if facts.override:
        return "a person asked for it now"
    if wanted.kind == "pin":
        return "a person pinned this machine to it"
    return "begun already" if facts.begun(release) else ""


def _confirmed(running: Running) -> Gate:
    if running.trial:
        return Gate("confirmed", False, f"{running.version} is on trial: not known to be good yet")
    return Gate("confirmed", True, "what runs is confirmed")


def _machine_class(release: PublishedRelease, facts: _Facts) -> Gate:
    here, named = facts.running.image, facts.site.image
    if release.image in (here, named):
        return Gate("machine class", True, f"a machine for {release.image}")
    text = (
        f"{release.version} is a release of image {release.image}, and this is a machine for "
        f"{named or here}"
    )
    return Gate("machine class", False, text)


def _not_revoked(release: PublishedRelease, pointer: Pointer) -> Gate:
    revocation = pointer.revocation(release.version, release.root_hash)
    if revocation is None:
        return Gate("not revoked", True, "not revoked")
    text = f"{release.version} is revoked: {revocation.reason or 'no reason was given'}"
    return Gate("not revoked", False, text)


def _not_failed(release: PublishedRelease, state: State) -> Gate:
    bad = state.known_bad(release.version, release.root_hash, release.boot_digest)
    if bad is None:
        return Gate("not failed here", True, "it has not failed here")
    return Gate(
        "not failed here", False, f"{release.version} failed here on {iso(bad.when)}: {bad.reason}"
    )


def _known_bad(release: PublishedRelease, state: State) -> bool:
    return state.known_bad(release.version, release.root_hash, release.boot_digest) is not None


def _revoked(release: PublishedRelease, pointer: Pointer) -> bool:
    return pointer.revocation(release.version, release.root_hash) is not None


def _same(one: PublishedRelease, other: PublishedRelease) -> bool:
    return (one.image, one.version, one.root_hash) == (other.image, other.version, other.root_hash)


def _has(release: PublishedRelease, facts: _Facts) -> bool:
    """Does this machine run *release*, or the same bytes under another version?

    What runs does not tell the digest of its boot files. Where it is one of the releases that are
    known here they tell; otherwise only the name counts, and its UKI is installed anew.
    """
    running, attempt = facts.running, facts.state.attempt
    if runs(release, running):
        return True
    if (release.image, release.arch, release.root_hash) != (
        running.image,
        running.arch,
        running.root_hash,
    ):
        return False
    known = (facts.pointer.release, facts.pointer.previous, attempt.release if attempt else None)
    return any(
        each is not None and runs(each, running) and each.boot_digest == release.boot_digest
        for each in known
    )
