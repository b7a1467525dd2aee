"""``recast run``: everything from the commit to tested and published images."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from pipeline.cli.context import Context
from pipeline.cli.publish import require_publishing
from pipeline.errors import Interrupted, RecastError

if TYPE_CHECKING:
    from pipeline.engine.plan import Plan
    from pipeline.engine.stage import Stage


@click.command()
@click.argument("images", nargs=-1, metavar="[IMAGE]...")
@click.option("--since", metavar="REV", help="Only what has changed since this commit.")
@click.option("--refresh", is_flag=True, help="Ask the package archive for news first.")
@click.option("--jobs", type=click.IntRange(1, 64), help="Stages at once; by default as many as "
              "there are cores.")  # fmt: skip
@click.option("--no-test", is_flag=True, help="Build, but do not boot and test.")
@click.option("--publish/--no-publish", "publish", default=None, help="Publish what passed into "
              "the first channel. By default where there is a signed store and a key.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each event.")
def run(
    images: tuple[str, ...],
    since: str | None,
    refresh: bool,
    jobs: int | None,
    no_test: bool,
    publish: bool | None,
    as_json: bool,
) -> None:
    """Build, assemble, scan, test and publish what has changed.

    Without IMAGE, all images. What is done already is not done again, so after a failure or an
    interruption the same command goes on where it stood. Each stage writes a log that
    `recast log` shows.

    What passed its tests is published into the first channel, once the project has a signed store
    (`recast init`) and the keys for that are here.

    With --json each line is an object with `event` (run.started, run.notice, stage.started,
    stage.progress, stage.waiting, stage.finished, run.finished), `run` and `time`; those of
    stages have `image` and `stage`. Fields are only ever added.

    \b
    Example:
      sudo recast run
      sudo recast run edge-web --since origin/main
    """
    from pipeline.cli.carry_out import carry_out

    context = Context.find()
    plan = context.plan(only=images, since=since, refresh=refresh)
    stages = context.build_stages()
    if not no_test:
        stages = (*stages, context.test_stage())
    plan, more = _publishing(context, plan, wanted=publish, tested=not no_test)
    stages = (*stages, *more)
    carry_out(context, plan, stages, command="run", as_json=as_json, jobs=jobs)


def _publishing(
    context: Context, plan: Plan, *, wanted: bool | None, tested: bool
) -> tuple[Plan, tuple[Stage, ...]]:
    """The stage that publishes, or the plan with a note that says why there is none.

    Raises:
        RecastError: it was asked for, and cannot be done.
    """
    if wanted is False or (wanted is None and not tested):
        return plan, ()
    try:
        if context.find_root() is None and not wanted:  # without the libraries that it would take
            note = "not published: there is no signed store yet (`recast init` makes one)"
            return replace(plan, notes=(*plan.notes, note)), ()
        require_publishing(context)
        return plan, (context.publish_stage(),)
    except Interrupted:
        raise
    except RecastError as error:
        if wanted:
            raise
        note = f"not published: {error.message}. {error.hint}".rstrip()
        return replace(plan, notes=(*plan.notes, note)), ()
