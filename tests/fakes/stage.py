"""Stages, plans and monitors that do nothing real: for whoever tests what runs them.

A :class:`FakeStage` has named faults, and its programs are real ones when it is told to start
some. It keeps its results where a real stage would, so that a second run finds them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pipeline import command
from pipeline.command import Stop
from pipeline.engine.monitor import Event
from pipeline.engine.plan import Plan, PlannedImage
from pipeline.engine.records import Components
from pipeline.engine.run import WorkFactory
from pipeline.engine.stage import Outcome, Work
from pipeline.errors import BuildError
from pipeline.models.image import ImageDefinition
from pipeline.models.release import Release
from pipeline.models.settings import Settings
from pipeline.source import Source

SOURCE = Source(commit="1a2b3c4d5e6f" + "0" * 28, time=datetime(2026, 3, 1, 12, tzinfo=UTC))

Fault = Literal["fails", "breaks", "is-interrupted", "hangs", "lingers"]
"""``fails``: a BuildError. ``breaks``: an error that is nobody's class. ``hangs``: until a stop.
``lingers``: a good while longer than that."""


def planned(
    image: str,
    parent: str | None = None,
    *,
    action: Literal["build", "unchanged"] = "build",
    test: bool = True,
) -> PlannedImage:
    """One image of a plan."""
    components = Components(definition={"name": image})
    return PlannedImage(
        image=image,
        action=action,
        reasons=("definition changed: packages",) if action == "build" else ("unchanged",),
        build_key=components.key,
        parent=parent,
        release=SOURCE.version if action == "unchanged" else None,
        tests_digest="0" * 64,
        test=test,
        components=components,
        tree=components.key,
    )


def plan_of(parents: Mapping[str, str | None]) -> Plan:
    """A plan that builds all of these; parents come first."""
    return Plan(tuple(planned(image, parent) for image, parent in parents.items()), SOURCE)


def release_of(image: str) -> Release:
    """A release of *image*, without files."""
    return Release(
        image=image,
        version=SOURCE.version,
        arch="amd64",
        commit=SOURCE.commit,
        dirty=False,
        created=SOURCE.time,
        build_key="1" * 64,
        parent=None,
        root_hash="2" * 64,
        parts={},
        definition_digest="3" * 64,
        packages=(),
        tools={},
        kernel_arguments=(),
        boot_digest="4" * 64,
    )


def work_factory(artifacts: Path) -> WorkFactory:
    """What makes the work of an image; an unchanged one has its release."""

    def make(planned: PlannedImage, plan: Plan, scratch: Path, stop: Stop) -> Work:
        definition = ImageDefinition(name=planned.image, distribution="debian", release="trixie")
        trees = artifacts / "cache" / "trees"
        return Work(
            project=artifacts.parent,
            artifacts=artifacts,
            scratch=scratch,
            stop=stop,
            definition=definition,
            own=definition,
            planned=planned,
            source=plan.source,
            settings=Settings(),
            tree=trees / planned.tree,
            parent_tree=trees / plan[planned.parent].tree if planned.parent else None,
            release=release_of(planned.image) if planned.action == "unchanged" else None,
        )

    return make


@dataclass
class FakeStage:
    """A stage that takes its time, remembers what it did, and fails on request.

    Attributes:
        faults: what goes wrong, by image.
        seconds: how long it takes.
        program: a program to run to its end instead of waiting.
        calls: the images that it really worked on, in order.
    """

    name: str
    cores: int = 1
    memory: int = 100
    faults: dict[str, Fault] = field(default_factory=dict)
    seconds: float = 0.0
    program: Sequence[str] = ()
    calls: list[str] = field(default_factory=list)
    active: int = 0
    most: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, work: Work) -> Outcome:
        """Work, unless the result is there."""
        result = self.result(work)
        if result.exists() and not work.force:
            return "cached"
        with self._lock:
            self.calls.append(work.image)
            self.active += 1
            self.most = max(self.most, self.active)
        try:
            work.log.write(f"{self.name} of {work.image}\n")
            work.progress("at work")
            self._do(work)
        finally:
            with self._lock:
                self.active -= 1
        result.parent.mkdir(parents=True, exist_ok=True)
        result.mkdir(exist_ok=True)
        if self.name == "assemble":
            work.release = release_of(work.image)
        return "done"

    def result(self, work: Work) -> Path:
        """What it makes: the build a tree, another a folder of its own."""
        if self.name == "build":
            return work.tree
        return work.artifacts / "results" / f"{work.image}.{self.name}"

    def _do(self, work: Work) -> None:
        fault = self.faults.get(work.image)
        if fault == "fails":
            work.log.write("E: no such package\n")
            raise BuildError("element nginx-site failed in install.d", hint="Mend it.")
        if fault == "breaks":
            raise ZeroDivisionError("a defect")
        if fault == "is-interrupted":
            raise KeyboardInterrupt
        if fault in ("hangs", "lingers"):
            while not work.stop.wait(0.01):
                pass
            time.sleep(1.0 if fault == "lingers" else 0.0)
            work.stop.check()
        if self.program:
            command.run(self.program, log=work.log, stop=work.stop)
        elif self.seconds:
            time.sleep(self.seconds)


@dataclass
class Recorder:
    """A monitor that keeps all events."""

    events: list[Event] = field(default_factory=list)
    ticks: int = 0

    def event(self, event: Event) -> None:
        """Keep it."""
        self.events.append(event)

    def tick(self) -> None:
        """Count it."""
        self.ticks += 1
