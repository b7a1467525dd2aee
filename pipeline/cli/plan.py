"""``recast plan``: what would be built, in which order, and why."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import click

from pipeline import digest
from pipeline.cli.context import Context
from pipeline.cli.terminal import colour, duration, printable, table
from pipeline.clock import iso, now

if TYPE_CHECKING:
    from pipeline.engine.plan import Plan, PlannedImage

_HEADERS = ("image", "action", "tests", "why")


@click.command()
@click.argument("images", nargs=-1, metavar="[IMAGE]...")
@click.option("--since", metavar="REV", help="Only what has changed since this commit.")
@click.option("--refresh", is_flag=True, help="Ask the package archive for news first.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
def plan(images: tuple[str, ...], since: str | None, refresh: bool, as_json: bool) -> None:
    """Show what would be built, in which order, and why.

    With IMAGE, only that and what it stands on. With --since, only what a push touched and what
    stands on that. The package archive is asked when the last look is older than
    `archive_max_age` in images/settings.yaml (24h), or with --refresh. Nothing is built.

    \b
    Example:
      recast plan
      recast plan edge-web --refresh
      recast plan --since origin/main --json
    """
    found = Context.find().plan(only=images, since=since, refresh=refresh)
    if as_json:
        click.echo(json.dumps(as_data(found), indent=2))
        return
    click.echo(printable(as_text(found, since), sys.stdout))
    for note in found.notes:
        click.echo(printable(f"Note: {note}", sys.stderr), err=True)


def as_data(plan: Plan) -> dict[str, object]:
    """A plan as JSON-able data."""
    return {
        "version": plan.source.version,
        "commit": plan.source.commit,
        "dirty": plan.source.dirty is not None,
        "images": [
            {
                "image": planned.image,
                "action": planned.action,
                "test": planned.test,
                "reasons": list(planned.reasons),
                "parent": planned.parent,
                "release": planned.release,
                "build_key": planned.build_key,
                "tests_digest": planned.tests_digest,
            }
            for planned in plan.images
        ],
        "families": families(plan),
        "untouched": list(plan.untouched),
        "archives": {name: at and iso(at) for name, at in plan.archives.items()},
        "notes": list(plan.notes),
        "seconds": round(plan.seconds, 3),
    }


def families(plan: Plan) -> list[dict[str, object]]:
    """What may be worked on apart: base images with all that stands on them and has work to do.

    Returns:
        For each: ``name`` (the base image), ``images`` (those to build or test, parents first), and
        ``key``, a digest over their build keys, for caches.
    """
    base: dict[str, str] = {}
    for planned in plan.images:  # parents come first
        base[planned.image] = base.get(planned.parent or "", planned.parent or planned.image)
    found: list[dict[str, object]] = []
    for name in dict.fromkeys(base.values()):
        members = [planned for planned in plan.images if base[planned.image] == name]
        todo = [p.image for p in members if p.action == "build" or p.test]
        if todo:
            key = digest.of_data([planned.build_key for planned in members])
            found.append({"name": name, "images": todo, "key": key})
    return found


def as_text(plan: Plan, since: str | None = None) -> str:
    """A plan for a person: a table in order, a line that counts, one for each archive."""
    lines = []
    if plan.images:
        rows = [_row(planned) for planned in plan.images]
        lines += [table(rows, [header.upper() for header in _HEADERS]), ""]
    lines.append(_counts(plan, since))
    lines += [_age(name, at, now()) for name, at in plan.archives.items()]
    return "\n".join(lines)


def _row(planned: PlannedImage) -> Sequence[str]:
    builds = planned.action == "build"
    return (
        planned.image,
        colour(planned.action, "yellow" if builds else "green"),
        colour("run", "yellow") if planned.test else colour("passed", "green"),
        "; ".join(planned.reasons),
    )


def _counts(plan: Plan, since: str | None) -> str:
    builds, tests = len(plan.builds), sum(planned.test for planned in plan.images)
    parts = [
        f"{builds} to build",
        f"{tests} to test",
        f"{len(plan.images) - builds} unchanged",
    ]
    if since is not None:
        parts.append(f"{len(plan.untouched)} not touched since {since}")
    return f"{', '.join(parts)} ({duration(plan.seconds)}). Version {plan.source.version}"


def _age(name: str, looked_at: datetime | None, present: datetime) -> str:
    if looked_at is None:
        return f"Archive of {name}: not asked yet."
    age = (present - looked_at).total_seconds()
    when = "just now" if age < 60 else f"{duration(age)} ago"
    return f"Archive of {name}: asked {when}."
