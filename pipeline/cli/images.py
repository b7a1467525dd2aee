"""``recast images``: the images and releases of the local store."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import datetime

import click

from pipeline.cli.context import Context, find_artifacts
from pipeline.cli.terminal import colour, fitting_table, printable
from pipeline.clock import iso, now
from pipeline.errors import RecastError
from pipeline.files import format_size
from pipeline.releases import Releases, Stored

_HEADERS = ("image", "version", "root hash", "tests", "size", "built")
_LESS = ("built", "size")  # what a narrow terminal does without, in this order
_SHORT_HASH = 12
_DAY = 86400  # seconds
# From that many seconds on, in units of that many.
_AGES = ((90 * _DAY, 30 * _DAY, "mo"), (_DAY, _DAY, "d"), (3600, 3600, "h"), (60, 60, "m"))


@click.command()
@click.option("--all", "every", is_flag=True, help="List all releases, not only the newest.")
@click.option("--json", "as_json", is_flag=True, help="Print the releases as JSON.")
def images(every: bool, as_json: bool) -> None:
    """List images and their newest releases.

    The root hash says what a machine runs: two releases with one root hash are the same bytes
    to it. The size is what a machine stores of a release: root, verity and boot file.

    \b
    Example:
      recast images --all
    """
    store = Releases(find_artifacts())
    found: list[Stored] = []
    for image in store.images():
        found += store.of(image)[::-1] if every else store.of(image)[-1:]
    unbuilt = _unbuilt({stored.release.image for stored in found})
    if as_json:
        click.echo(json.dumps([as_data(stored) for stored in found], indent=2))
    elif found or unbuilt:
        click.echo(_as_table(found, unbuilt))
    else:
        click.echo("There is no release yet; `recast run` builds every image.")
    for problem in store.problems:
        click.echo(printable(f"passed over: {problem}", sys.stderr), err=True)


def as_data(stored: Stored) -> dict[str, object]:
    """A release in a list, as JSON-able data."""
    release = stored.release
    return {
        "image": release.image,
        "version": release.version,
        "name": release.name,
        "root_hash": release.root_hash,
        "commit": release.commit,
        "dirty": release.dirty,
        "build_key": release.build_key,
        "tests": {v.provider: stored.passed(v.provider) for v in stored.verdicts},
        "size": stored.size,
        "built": iso(stored.built),
        "folder": str(stored.folder),
        "parts": {role: part.model_dump() for role, part in release.parts.items()},
    }


def tests_text(stored: Stored) -> str:
    """``qemu ✓ aws ✗``, or ``–`` when nothing was tested."""
    signs = {
        True: colour(printable("✓"), "green"),
        False: colour(printable("✗"), "red"),
    }
    words = [f"{v.provider} {signs[bool(stored.passed(v.provider))]}" for v in stored.verdicts]
    return " ".join(words) or printable("–")


def ago(moment: datetime, present: datetime) -> str:
    """``now`` (less than a minute), ``5m ago``, ``3h ago``, ``2d ago``, ``4mo ago``."""
    seconds = (present - moment).total_seconds()
    for start, unit, letter in _AGES:
        if seconds >= start:
            return f"{int(seconds // unit)}{letter} ago"
    return "now"


def _unbuilt(built: set[str]) -> list[str]:
    """Defined images without a release; none where there are no valid definitions."""
    try:
        return [name for name in Context.find().catalog.order() if name not in built]
    except RecastError:
        return []  # `recast plan` tells what is wrong; a store can be listed without


def _as_table(found: Sequence[Stored], unbuilt: Sequence[str]) -> str:
    present = now()
    rows: list[dict[str, str]] = [
        {
            "image": stored.release.image,
            "version": stored.release.version,
            "root hash": stored.release.root_hash[:_SHORT_HASH],
            "tests": tests_text(stored),
            "size": format_size(stored.size),
            "built": ago(stored.built, present),
        }
        for stored in found
    ]
    rows += [{"image": image, "version": "not built yet"} for image in unbuilt]
    return fitting_table(rows, _HEADERS, _LESS)
