"""The history of a channel, as its signed metadata tells it."""

from __future__ import annotations

import itertools
import sys
from typing import TYPE_CHECKING

import click

from pipeline.cli.images import ago
from pipeline.cli.outcomes import print_json
from pipeline.cli.terminal import colour, printable
from pipeline.clock import iso

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from pipeline.channels.desk import Desk
    from pipeline.trust.views import HistoryEntry


def print_history(
    desk: Desk, channel: str, image: str | None, most: int | None, as_json: bool
) -> None:
    """Print what happened to a channel, the newest first.

    Args:
        desk: knows the store.
        channel: its name.
        image: only what was about this image; everything if None.
        most: entries at most; all if None.
        as_json: as JSON.

    Raises:
        UsageError: there is no such channel, or nothing ever happened to that image.
        TrustError: a version is not what the one after it vouches for.
    """
    from pipeline.channels.choose import require_image

    found: Iterator[HistoryEntry] = desk.repository.history(desk.definition(channel).name)
    if image is not None:
        found = (entry for entry in found if about(entry, image))
    entries = itertools.islice(found, most)
    if as_json:
        print_json([entry_data(channel, entry) for entry in entries])
        return
    now, shown = desk.clock(), False
    for entry in entries:
        click.echo(("\n" if shown else "") + printable(entry_text(entry, now), sys.stdout))
        shown = True
    if not shown and image is not None:
        require_image(desk, image)
        click.echo(f"{channel} has never held {image}.")


def about(entry: HistoryEntry, image: str, version: str = "") -> bool:
    """Is a change about that image, and that version of it if one is given?"""
    event = entry.event
    return event.image == image and version in ("", event.version, event.before)


def entry_data(channel: str, entry: HistoryEntry) -> dict[str, object]:
    """A version of a channel as JSON-able data."""
    return {
        "channel": channel,
        "metadata_version": entry.version,
        **entry.event.model_dump(mode="json"),
        "signers": list(entry.signers),
        "frozen": entry.frozen,
    }


def entry_text(entry: HistoryEntry, now: datetime) -> str:
    """A version of a channel, for a person: when, what, who, why, and what the gates said."""
    first, *rest = entry_line(entry, now).split("\n")
    gates = [f"    {gate}" for gate in entry.event.gates]
    return "\n".join([f"{first} (version {entry.version})", *rest, *gates])


def entry_line(entry: HistoryEntry, now: datetime, channel: str = "") -> str:
    """When, what, who and why, in one or two lines."""
    event = entry.event
    what = " ".join(word for word in (event.action, event.image, event.version) if word)
    came = f" (before: {event.before})" if event.before not in ("", event.version) else ""
    who = ", ".join(entry.signers)
    where = f"{channel}: " if channel else ""
    done = f"{where}{colour(what, '', bold=True)}{came}"
    line = f"{iso(event.at)}  {done}, by {who}, {ago(event.at, now)}"
    return f"{line}\n    {event.reason}" if event.reason else line
