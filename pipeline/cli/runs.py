"""``recast runs``: what was run, when, and how it ended."""

from __future__ import annotations

import json

import click

from pipeline.cli.context import find_artifacts
from pipeline.cli.terminal import colour, duration, table
from pipeline.clock import iso, now
from pipeline.engine.runs import Runs
from pipeline.models.run import RunRecord

_COLOURS = {"passed": "green", "failed": "red", "interrupted": "yellow", "running": "cyan"}
_MANY = 20


@click.command()
@click.option("--all", "every", is_flag=True, help=f"List all, not only the last {_MANY}.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole records as JSON.")
def runs(every: bool, as_json: bool) -> None:
    """List past and present runs, the newest first.

    \b
    Example:
      recast runs
    """
    store = Runs(find_artifacts() / "runs")
    found = store.list() if every else store.list(_MANY)
    if as_json:
        click.echo(json.dumps([record.model_dump(mode="json") for record in found], indent=2))
    elif found:
        headers = ("id", "when", "command", "commit", "outcome", "duration", "images")
        click.echo(table([_row(record) for record in found], headers))
    else:
        click.echo("There has been no run yet; `recast run` makes the first.")


def _row(record: RunRecord) -> tuple[str, ...]:
    seconds = record.seconds
    if seconds is None and record.outcome == "running":
        seconds = (now() - record.started).total_seconds()
    return (
        record.id,
        iso(record.started),
        record.command,
        record.commit[:12] + ("+" if ".dirty." in record.version else ""),
        colour(record.outcome, _COLOURS[record.outcome]),
        "-" if seconds is None else duration(seconds),
        ", ".join(f"{name} {image.status}" for name, image in record.images.items()),
    )
