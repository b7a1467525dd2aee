"""Which release a person means, be it here, in the signed store, or in both."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from pipeline.cli.terminal import printable
from pipeline.errors import RecastError, UsageError
from pipeline.releases import split

if TYPE_CHECKING:
    from pipeline.cli.context import Context
    from pipeline.models.pointer import PublishedRelease
    from pipeline.models.release import Release
    from pipeline.releases import Stored


@dataclass(frozen=True)
class Found:
    """A release that a person named.

    Attributes:
        release: its manifest.
        stored: where its files are; None if it is in the signed store alone.
        published: what the signed store says of it; None if it has not got it.
    """

    release: Release
    stored: Stored | None
    published: PublishedRelease | None


def find_release(context: Context, words: str) -> Found:
    """The release that *words* mean: what is here first, then what is in the signed store.

    A store that cannot be read is told of on standard error, if the release is here.

    Raises:
        UsageError: there is no such release, or more than one; names what is near.
        RecastError: what there is cannot be read.
    """
    known = context.known_images()
    try:
        stored = context.releases.resolve(words, known)
    except UsageError:
        published = find_published(context, words, known)
        if published is None:
            raise
        return Found(context.published.manifest(published), None, published)
    release = stored.release
    try:
        there = context.find_root() is not None
        published = context.published.find(release.image, release.version) if there else None
    except RecastError as error:
        note = f"Note: the store is left out: {error.message}"
        click.echo(printable(note, sys.stderr), err=True)
        published = None
    return Found(release, stored, published)


def find_published(context: Context, words: str, known: Sequence[str]) -> PublishedRelease | None:
    """What the signed store knows of a release that is not here; None if it has not got it.

    Args:
        context: the project.
        words: what was typed.
        known: names of the defined images.

    Raises:
        UsageError: only the store has releases of that image, and none is called so.
        RecastError: there is a store, and it cannot be read.
    """
    if context.find_root() is None:
        return None
    image = split(words)[0]
    try:
        return context.published.resolve(words, known)
    except UsageError:
        if not context.releases.of(image) and image in context.published.images():
            raise
        return None  # what is here says better what is near
