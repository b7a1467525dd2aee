"""Moving a release into a channel, forwards (promotion) or back (rollback).

What is moved is a digest: nothing is built, converted or copied. :func:`plan_promotion` and
:func:`plan_rollback` decide without changing anything; :func:`carry_out` signs what was decided,
unless the channel has moved meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pipeline.channels.desk import Desk, held_pointer, moved_on
from pipeline.channels.facts import (
    Dossier,
    examine,
    find_missing,
    publish_again,
    read_manifest,
    touch_objects,
)
from pipeline.channels.pointers import find_target, moved, new_rollout, return_targets
from pipeline.channels.starts import Start, find_starts
from pipeline.channels.verdicts import Action, Surroundings, decide, look_around
from pipeline.clock import duration, iso
from pipeline.errors import RefusedError, TrustError, UsageError
from pipeline.models.channel import ALL_AT_ONCE, Wave
from pipeline.models.pointer import Event, Held, Pointer, PublishedRelease, Rollout
from pipeline.releases import ReleaseDiff, compare

if TYPE_CHECKING:
    from pipeline.policy.verdict import Verdict
    from pipeline.trust.views import ChannelChange, ChannelView, Outcome


@dataclass(frozen=True)
class Promotion:
    """A release on its way into a channel.

    Attributes:
        action: forwards, or back.
        channel: the channel.
        dossier: the release, and what is known of it.
        seen: what the channel said of the image when it was decided; None if nothing.
        verdict: every gate.
        changes: what machines of the channel get; ``old`` is None if it held nothing before.
        rollout: how it is to spread.
        reason: why, as the person said.
        propose: is it left for others to sign where our keys are not enough?
        around: what the other channels say of the image.
        starts: what it costs machines, by release that they run now.
        outcome: what came of it; None while it was only decided.
    """

    action: Action
    channel: str
    dossier: Dossier
    seen: Pointer | None
    verdict: Verdict
    changes: ReleaseDiff
    rollout: Rollout
    around: Surroundings
    starts: tuple[Start, ...] = ()
    reason: str = ""
    propose: bool = False
    outcome: Outcome | None = None

    @property
    def release(self) -> PublishedRelease:
        """The release that is moved."""
        return self.dossier.release

    @property
    def before(self) -> PublishedRelease | None:
        """The release that the channel held when it was decided."""
        return self.seen.release if self.seen is not None else None

    @property
    def already(self) -> bool:
        """Does the channel hold it already, unrevoked? Then nothing is to be done."""
        held, release = self.before, self.release
        return (
            self.seen is not None
            and held is not None
            and (held.version, held.manifest.digest) == (release.version, release.manifest.digest)
            and self.seen.revocation(release.version, release.root_hash) is None
        )


class GatesError(RefusedError):
    """Gates say no.

    Attributes:
        promotion: what was refused.
    """

    def __init__(self, promotion: Promotion) -> None:
        release, verdict = promotion.release, promotion.verdict
        failing = "; ".join(f"{gate.name}: {gate.reason}" for gate in verdict.refusals)
        super().__init__(
            f"{release.image}@{release.version} may not enter {promotion.channel}: {failing}",
            hint=_way_out(promotion),
        )
        self.promotion = promotion


def promote(
    desk: Desk,
    release: PublishedRelease,
    channel: str,
    *,
    reason: str = "",
    waves: Sequence[Wave] | None = None,
    now_all: bool = False,
    dry_run: bool = False,
    propose: bool = False,
) -> Promotion:
    """Move *release* into *channel*.

    Args:
        desk: where it is changed from.
        release: its description in the store.
        channel: the channel's name.
        reason: for the history.
        waves: how it spreads; as the channel's definition says if None.
        now_all: all machines at once.
        dry_run: only decide.
        propose: leave it for others to sign if our keys are not enough.

    Raises:
        GatesError: gates say no (never with *dry_run*: the verdict tells).
        RefusedError: the signatures of others are needed.
        ConflictError: others have moved this image in the channel meanwhile.
        UsageError: there is no such channel, or the release is not whole in the store.
        TrustError, NetworkError, HostError: the store cannot be believed, reached or written.
    """
    planned = plan_promotion(
        desk, release, channel, reason=reason, waves=waves, now_all=now_all, propose=propose
    )
    return planned if dry_run else carry_out(desk, planned)


def plan_promotion(
    desk: Desk,
    release: PublishedRelease,
    channel: str,
    *,
    reason: str = "",
    waves: Sequence[Wave] | None = None,
    now_all: bool = False,
    propose: bool = False,
) -> Promotion:
    """Decide whether *release* may move into *channel*, and what that would change.

    Args and raises as :func:`promote`, but for what only a change can raise.
    """
    definition = desk.definition(channel)
    view = desk.view(channel)
    spread = ALL_AT_ONCE if now_all else tuple(waves or definition.waves)
    around = look_around(desk, channel, release.image)
    asked = _Asked("promote", examine(desk, release), around, spread, reason, propose)
    return _decide(desk, asked, view)


def plan_rollback(
    desk: Desk,
    image: str,
    channel: str,
    to: str | None = None,
    *,
    reason: str = "",
    waves: Sequence[Wave] | None = None,
    propose: bool = False,
) -> Promotion:
    """Decide whether *channel* may go back to an earlier release of *image*, and to which.

    Args:
        desk: where it is changed from.
        image: the image.
        channel: the channel's name.
        to: a version, or the beginning of just one; else the newest that was not revoked, and
            is not newer than what the channel holds.
        reason: for the history.
        waves: how it spreads; all at once if None, because what is there does not work.
        propose: as in :func:`promote`.

    Raises:
        UsageError: there is no such channel, or nothing to go back to.
        RefusedError: what *to* names is revoked.
        TrustError, NetworkError, HostError: the store cannot be believed or reached.
    """
    view = desk.view(channel)
    pointer = held_pointer(view, image)
    held = find_target(pointer, to)
    release = desk.published.find(image, held.version)
    if release is None:
        others = [each.version for each in return_targets(pointer) if each != held]
        raise UsageError(
            f"{image}@{held.version} is not in the store any more",
            hint=f"`--to` goes to another: {', '.join(others)}." if others else "",
        )
    _require_same(release, held)
    around = look_around(desk, channel, image)
    dossier = Dossier(
        release=release,
        manifest=read_manifest(desk, release),
        missing=find_missing(desk, release),
    )
    spread = tuple(waves or ALL_AT_ONCE)
    return _decide(desk, _Asked("rollback", dossier, around, spread, reason, propose), view)


def carry_out(desk: Desk, planned: Promotion) -> Promotion:
    """Sign and publish what was planned, if it is still allowed and nobody else was faster.

    Args:
        desk: where it is changed from.
        planned: what :func:`plan_promotion` or :func:`plan_rollback` said.

    Raises:
        GatesError, RefusedError, ConflictError, UsageError, TrustError, NetworkError, HostError:
            as :func:`promote`.
    """
    from pipeline.trust.views import ChannelChange

    if planned.already:
        return planned
    if not planned.verdict.allowed:
        raise GatesError(planned)
    release = planned.release
    touch_objects(desk, release)
    decided = planned
    asked = _Asked(
        planned.action,
        planned.dossier,
        planned.around,
        planned.rollout.waves,
        planned.reason,
        planned.propose,
        planned.starts,
    )

    def change(view: ChannelView) -> ChannelChange:
        nonlocal decided
        present = view.pointers.get(release.image)
        if _holding(present) != _holding(planned.seen):
            raise moved_on(view.name, release.image, present)
        decided = _decide(desk, asked, view)
        if not decided.verdict.allowed:
            raise GatesError(decided)
        pointer = moved(
            present, view.name, release, decided.rollout, keep=desk.channels.retention.keep
        )
        return ChannelChange(event=_event(decided), pointers={release.image: pointer})

    outcome = desk.repository.change_channel(planned.channel, change, propose=planned.propose)
    return replace(decided, outcome=outcome)


@dataclass(frozen=True)
class _Asked:
    """What is wanted, and everything that is known of it beyond the channel itself."""

    action: Action
    dossier: Dossier
    around: Surroundings
    waves: tuple[Wave, ...]
    reason: str
    propose: bool
    starts: tuple[Start, ...] | None = None  # once they are known


def _decide(desk: Desk, asked: _Asked, view: ChannelView) -> Promotion:
    now = desk.clock()
    dossier, release = asked.dossier, asked.dossier.release
    pointer = view.pointers.get(release.image)
    present = pointer.release if pointer is not None else None
    old = read_manifest(desk, present) if present is not None else None
    changes = compare(old, dossier.manifest)
    starts = asked.starts
    if starts is None:
        starts = find_starts(desk, release, pointer, now)
    verdict = decide(
        desk,
        asked.action,
        dossier,
        view,
        asked.around,
        changes,
        starts,
        propose=asked.propose,
        now=now,
    )
    return Promotion(
        action=asked.action,
        channel=view.name,
        dossier=dossier,
        seen=pointer,
        verdict=verdict,
        changes=changes,
        rollout=new_rollout(view.name, release, asked.waves, now),
        around=asked.around,
        starts=starts,
        reason=asked.reason,
        propose=asked.propose,
    )


def _event(decided: Promotion) -> Event:
    return Event(
        action=decided.action,
        at=decided.rollout.opened,
        image=decided.release.image,
        version=decided.release.version,
        before=decided.before.version if decided.before else "",
        reason=decided.reason,
        gates=tuple(f"{gate.name}: {gate.reason}" for gate in decided.verdict.gates),
    )


def _holding(pointer: Pointer | None) -> tuple[object, ...]:
    if pointer is None or pointer.release is None:
        return ()
    return pointer.release.version, pointer.release.root_hash, pointer.since


def _require_same(release: PublishedRelease, held: Held) -> None:
    """Refuse a description that is not that of the release that the channel held."""
    if (release.root_hash, release.manifest.digest) != (held.root_hash, held.manifest):
        raise TrustError(
            f"the store's description of {release.image}@{release.version} is not that of the "
            "release that the channel held under this version",
            hint="Somebody has changed it: publish the release again from where it was built.",
        )


def _held(promotion: Promotion) -> str:
    before = promotion.before
    return f"{before.image}@{before.version}" if before is not None else "OLD"


def _way_out(promotion: Promotion) -> str:
    """What to do about gates that say no."""
    verdict, release = promotion.verdict, promotion.release
    if verdict.opens is not None:
        wait = " `--wait` waits for that." if promotion.action == "promote" else ""
        left = duration((verdict.opens - promotion.rollout.opened).total_seconds())
        return f"Time alone opens it, at {iso(verdict.opens)}, in {left}.{wait}"
    named = f"{release.image}@{release.version}"
    ways = {
        "stored": publish_again(release),
        "not revoked": "",
        "not frozen": f"`recast thaw {promotion.channel}` lets it move again.",
        "newer": f"`recast rollback {release.image} --channel {promotion.channel}` goes back.",
        "clean": "Commit the changes, and run it again: what is committed can go everywhere.",
        "tests": f"`recast test {named}` tests it, and `recast publish {named}` adds the result.",
        "wire budget": f"`recast publish {named}` makes deltas from what channels hold now; "
        f"`recast diff {_held(promotion)} {named}` tells which files cost.",
        "soak": f"`recast promote {named} --to {promotion.around.before}` puts it there.",
        "approvals": "With one of several keys, `--propose` leaves it in the store for the others "
        "to sign; `recast keys list` shows who has them.",
    }
    for gate in verdict.refusals:
        name = "tests" if gate.name.startswith("tests on ") else gate.name
        if name in ways:
            return ways[name]
    return ""
