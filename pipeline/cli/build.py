"""``recast build``: images without their tests, and the proof that builds are reproducible."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import click

from pipeline.cli.context import Context
from pipeline.errors import BuildError

if TYPE_CHECKING:
    from pipeline.engine.stage import Outcome, Work

_SHOWN = 20


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
    twice more, in other folders and under another host name, and every file that differs is
    named.

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
        stages = (*stages, ReproducibilityStage(images))
    carry_out(
        context,
        plan,
        stages,
        command="build",
        as_json=as_json,
        jobs=jobs,
        force=images if force else (),
    )


class ReproducibilityStage:
    """Builds an image twice from the same inputs, and fails if a byte differs.

    Args:
        images: those that are checked; their parents only serve.
    """

    name = "reproduce"
    cores = 1
    memory = 1024

    def __init__(self, images: Collection[str]) -> None:
        self._images = frozenset(images)

    def run(self, work: Work) -> Outcome:
        """Build twice and compare.

        Raises:
            BuildError: the builds differ; names the files.
        """
        if work.image not in self._images:
            return "cached"
        from stages.build import check_reproducible

        different = list(check_reproducible(work))
        if different:
            more = len(different) - _SHOWN
            raise BuildError(
                f"two builds of {work.image} differ in {len(different)} "
                f"file{'' if len(different) == 1 else 's'}:\n"
                + "\n".join(f"    {path}" for path in different[:_SHOWN])
                + (f"\n    and {more} more, all in the log" if more > 0 else ""),
                hint="An element writes something of chance into them: a time, a random number, "
                "an order. Make it constant, or remove the file.",
            )
        work.progress("two builds are equal")
        return "done"
