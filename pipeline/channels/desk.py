"""What it takes to change a channel, put together once, and how channels are looked up."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from pipeline import clock
from pipeline.errors import ConflictError, RefusedError, UsageError

if TYPE_CHECKING:
    from pipeline.channels.published import PublishedReleases
    from pipeline.models.channel import ChannelDefinition, Channels
    from pipeline.models.pointer import Pointer
    from pipeline.store.base import Store
    from pipeline.trust.client import TrustClient
    from pipeline.trust.repository import Repository
    from pipeline.trust.views import ChannelView


@dataclass(frozen=True)
class Desk:
    """Where channels are changed from.

    Attributes:
        store: the objects of the releases.
        repository: the signed metadata, to change.
        published: the releases that the store has.
        client: the metadata as a machine sees it; knows who may attest.
        channels: what ``images/channels.yaml`` says.
        clock: the present moment.
    """

    store: Store
    repository: Repository
    published: PublishedReleases
    client: TrustClient
    channels: Channels
    clock: Callable[[], datetime] = clock.now

    def definition(self, channel: str) -> ChannelDefinition:
        """What is asked of a channel.

        Raises:
            UsageError: there is no such channel; names what is near.
        """
        return self.channels[channel]

    def view(self, channel: str) -> ChannelView:
        """A channel as it stands.

        Raises:
            UsageError: there is no such channel, or it has no role yet.
            TrustError, NetworkError: the store cannot be believed, or not be reached.
        """
        return self.repository.channel(self.definition(channel).name)

    def views(self, channels: Sequence[str] = ()) -> list[ChannelView]:
        """Several channels as they stand, in order; all when *channels* is empty.

        Raises:
            UsageError, TrustError, NetworkError: as :meth:`view`.
        """
        for name in channels:
            self.definition(name)
        return [self.view(name) for name in self.channels.names if not channels or name in channels]

    def views_that_are(self) -> list[ChannelView]:
        """All channels that have a role in the store, in order.

        Raises:
            TrustError, NetworkError: as :meth:`view`.
        """
        found = []
        for name in self.channels.names:
            with contextlib.suppress(UsageError):  # it is new, and has no role yet
                found.append(self.view(name))
        return found


def near(word: str, names: Sequence[str]) -> str:
    """A hint that names what *word* may have been meant to be, or all there is."""
    found = difflib.get_close_matches(word, names, n=3, cutoff=0.5)
    if found:
        return f"Did you mean {' or '.join(found)}?"
    return f"There {'is' if len(names) == 1 else 'are'} {', '.join(names)}." if names else ""


def held_pointer(view: ChannelView, image: str) -> Pointer:
    """What a channel says of an image that it holds a release of.

    Raises:
        UsageError: it holds none; names what is near.
    """
    pointer = view.pointers.get(image)
    if pointer is not None and pointer.release is not None:
        return pointer
    held = sorted(name for name, each in view.pointers.items() if each.release is not None)
    raise UsageError(
        f"{view.name} holds no release of `{image}`",
        hint=near(image, held) if held else f"{view.name} holds nothing yet.",
    )


def require_moving(view: ChannelView) -> None:
    """Refuse a change of a frozen channel.

    Raises:
        RefusedError: it is frozen; says why.
    """
    if view.frozen:
        raise RefusedError(
            f"{view.name} is frozen: {view.frozen}",
            hint=f"`recast thaw {view.name}` lets it move again.",
        )


def missing_keys(view: ChannelView, *, propose: bool) -> str:
    """What keeps us from signing a change of a channel; empty if nothing does.

    Args:
        view: the channel.
        propose: is one signature enough, because others may add theirs?
    """
    needed = 1 if propose else view.threshold
    if len(view.ours) >= needed:
        return ""
    holders = [name for name in view.keyholders if name not in view.ours]
    have = f"; here is {', '.join(view.ours)}" if view.ours else "; here is none of them"
    if view.threshold > 1:
        return f"{view.name} needs {view.threshold} of {', '.join(view.keyholders)}{have}"
    return f"{view.name} needs the key {' or '.join(holders)}{have if view.ours else ''}"


def moved_on(channel: str, image: str, pointer: Pointer | None) -> ConflictError:
    """The error for an image that others have moved since it was looked at."""
    release = pointer.release if pointer is not None else None
    now = f"it holds {release.version} now" if release else "it holds no release now"
    return ConflictError(
        f"somebody else has changed {image} in {channel} meanwhile: {now}",
        hint=f"`recast channels {channel}` shows it; decide again from there.",
    )
