"""Prove that a build is reproducible: make it again elsewhere, and compare every byte."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from typing import TYPE_CHECKING

from pipeline.dib.create import create_tree
from pipeline.dib.request import tree_request
from pipeline.disk import assemble, compare
from pipeline.errors import BuildError

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.engine.stage import Outcome, Work
    from pipeline.models.release import Release

_SHOWN = 20


class ReproduceStage:
    """Builds an image a second time from the same inputs, and fails if a byte differs.

    Args:
        images: those that are checked; their parents only serve.
    """

    name = "reproduce"
    cores = 1
    memory = 3072  # MiB

    def __init__(self, images: Collection[str]) -> None:
        self._images = frozenset(images)

    def run(self, work: Work) -> Outcome:
        """Build again and compare with the release.

        Raises:
            BuildError: the builds differ; names the files.
        """
        release = work.release
        if work.image not in self._images or release is None:
            return "cached"
        scratch = work.scratch / "reproduce"
        scratch.mkdir()
        work.progress("building a second time")
        sizes = assemble.Sizes.of_budget(work.own.budget.root, work.own.budget.esp)
        request = tree_request(
            work.definition,
            project=work.project,
            elements=work.planned.components.elements,
            files=work.planned.components.files,
            agent=work.planned.components.agent,
            settings=work.settings,
            parent_tree=work.parent_tree / "tree.tar" if work.parent_tree else None,
            sizes=sizes.as_dict(),
        )
        tar, _ = create_tree(
            request,
            scratch=scratch,
            package_cache=work.artifacts / "cache" / "dib",
            agent_cache=work.artifacts / "cache" / "agent",
            log=work.log,
            stop=work.stop,
            progress=work.progress,
        )
        work.progress("comparing")
        second = self._assemble(work, tar, scratch / "second", release, sizes)
        differing = [role for role, found in second.items() if found != release.parts[role].digest]
        if not differing:
            work.log.write("".join(f"{role} {found}\n" for role, found in second.items()))
            work.progress("equal: " + ", ".join(second))
            shutil.rmtree(scratch)
            return "done"
        files = self._differences(work, tar, scratch)
        raise _explain(work.image, differing, files)

    def _assemble(
        self, work: Work, tar: Path, folder: Path, release: Release, sizes: assemble.Sizes
    ) -> dict[str, str]:
        folder.mkdir()
        budget = work.own.budget
        parts = assemble.make_root(
            tar, folder, image=work.image, budget=budget.root, log=work.log, stop=work.stop
        )
        files = assemble.make_boot_files(
            parts,
            assemble.Naming(release.image, release.version, release.name),
            arguments=work.definition.kernel_arguments,
            sizes=sizes,
            budget=budget.uki,
            log=work.log,
            stop=work.stop,
        )
        return assemble.digests(parts, files)

    def _differences(self, work: Work, tar: Path, scratch: Path) -> list[str]:
        work.progress("finding the files that differ")
        found = []
        for name, source in (("one", work.tree / "tree.tar"), ("two", tar)):
            folder = scratch / name
            folder.mkdir()
            found.append(
                assemble.make_root(
                    source,
                    folder,
                    image=work.image,
                    budget=work.own.budget.root,
                    log=work.log,
                    stop=work.stop,
                )
            )
        files = compare.trees(found[0].tree, found[1].tree)
        files += compare.initrds(found[0].initrd, found[1].initrd)
        work.log.write("\n".join(files) + "\n")
        return files


def _explain(image: str, parts: list[str], files: list[str]) -> BuildError:
    shown = "".join(f"\n    {line}" for line in files[:_SHOWN])
    more = f"\n    and {len(files) - _SHOWN} more, all in the log" if len(files) > _SHOWN else ""
    return BuildError(
        f"two builds of {image} differ ({', '.join(parts)}):{shown}{more}",
        hint="An element writes something of chance into them: a time, a random number, an "
        "order. Make it constant, or remove the file.",
    )
