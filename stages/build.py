"""Build the root tree of an image with diskimage-builder: ``cache/trees/<key>/tree.tar``."""

from __future__ import annotations

import shutil
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import clock, packages
from pipeline.dib.archive import open_archive
from pipeline.dib.create import create_tree
from pipeline.dib.request import tree_request
from pipeline.disk.assemble import Sizes
from pipeline.engine.plan import settle
from pipeline.engine.records import BuildRecord, Records
from pipeline.files import give_name, require_space

if TYPE_CHECKING:
    from pipeline.engine.stage import Outcome, Work

_SPACE = 6 << 30  # bytes; a tree, its parent's, packages, and the disk to come


class BuildStage:
    """The stage ``build``."""

    name = "build"
    cores = 1
    memory = 3072  # MiB; diskimage-builder works in a tmpfs where there is memory for it

    def run(self, work: Work) -> Outcome:
        """Build the tree, or find that it has been built.

        Raises:
            BuildError: a hook failed.
            NetworkError: the package archive, or the index of the agent's libraries, could not be
                reached.
            TrustError: the index offers other libraries than are locked.
            DiskFullError: the disk is, or would become, full.
            Interrupted: a stop was asked for.
        """
        tar = work.tree / "tree.tar"
        if tar.is_file() and not work.force:
            work.log.write(f"The tree is there already: {work.tree.name}\n")
            return "cached"
        require_space(work.artifacts, _SPACE)
        started = clock.now()
        scratch = work.scratch / "build"
        scratch.mkdir()
        request = tree_request(
            work.definition,
            project=work.project,
            elements=work.planned.components.elements,
            files=work.planned.components.files,
            agent=work.planned.components.agent,
            settings=work.settings,
            parent_tree=work.parent_tree / "tree.tar" if work.parent_tree else None,
            sizes=Sizes.of_budget(work.own.budget.root, work.own.budget.esp).as_dict(),
        )
        work.progress("diskimage-builder")
        made, manifests = create_tree(
            request,
            scratch=scratch,
            package_cache=work.artifacts / "cache" / "dib",
            agent_cache=work.artifacts / "cache" / "agent",
            log=work.log,
            stop=work.stop,
            progress=work.progress,
        )
        work.progress("reading packages")
        self._keep(work, made, manifests, started)
        shutil.rmtree(scratch)
        return "done"

    def _keep(self, work: Work, made: Path, manifests: Path, started: datetime) -> None:
        """Put the tree where its plan said, and record what it was made of."""
        folder = work.scratch / "tree"  # the scratch folder: a kill leaves nothing elsewhere
        folder.mkdir()
        tar = folder / "tree.tar"
        shutil.move(made, tar)
        shutil.move(manifests, folder / "dib-manifests")
        versions = {p.name: p.version for p in packages.from_tree(tar)}
        inherited: dict[str, str] = {}
        parent_key = None
        records = Records(work.artifacts)
        if work.parent_tree is not None and work.planned.parent is not None:
            above = packages.from_tree(work.parent_tree / "tree.tar")
            inherited = {p.name: p.version for p in above}
            built = [r for r in records.of(work.planned.parent) if r.tree == work.parent_tree.name]
            parent_key = built[0].build_key if built else None
        archive = open_archive(work.definition, work.settings, work.artifacts / "cache/archive")
        offered = {name: found.version for name, found in archive.candidates(versions).items()}
        components = settle(
            work.planned.components,
            versions,
            inherited=inherited,
            parent_key=parent_key,
            offered=offered,
        )
        if work.tree.exists():
            shutil.rmtree(work.tree)
        give_name(folder, work.tree)
        records.add(
            BuildRecord(
                image=work.image,
                build_key=components.key,
                components=components,
                tree=work.tree.name,
                built=clock.now(),
                run=work.run,
                started=started,
            )
        )
