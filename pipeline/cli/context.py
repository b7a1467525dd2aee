"""Where concrete parts are put together: the project, its store, stages and providers.

The only module that knows which stage and which provider there are; the engine is given them.
Everything is found or made when first asked for, so that a command pays for what it uses.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import HostError, NetworkError, RecastError, TrustError, UsageError

if TYPE_CHECKING:
    from pipeline.channels.desk import Desk
    from pipeline.channels.published import PublishedReleases
    from pipeline.command import Stop
    from pipeline.engine.plan import Plan, PlannedImage
    from pipeline.engine.runs import Runs
    from pipeline.engine.stage import Stage, Work
    from pipeline.models.channel import Channels
    from pipeline.models.image import Catalog
    from pipeline.models.settings import Settings
    from pipeline.providers.base import Booter
    from pipeline.releases import Releases
    from pipeline.source import Source
    from pipeline.store.base import Store
    from pipeline.trust.client import TrustClient
    from pipeline.trust.keys import Keyring
    from pipeline.trust.repository import Repository


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

    @cached_property
    def releases(self) -> Releases:
        """The releases in the store."""
        from pipeline.releases import Releases

        return Releases(self.artifacts)

    @cached_property
    def channels(self) -> Channels:
        """The channels of the project.

        Raises:
            DefinitionError: ``images/channels.yaml`` is not valid.
        """
        from pipeline.definitions import load_channels

        return load_channels(self.project / "images")

    @cached_property
    def store(self) -> Store:
        """The store that releases are published to.

        Raises:
            UsageError: the configured store can only be read, or is of no known kind.
        """
        from pipeline.store.locate import open_store

        return open_store(self.settings.store, self.project, self.artifacts)

    @property
    def keys_folder(self) -> Path:
        """Where private keys are: ``RECAST_KEYS``, or ``artifacts/keys``."""
        given = os.environ.get("RECAST_KEYS")
        return Path(given).absolute() if given else self.artifacts / "keys"

    @cached_property
    def keyring(self) -> Keyring:
        """The keys that this person can sign with."""
        from pipeline.cli.terminal import ask_secret
        from pipeline.trust.keys import Keyring

        return Keyring(self.keys_folder, ask_secret)

    def find_root(self) -> Path | None:
        """The file with the root of trust; None before `recast init`."""
        given = os.environ.get("RECAST_ROOT")
        if given:
            return Path(given).absolute()
        places = (self.project / "images" / "root.json", self.keys_folder / "root.json")
        return next((place for place in places if place.is_file()), None)

    @cached_property
    def trust(self) -> TrustClient:
        """What the store says, verified.

        Raises:
            UsageError: there is no root of trust yet.
            TrustError: it is not valid.
        """
        from pipeline.trust.client import TrustClient

        path = self.find_root()
        if path is None:
            raise UsageError(
                "this project has no signed store yet",
                hint="`recast init` makes its keys and the store. Where it has one already, get "
                "its root.json from a colleague, and put it at images/root.json.",
            )
        root = path.read_bytes()
        from pipeline import digest

        # Its own memory of versions for each store: one that was moved back is noticed.
        name = digest.of_bytes(self.store.url.encode() + root)[:16]
        return TrustClient(self.store, self.artifacts / "cache" / "trust" / name, root)

    @cached_property
    def repository(self) -> Repository:
        """The signed metadata of the store, to change.

        Raises:
            UsageError, TrustError: as :attr:`trust`.
        """
        from pipeline.trust.repository import Repository

        return Repository(
            self.store,
            self.trust,
            self.keyring,
            self.channels,
            single_writer=self.settings.store.single_writer,
        )

    @cached_property
    def published(self) -> PublishedReleases:
        """The releases in the store."""
        from pipeline.channels.published import PublishedReleases

        return PublishedReleases(self.store)

    @cached_property
    def desk(self) -> Desk:
        """Where channels are changed from.

        Raises:
            UsageError, TrustError: as :attr:`trust`.
        """
        from pipeline.channels.desk import Desk

        return Desk(self.store, self.repository, self.published, self.trust, self.channels)

    def known_images(self) -> list[str]:
        """The names of all defined images, for advice; none where definitions are not valid."""
        try:
            return self.catalog.order()
        except RecastError:
            return []  # `recast plan` tells what is wrong

    def plan(
        self, *, only: Sequence[str] = (), since: str | None = None, refresh: bool = False
    ) -> Plan:
        """What is to be built and tested, and why.

        Args:
            only: these images and what they stand on; all when empty.
            since: only what has changed since this commit.
            refresh: ask the package archive for news now.

        Raises:
            RecastError: see :func:`pipeline.engine.look.plan_project`.
        """
        from pipeline.cli.terminal import is_terminal, printable
        from pipeline.engine.look import Question, plan_project

        def say(text: str) -> None:
            if is_terminal(sys.stderr):
                print(printable(f"{text} …", sys.stderr), file=sys.stderr)

        question = Question(tuple(dict.fromkeys(only)), since, refresh)
        return plan_project(
            self.project, self.artifacts, self.catalog, self.settings, question, say
        )

    def make_work(self, planned: PlannedImage, plan: Plan, scratch: Path, stop: Stop) -> Work:
        """What the stages of one image are given; a :class:`pipeline.engine.run.WorkFactory`.

        Raises:
            BuildError: the manifest of the release that the plan names cannot be read.
        """
        from pipeline.engine.stage import Work

        trees = self.artifacts / "cache" / "trees"
        names = {other.image: other.tree for other in plan.images}
        parent = names.get(planned.parent) if planned.parent else None
        version = planned.release
        stored = self.releases.find(planned.image, version) if version else None
        return Work(
            project=self.project,
            artifacts=self.artifacts,
            scratch=scratch,
            stop=stop,
            definition=self.catalog.resolved(planned.image),
            own=self.catalog[planned.image],
            planned=planned,
            source=plan.source,
            settings=self.settings,
            tree=trees / planned.tree,
            parent_tree=trees / parent if parent else None,
            release_dir=stored.folder if stored else None,
            release=stored.release if stored else None,
            taken=lambda version: self._taken(planned.image, version),
        )

    def _taken(self, image: str, version: str) -> tuple[str, str, str] | None:
        """What is published under a version; see :class:`pipeline.engine.stage.Work`."""
        if self.find_root() is None:
            return None
        from pipeline.channels.published import read_description
        from pipeline.store.locate import open_configured

        try:
            store = open_configured(self.settings.store, self.project, self.artifacts)
            described = read_description(store, image, version)
        except (NetworkError, HostError, TrustError):
            return None  # publishing will tell; building needs no store
        if described is None:
            return None
        release, _ = described
        return release.root_hash, release.boot_digest, release.build_key

    def providers(self, only: Sequence[str] = ()) -> dict[str, Booter]:
        """What boots a disk image, by name.

        Args:
            only: the names wanted; all when empty.

        Raises:
            UsageError: one of *only* does not exist.
        """
        from pipeline.providers.qemu import QemuBooter

        known: dict[str, Booter] = {"qemu": QemuBooter(self.settings.accel)}
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

    def reproduce_stage(self, images: Sequence[str]) -> Stage:
        """What builds each of *images* a second time and compares."""
        from stages.reproduce import ReproduceStage

        return ReproduceStage(images)

    def test_stage(self, providers: Sequence[str] = ()) -> Stage:
        """What boots a release and tests it.

        Args:
            providers: the names of those that may be used; all when empty.

        Raises:
            UsageError: there is no such provider.
        """
        from stages.test import TestStage

        return TestStage(self.providers(providers))

    def publish_stage(self, *, enter: bool = True, jobs: int | None = None) -> Stage:
        """What signs, uploads, and moves the first channel.

        Args:
            enter: move the first channel as well.
            jobs: uploads at once.

        Raises:
            UsageError, TrustError: as :attr:`trust`.
        """
        from pipeline.channels.publish import JOBS
        from stages.publish import PublishStage

        return PublishStage(self.desk, self.keyring, enter=enter, jobs=jobs or JOBS)
