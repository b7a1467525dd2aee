"""``recast releases``: the published releases of an image, and where each stands."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import click

from pipeline.cli.context import Context
from pipeline.cli.images import ago
from pipeline.cli.outcomes import print_json
from pipeline.cli.terminal import colour, fitting_table, printable
from pipeline.clock import iso
from pipeline.files import format_size

if TYPE_CHECKING:
    from pipeline.channels.desk import Desk
    from pipeline.channels.facts import Examined
    from pipeline.models.pointer import PublishedRelease
    from pipeline.trust.views import ChannelView

_HEADERS = ("version", "root hash", "channels", "tests", "size", "download", "created", "marks")
_LESS = ("created", "download", "size")  # what a narrow terminal does without, in this order
_SHORT_HASH = 12
_MANY = 20
_AT_ONCE = 4  # releases whose evidence is looked at at a time


@dataclass(frozen=True)
class _Standing:
    """A release and where it stands."""

    release: PublishedRelease
    channels: tuple[str, ...]
    revoked: Mapping[str, str]  # reason by channel
    tests: Mapping[str, bool | None]  # None: there is a result, and it is not to be believed


@click.command()
@click.argument("image")
@click.option("--all", "every", is_flag=True, help=f"List all, not only the newest {_MANY}.")
@click.option("--json", "as_json", is_flag=True, help="Print the releases as JSON.")
def releases(image: str, every: bool, as_json: bool) -> None:
    """List the published releases of an image, the newest first.

    Tests are those whose signed results were verified just now: ✓ passed, ✗ failed, ? not to be
    believed. The size is what a machine stores, the download what a site fetches at most.

    \b
    Example:
      recast releases edge-web
    """
    from pipeline.channels.choose import require_image

    context = Context.find()
    desk = context.desk
    found = desk.published.of(image)[::-1]
    if not found:
        require_image(desk, image, context.known_images())
    shown = found if every else found[:_MANY]
    standings = list(_standings(desk, shown))
    if as_json:
        print_json([_as_data(each) for each in standings])
    elif standings:
        click.echo(printable(_as_table(standings, desk.clock()), sys.stdout))
        if len(found) > len(shown):
            click.echo(f"and {len(found) - len(shown)} older: `--all` lists them")
    for problem in desk.published.problems:
        click.echo(printable(f"passed over: {problem}", sys.stderr), err=True)


def tests_of(evidence: Sequence[Examined]) -> dict[str, bool | None]:
    """By provider: did they pass? None where the result is not to be believed."""
    from pipeline.trust.attestations import VerifiedTest

    tests: dict[str, bool | None] = {}
    for each in evidence:
        if isinstance(each.verified, VerifiedTest):
            tests[each.evidence.provider] = each.verified.passed
        elif each.evidence.kind == "test":
            tests.setdefault(each.evidence.provider, None)
    return tests


def tests_text(tests: Mapping[str, bool | None]) -> str:
    """``qemu ✓ aws ✗``."""
    signs = {True: colour("✓", "green"), False: colour("✗", "red"), None: colour("?", "red")}
    return " ".join(f"{name} {signs[passed]}" for name, passed in tests.items())


def held_by(views: Sequence[ChannelView], release: PublishedRelease) -> tuple[str, ...]:
    """The channels that hold a release now."""
    return tuple(
        view.name
        for view in views
        if (pointer := view.pointers.get(release.image)) is not None
        and pointer.release is not None
        and pointer.release.version == release.version
    )


def revoked_in(views: Sequence[ChannelView], release: PublishedRelease) -> dict[str, str]:
    """By channel that refuses a release: the reason."""
    reasons: dict[str, str] = {}
    for view in views:
        pointer = view.pointers.get(release.image)
        found = pointer.revocation(release.version, release.root_hash) if pointer else None
        if found is not None:
            reasons[view.name] = found.reason
    return reasons


def _standings(desk: Desk, found: Sequence[PublishedRelease]) -> Iterator[_Standing]:
    from pipeline.channels.facts import look_at

    views = desk.views_that_are()
    desk.client.check()  # once, before threads ask it

    def look(release: PublishedRelease) -> _Standing:
        evidence = list(look_at(desk, release, "test"))
        return _Standing(
            release, held_by(views, release), revoked_in(views, release), tests_of(evidence)
        )

    with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
        yield from pool.map(look, found)


def _as_data(standing: _Standing) -> dict[str, object]:
    release = standing.release
    return {
        "image": release.image,
        "version": release.version,
        "name": release.name,
        "root_hash": release.root_hash,
        "commit": release.commit,
        "dirty": release.dirty,
        "created": iso(release.created),
        "channels": list(standing.channels),
        "tests": dict(standing.tests),
        "revoked": dict(standing.revoked),
        "size": release.machine_size,
        "download_size": release.download_size,
    }


def _as_table(standings: Sequence[_Standing], now: datetime) -> str:
    rows = [
        {
            "version": each.release.version,
            "root hash": each.release.root_hash[:_SHORT_HASH],
            "channels": " ".join(each.channels),
            "tests": tests_text(each.tests),
            "size": format_size(each.release.machine_size),
            "download": format_size(each.release.download_size),
            "created": ago(each.release.created, now),
            "marks": colour("revoked", "red") if each.revoked else "",
        }
        for each in standings
    ]
    return fitting_table(rows, _HEADERS, _LESS)
