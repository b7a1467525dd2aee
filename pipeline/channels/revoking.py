"""Revoking: a version that no machine may install any more, said in every channel."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline.channels.desk import Desk, missing_keys
from pipeline.channels.pointers import return_targets, revoked
from pipeline.errors import RecastError, RefusedError
from pipeline.models.pointer import Event, Revocation

if TYPE_CHECKING:
    from pipeline.models.pointer import Pointer
    from pipeline.trust.views import ChannelChange, ChannelView, Outcome


@dataclass(frozen=True)
class Holder:
    """A channel that still holds what was revoked.

    Attributes:
        channel: its name.
        back: the version that a rollback would go to; None if there is none.
    """

    channel: str
    back: str | None


@dataclass(frozen=True)
class Revoked:
    """What came of a revocation.

    Attributes:
        image: the image.
        revocation: what is refused, and why.
        outcomes: by channel; None where it was revoked already.
        holders: the channels that hold it still.
    """

    image: str
    revocation: Revocation
    outcomes: Mapping[str, Outcome | None]
    holders: tuple[Holder, ...] = field(default=())


class _Already(Exception):
    """It is revoked there."""


def find_root_hash(views: Iterable[ChannelView], image: str, version: str) -> str | None:
    """The root hash of a version that a channel holds, or has held; None if none has."""
    for view in views:
        pointer = view.pointers.get(image)
        if pointer is None:
            continue
        releases = [each for each in (pointer.release, pointer.previous) if each is not None]
        known = {each.version: each.root_hash for each in releases}
        known |= {each.version: each.root_hash for each in pointer.history}
        known |= {each.version: each.root_hash for each in pointer.revoked}
        if version in known:
            return known[version]
    return None


def revoke(
    desk: Desk,
    image: str,
    version: str,
    root_hash: str,
    reason: str,
    *,
    channels: Sequence[str] = (),
    propose: bool = False,
    notify: Callable[[str], None] = lambda _: None,
) -> Revoked:
    """Make every machine refuse a version, and whatever else has its root.

    Nothing is written before it is sure that every channel can be signed. Works for what no
    channel holds, and in a frozen channel.

    Args:
        desk: where it is changed from.
        image: the image.
        version: the version.
        root_hash: its root hash.
        reason: why; machines and people are told.
        channels: only these; all when empty.
        propose: leave it for others to sign where our keys are not enough.
        notify: hears the name of each channel before it is changed.

    Raises:
        UsageError: there is no such channel.
        RefusedError: keys are missing; says which.
        RecastError: it went wrong midway; the message says where it is revoked already.
    """
    views = desk.views(channels)
    revocation = Revocation(version=version, root_hash=root_hash, reason=reason, when=desk.clock())
    due = [view for view in views if _after(view, image, revocation) is not None]
    _require_keys(due, propose=propose)
    outcomes: dict[str, Outcome | None] = {view.name: None for view in views}
    for view in due:
        notify(view.name)
        try:
            outcomes[view.name] = _revoke_in(desk, view.name, image, revocation, propose=propose)
        except RecastError as error:
            done = [name for name, outcome in outcomes.items() if outcome is not None]
            if done:
                error.message += f"; {image}@{version} is revoked in {', '.join(done)} already"
                error.hint = error.hint or "The same command again goes on with the rest."
            raise
    return Revoked(image, revocation, outcomes, _holders(views, image, revocation))


def _after(view: ChannelView, image: str, revocation: Revocation) -> Pointer | None:
    return revoked(view.pointers.get(image), view.name, image, revocation, frozen=view.frozen)


def _revoke_in(
    desk: Desk, channel: str, image: str, revocation: Revocation, *, propose: bool
) -> Outcome | None:
    from pipeline.trust.views import ChannelChange

    def decide(view: ChannelView) -> ChannelChange:
        pointer = _after(view, image, revocation)
        if pointer is None:
            raise _Already
        event = Event(
            action="revoke",
            at=revocation.when,
            image=image,
            version=revocation.version,
            before=pointer.release.version if pointer.release else "",
            reason=revocation.reason,
        )
        return ChannelChange(event=event, pointers={image: pointer})

    try:
        return desk.repository.change_channel(channel, decide, propose=propose)
    except _Already:
        return None


def _require_keys(views: Sequence[ChannelView], *, propose: bool) -> None:
    lacks = {view.name: missing_keys(view, propose=propose) for view in views}
    missing = [text for text in lacks.values() if text]
    if not missing:
        return
    able = [name for name, text in lacks.items() if not text]
    hints = []
    if not propose:
        hints.append("`--propose` leaves it for the others to sign where you have one of the keys.")
    if able:
        hints.append(f"`{' '.join(f'--channel {name}' for name in able)}` revokes it there alone.")
    raise RefusedError(
        f"keys are missing, and nothing was changed: {'; '.join(missing)}", hint=" ".join(hints)
    )


def _holders(
    views: Sequence[ChannelView], image: str, revocation: Revocation
) -> tuple[Holder, ...]:
    holders = []
    for view in views:
        pointer = view.pointers.get(image)
        if pointer is None or pointer.release is None:
            continue
        release = pointer.release
        if revocation.version == release.version or revocation.root_hash == release.root_hash:
            after = _after(view, image, revocation) or pointer
            targets = return_targets(after)
            holders.append(Holder(view.name, targets[0].version if targets else None))
    return tuple(holders)
