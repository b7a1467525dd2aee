"""``recast test``: prove a release that is there already."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.cli.context import Context

if TYPE_CHECKING:
    from pipeline.command import Stop
    from pipeline.engine.plan import Plan, PlannedImage
    from pipeline.engine.stage import Work


@click.command()
@click.argument("releases", nargs=-1, required=True, metavar="IMAGE[@VERSION]...")
@click.option("--provider", "providers", multiple=True, help="Where; by default wherever the "
              "image's definition says. May be given several times.")  # fmt: skip
@click.option("--jobs", type=click.IntRange(1, 64), help="Stages at once.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each event.")
def test(
    releases: tuple[str, ...], providers: tuple[str, ...], jobs: int | None, as_json: bool
) -> None:
    """Boot releases in virtual machines and test them.

    The tests are those that are in images/ now. They run even if they have passed before.
    Without a version, an image's newest release. The console, the report and the log of each
    test are kept in the run's folder.

    \b
    Example:
      recast test edge-web
      recast test edge-web@20260301.120000.g1a2b3c4d5e6f --provider qemu
    """
    from pipeline.cli.carry_out import carry_out, plan_releases
    from pipeline.engine.plan import Plan

    context = Context.find()
    stage = context.test_stage(providers)
    found = [
        context.releases.resolve(words, context.catalog.order())
        for words in dict.fromkeys(releases)
    ]
    plan = Plan(plan_releases(context, [each.release for each in found]), context.source)

    def make_work(image: PlannedImage, plan: Plan, scratch: Path, stop: Stop) -> Work:
        work = context.make_work(image, plan, scratch, stop)
        if not providers:
            return work
        tests = work.definition.tests.model_copy(update={"providers": tuple(providers)})
        return replace(work, definition=work.definition.model_copy(update={"tests": tests}))

    carry_out(
        context, plan, (stage,), command="test", as_json=as_json, jobs=jobs,
        force=tuple(each.image for each in plan.images), make_work=make_work,
    )  # fmt: skip
