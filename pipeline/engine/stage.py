"""What a stage is, and what it is given: one image, in one run.

A stage is one file in ``stages/``. It knows how to do one thing to one image, and whether that has
been done before; the engine knows when to ask it. Stages hand results on through :class:`Work`.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from pipeline.command import Stop
    from pipeline.engine.plan import PlannedImage
    from pipeline.models.image import ImageDefinition
    from pipeline.models.release import Release
    from pipeline.models.settings import Settings
    from pipeline.source import Source

Outcome = Literal["done", "cached"]
"""``done``: the stage did its work. ``cached``: the same work was found done already."""


def _silent(_text: str) -> None:
    """Report progress to nobody."""


def _free(_version: str) -> None:
    """Nothing is published anywhere."""


@dataclass
class Work:
    """Everything about one image in one run.

    The engine sets *log*, *report* and *note* anew before each stage. Stages set only what they
    hand on to the next one, *release_dir* and *release* (by assemble), and *note*. All else stays
    as it was made.

    Attributes:
        project: the folder that holds ``images/``.
        artifacts: the embedded store, its caches and its run records.
        scratch: a folder of this image and run alone; it exists, and is removed afterwards.
        stop: is set when the person wants an end; every program started must obey it.
        definition: the image with what it inherits.
        own: the image as its own file says it.
        planned: what is to be done, and why.
        source: the commit that it is made from.
        settings: the project's settings.
        tree: the folder of the built tree, ``cache/trees/<planned.tree>``; build makes it.
        parent_tree: the same of the parent image, complete; None for a base image.
        log: the running stage's log file.
        release_dir: the release's folder, ``images/<image>/<version>``.
        release: its manifest.
        force: do it again, even if its result is there.
        report: who hears of progress.
        note: what the running stage came to, in a few words; it stays in the run's record.
        run: the id of the run.
        taken: what has a version in the store that releases are published to: its root hash,
            boot digest and build key; None if it is free, as far as that is known.
    """

    project: Path
    artifacts: Path
    scratch: Path
    stop: Stop
    definition: ImageDefinition
    own: ImageDefinition
    planned: PlannedImage
    source: Source
    settings: Settings
    tree: Path
    parent_tree: Path | None = None
    log: IO[str] = field(default_factory=io.StringIO, repr=False)
    release_dir: Path | None = None
    release: Release | None = None
    force: bool = False
    report: Callable[[str], None] = field(default=_silent, repr=False)
    note: str = ""
    run: str = ""
    taken: Callable[[str], tuple[str, str, str] | None] = field(default=_free, repr=False)

    @property
    def image(self) -> str:
        """The image's name."""
        return self.planned.image

    @property
    def folder(self) -> Path:
        """The image's own folder in the project: its files and tests."""
        return self.project / "images" / self.planned.image

    def progress(self, text: str) -> None:
        """Say in a few words what is going on; shown live, never needed for understanding."""
        self.report(text)


class Stage(Protocol):
    """One step of the pipeline.

    A stage leaves either its whole result or nothing under a final name, starts programs only
    through :mod:`pipeline.command` with ``work.stop``, and undoes its mounts and machines before
    it returns or raises. Called again for the same work it finds its result and says ``cached``.
    """

    @property
    def name(self) -> str:
        """One lower-case word: ``build``."""

    @property
    def cores(self) -> int:
        """Processor cores that it keeps busy."""

    @property
    def memory(self) -> int:
        """Memory that it needs at most, in MiB."""

    def run(self, work: Work) -> Outcome:
        """Do it, or find it done.

        Raises:
            Interrupted: ``work.stop`` was set meanwhile.
            RecastError: it cannot be done; the message names the place and the next step.
        """
