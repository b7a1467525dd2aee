"""Where concrete parts are put together: the project, its store, stages and providers.

The only module that knows which stage and which provider there are; the engine is given them.
Everything is found or made when first asked for, so that a command pays for what it uses.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import command
from pipeline.errors import HostError, UsageError

if TYPE_CHECKING:
    from pipeline.engine.runs import Runs
    from pipeline.engine.stage import Stage
    from pipeline.models.image import Catalog
    from pipeline.models.settings import Settings
    from pipeline.providers.base import Booter
    from pipeline.source import Source


def find_project() -> Path:
    """The project's folder: ``RECAST_PROJECT``, or the nearest one above with ``images/``.

    Raises:
        UsageError: there is none.
    """
    from pipeline.definitions import find_project as search

    given = os.environ.get("RECAST_PROJECT")
    if not given:
        return search(Path.cwd())
    project = Path(given).absolute()
    if not (project / "images").is_dir():
        raise UsageError(
            f"RECAST_PROJECT names {project}, where there is no folder `images/`",
            hint="Point it at the folder that holds `images/`, or unset it.",
        )
    return project


def find_artifacts(project: Path | None = None) -> Path:
    """The embedded store's folder: ``RECAST_ARTIFACTS``, or ``artifacts/`` in the project."""
    given = os.environ.get("RECAST_ARTIFACTS")
    return Path(given).absolute() if given else (project or find_project()) / "artifacts"


@dataclass(frozen=True)
class Context:
    """One project, as a command sees it."""

    project: Path
    artifacts: Path

    @classmethod
    def find(cls) -> Context:
        """The context of the current folder and environment.

        Raises:
            UsageError: there is no project here.
        """
        project = find_project()
        return cls(project, find_artifacts(project))

    @cached_property
    def catalog(self) -> Catalog:
        """All image definitions.

        Raises:
            DefinitionError: something in ``images/`` is not valid.
        """
        from pipeline.definitions import load_catalog

        return load_catalog(self.project / "images")

    @cached_property
    def settings(self) -> Settings:
        """The project's settings.

        Raises:
            DefinitionError: ``images/settings.yaml`` is not valid.
        """
        from pipeline.definitions import load_settings

        return load_settings(self.project / "images")

    @cached_property
    def source(self) -> Source:
        """The commit that the project stands at."""
        from pipeline.source import read

        return read(self.project)

    @cached_property
    def runs(self) -> Runs:
        """The records of runs."""
        from pipeline.engine.runs import Runs

        return Runs(self.artifacts / "runs")

    def image_names(self, words: Sequence[str]) -> tuple[str, ...]:
        """*words*, each the name of an image of this project.

        Raises:
            UsageError: one is not; names the nearest that is.
        """
        for word in words:
            if word not in self.catalog.images:
                raise UsageError(f"there is no image `{word}`", hint=self._near(word))
        return tuple(dict.fromkeys(words))

    def _near(self, word: str) -> str:
        import difflib

        names = list(self.catalog.images)
        near = difflib.get_close_matches(word, names, n=1)
        if near:
            return f"Did you mean `{near[0]}`?"
        return f"There are: {', '.join(names)}." if names else "`images/` holds none yet."

    def providers(self, only: Sequence[str] = ()) -> dict[str, Booter]:
        """What boots a disk image, by name.

        Args:
            only: the names wanted; all when empty.

        Raises:
            UsageError: one of *only* does not exist.
        """
        from pipeline.providers.qemu import Qemu

        known: dict[str, Booter] = {
            "qemu": Qemu(accel=self.settings.accel, cache=self.artifacts / "cache")
        }
        for name in only:
            if name not in known:
                raise UsageError(
                    f"there is no provider `{name}`", hint=f"There are: {', '.join(known)}."
                )
        return {name: known[name] for name in (only or known)}

    def build_stages(self) -> tuple[Stage, ...]:
        """What makes a release of an image, in order."""
        from stages.assemble import AssembleStage
        from stages.build import BuildStage
        from stages.scan import ScanStage

        return (BuildStage(), AssembleStage(), ScanStage())

    def test_stage(self, providers: Sequence[str] = (), *, keep: bool = False) -> Stage:
        """What boots a release and tests it.

        Args:
            providers: where; by default wherever each image's definition says.
            keep: leave the machine's files where they are.
        """
        from stages.test import TestStage

        return TestStage(self.providers(providers))


def require_root(what: str) -> None:
    """Refuse what only root can do, before anything has started.

    Raises:
        HostError: we are not root.
    """
    if os.geteuid() != 0:
        raise HostError(
            f"{what} needs root (it makes chroots and loop devices)",
            hint="Run it with `sudo`; a built release can be tested without.",
        )


def require_programs(names: Sequence[str]) -> None:
    """Refuse to start what would fail for a missing program an hour later.

    Raises:
        HostError: names every missing program, and the packages that bring them.
    """
    missing = []
    for name in names:
        try:
            command.find(name)
        except HostError:
            missing.append(name)
    if missing:
        packages = sorted({command.PACKAGES.get(name, name) for name in missing})
        raise HostError(
            f"{'these programs are' if len(missing) > 1 else 'this program is'} not installed: "
            + ", ".join(missing),
            hint=f"Install with `apt-get install {' '.join(packages)}`; `recast doctor` checks "
            "everything.",
        )
