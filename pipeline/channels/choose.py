"""Which published release a person means, when they say little."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pipeline import releases
from pipeline.channels.desk import Desk, near
from pipeline.errors import UsageError

if TYPE_CHECKING:
    from pipeline.models.pointer import PublishedRelease


def choose(desk: Desk, words: str, known: Iterable[str] = ()) -> PublishedRelease:
    """The published release that *words* mean: ``IMAGE`` (its newest) or ``IMAGE@VERSION``.

    Args:
        desk: knows the store.
        words: what was typed.
        known: names of images that may have no release in the store, for the error's advice.

    Raises:
        UsageError: there is no such release, or more than one; names what is near.
        TrustError, NetworkError, HostError: the store cannot be read.
    """
    return desk.published.resolve(words, known)


def choose_for(desk: Desk, words: str, channel: str, known: Iterable[str] = ()) -> PublishedRelease:
    """The release that is to enter *channel*: without a version what the channel before holds.

    Into the first channel it is the newest that is published. Args and raises as :func:`choose`.
    """
    image, version = releases.split(words)
    before = desk.channels.before(channel)
    if version or before is None:
        return choose(desk, words, known)
    view = desk.view(before.name)
    pointer = view.pointers.get(image)
    if pointer is None or pointer.release is None:
        choose(desk, image, known)  # says so if there is no such image, or none of it was published
        held = sorted(name for name, each in view.pointers.items() if each.release is not None)
        others = f" {before.name} holds {', '.join(held)}." if held else ""
        raise UsageError(
            f"{before.name} holds no release of {image} that could move on to {channel}",
            hint=f"`recast promote {image} --to {before.name}` puts one there.{others}",
        )
    # The description may have learned of tests since; what the channel signed is the fallback.
    return desk.published.find(image, pointer.release.version) or pointer.release


def require_image(desk: Desk, image: str, known: Iterable[str] = ()) -> None:
    """Refuse an image of which nothing was published.

    Raises:
        UsageError: names what is near, or what to run.
    """
    there = desk.published.images()
    if image in there:
        return
    if image in set(known):
        raise UsageError(
            f"{image} has no release in {desk.store.url} yet",
            hint=f"`recast run {image}` builds, tests and publishes it.",
        )
    raise UsageError(f"there is no image `{image}`", hint=near(image, sorted({*there, *known})))
