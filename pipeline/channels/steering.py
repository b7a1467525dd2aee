"""Steering without moving a release: rollouts, and channels that are frozen and thawed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from pipeline.channels.desk import Desk, held_pointer, moved_on, require_moving
from pipeline.models.pointer import Event, Pointer, Rollout
from pipeline.policy import rollout as policy

if TYPE_CHECKING:
    from pipeline.trust.views import ChannelChange, ChannelView, Outcome

NO_REASON = "no reason was given"

Steer = Literal["advance", "hold", "resume", "halt"]

_STEERS: Mapping[Steer, Callable[[Rollout, datetime], Rollout]] = {
    "advance": policy.advance,
    "hold": policy.hold,
    "resume": policy.resume,
    "halt": policy.halt,
}


class _AsItIs(Exception):
    """There is nothing to change."""


@dataclass(frozen=True)
class Steered:
    """A rollout after it was steered.

    Attributes:
        pointer: what the channel says of the image now, or would.
        outcome: what came of it.
    """

    pointer: Pointer
    outcome: Outcome


@dataclass(frozen=True)
class Frozen:
    """A channel after it was frozen or thawed.

    Attributes:
        channel: its name.
        reason: why nothing moves; empty if it is thawed.
        outcome: None if it was so already.
    """

    channel: str
    reason: str
    outcome: Outcome | None


def steer(
    desk: Desk, image: str, channel: str, how: Steer, *, reason: str = "", propose: bool = False
) -> Steered:
    """Change how the release that *channel* holds of *image* spreads.

    Raises:
        UsageError: the channel holds no release of it, or its rollout is so already.
        RefusedError: the channel is frozen, or others must sign.
        ConflictError: others have moved the channel to another release meanwhile.
    """
    from pipeline.trust.views import ChannelChange

    seen = held_pointer(desk.view(channel), image)
    assert seen.rollout is not None  # a pointer with a release has one
    wanted = seen.rollout.id
    pointers: list[Pointer] = []

    def decide(view: ChannelView) -> ChannelChange:
        require_moving(view)
        now = desk.clock()
        pointer = held_pointer(view, image)
        assert pointer.rollout is not None
        assert pointer.release is not None
        if pointer.rollout.id != wanted:
            raise moved_on(view.name, image, pointer)
        changed = pointer.model_copy(update={"rollout": _STEERS[how](pointer.rollout, now)})
        pointers[:] = [changed]
        version = pointer.release.version
        event = Event(
            action="roll",
            at=now,
            image=image,
            version=version,
            before=version,
            reason=f"{how}: {reason}" if reason else how,
        )
        return ChannelChange(event=event, pointers={image: changed})

    outcome = desk.repository.change_channel(channel, decide, propose=propose)
    return Steered(pointers[0], outcome)


def freeze(desk: Desk, channel: str, *, reason: str = "", propose: bool = False) -> Frozen:
    """Stop everything in a channel: machines that have not begun stay as they are.

    Args:
        desk: where it is changed from.
        channel: its name.
        reason: why; told wherever something is refused for it.
        propose: leave it for others to sign if our keys are not enough.

    Raises:
        UsageError: there is no such channel.
        RefusedError: others must sign.
    """
    why = reason or NO_REASON

    def decide(view: ChannelView) -> ChannelChange:
        if view.frozen == why:
            raise _AsItIs
        return _frozen_change(view, "freeze", why, reason, desk.clock())

    return Frozen(channel, why, _try_change(desk, channel, decide, propose=propose))


def thaw(desk: Desk, channel: str, *, reason: str = "", propose: bool = False) -> Frozen:
    """Let a frozen channel move again; waves that were open open their soak anew.

    Args and raises as :func:`freeze`.
    """

    def decide(view: ChannelView) -> ChannelChange:
        if not view.frozen:
            raise _AsItIs
        return _frozen_change(view, "thaw", "", reason, desk.clock())

    return Frozen(channel, "", _try_change(desk, channel, decide, propose=propose))


def _frozen_change(
    view: ChannelView, action: Literal["freeze", "thaw"], why: str, reason: str, now: datetime
) -> ChannelChange:
    from pipeline.trust.views import ChannelChange

    pointers = {
        image: pointer.model_copy(
            update={
                "frozen": why,
                # Once it is frozen the clock of its waves stands still: who thaws it has only
                # just begun to watch again.
                "rollout": pointer.rollout if view.frozen and why else settled(pointer, now),
            }
        )
        for image, pointer in view.pointers.items()
    }
    event = Event(action=action, at=now, reason=reason)
    return ChannelChange(event=event, pointers=pointers, frozen=why)


def settled(pointer: Pointer, now: datetime) -> Rollout | None:
    """The rollout with the wave that is open written down, its soak beginning now.

    For a frozen pointer it is the wave that was open when it was frozen.
    """
    rollout = pointer.rollout
    if rollout is None or rollout.state != "rolling":
        return rollout
    wave = rollout.wave if pointer.frozen else policy.wave_at(rollout, now)
    return rollout.model_copy(update={"wave": wave, "opened": now})


def _try_change(
    desk: Desk,
    channel: str,
    decide: Callable[[ChannelView], ChannelChange],
    *,
    propose: bool,
) -> Outcome | None:
    desk.definition(channel)
    try:
        return desk.repository.change_channel(channel, decide, propose=propose)
    except _AsItIs:
        return None
