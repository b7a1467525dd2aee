"""``recast run``: everything from the commit to tested images."""

from __future__ import annotations

import click

from pipeline.cli.context import Context


@click.command()
@click.argument("images", nargs=-1, metavar="[IMAGE]...")
@click.option("--since", metavar="REV", help="Only what has changed since this commit.")
@click.option("--refresh", is_flag=True, help="Ask the package archive for news first.")
@click.option("--jobs", type=click.IntRange(1, 64), help="Stages at once; by default as many as "
              "there are cores.")  # fmt: skip
@click.option("--no-test", is_flag=True, help="Build, but do not boot and test.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each event.")
def run(
    images: tuple[str, ...],
    since: str | None,
    refresh: bool,
    jobs: int | None,
    no_test: bool,
    as_json: bool,
) -> None:
    """Build, assemble, scan and test what has changed.

    Without IMAGE, all images. What is done already is not done again, so after a failure or an
    interruption the same command goes on where it stood. Each stage writes a log that
    `recast log` shows.

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
    carry_out(context, plan, stages, command="run", as_json=as_json, jobs=jobs)
