"""``recast build``: images without their tests, and the proof that builds are reproducible."""

from __future__ import annotations

import click

from pipeline.cli.context import Context


@click.command()
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option("--check-reproducible", "check", is_flag=True,
              help="Build twice, differently placed, and compare.")  # fmt: skip
@click.option("--force", is_flag=True, help="Build again, even if nothing has changed.")
@click.option("--refresh", is_flag=True, help="Ask the package archive for news first.")
@click.option("--jobs", type=click.IntRange(1, 64), help="Stages at once.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each event.")
def build(
    images: tuple[str, ...],
    check: bool,
    force: bool,
    refresh: bool,
    jobs: int | None,
    as_json: bool,
) -> None:
    """Build and assemble images, without testing them.

    Parents that are not built yet are built first. With --check-reproducible each IMAGE is built
    a second time, in another folder, and every file that differs from its release is named.

    \b
    Example:
      sudo recast build edge-web
      sudo recast build edge-base --check-reproducible
    """
    from pipeline.cli.carry_out import carry_out

    context = Context.find()
    plan = context.plan(only=images, since=None, refresh=refresh)
    stages = context.build_stages()
    if check:
        stages = (*stages, context.reproduce_stage(images))
    carry_out(
        context,
        plan,
        stages,
        command="build",
        as_json=as_json,
        jobs=jobs,
        force=images if force else (),
        trees=images if check else (),
    )
