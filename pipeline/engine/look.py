"""Gather what a plan depends on: git, elements, files, past builds, and what the archive offers.

All reading is done here, once; deciding is :func:`pipeline.engine.plan.make_plan`'s.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import clock, digest, source
from pipeline.dib import agent, elements
from pipeline.dib.archive import Archive, open_archive
from pipeline.disk import FORMAT
from pipeline.engine.plan import (
    ArchiveLook,
    ImageFacts,
    KnownBuild,
    Look,
    Plan,
    make_plan,
    scope,
)
from pipeline.engine.records import BuildRecord, Records
from pipeline.errors import DefinitionError, HostError, NetworkError
from pipeline.models.release import TestVerdict, release_name
from pipeline.releases import manifest_path, read_verdict
from pipeline.testing import CHECKS

if TYPE_CHECKING:
    from pipeline.models.image import Catalog, ImageDefinition
    from pipeline.models.settings import Settings
    from pipeline.source import Source

_NOT_TESTS = frozenset({"__pycache__", ".pytest_cache"})


def _silent(_text: str) -> None:
    """Say it to nobody."""


@dataclass(frozen=True)
class Question:
    """What is asked of :func:`look` and :func:`plan_project`.

    Attributes:
        only: plan for these images and their ancestors; for all when empty.
        since: plan for what has changed since this commit; for everything when None.
        refresh: ask the archive now, whatever the age of the last look, and fail if that fails.
    """

    only: tuple[str, ...] = ()
    since: str | None = None
    refresh: bool = False


@dataclass
class _Asked:
    """One archive, and the images that take packages from it."""

    archive: Archive
    images: list[str] = field(default_factory=list)


def plan_project(
    project: Path,
    artifacts: Path,
    catalog: Catalog,
    settings: Settings,
    question: Question | None = None,
    say: Callable[[str], None] = _silent,
) -> Plan:
    """Look, and plan.

    Args:
        project: the folder that holds ``images/``.
        artifacts: the store's folder.
        catalog: the project's images.
        settings: the project's settings.
        question: what to plan for; for everything if not given.
        say: hears of what takes time.

    Raises:
        UsageError: an image or a commit does not exist.
        DefinitionError: an element is unknown or does not fit, a file is missing.
        HostError: git, diskimage-builder or the archive's keyring is missing.
        NetworkError: the archive was to be asked now, and cannot be reached.
    """
    began = time.perf_counter()
    asked = question or Question()
    found = look(project, artifacts, catalog, settings, asked, say)
    plan = make_plan(catalog, found, only=asked.only)
    return replace(plan, seconds=time.perf_counter() - began)


def look(
    project: Path,
    artifacts: Path,
    catalog: Catalog,
    settings: Settings,
    question: Question,
    say: Callable[[str], None] = _silent,
) -> Look:
    """Gather everything that a plan depends on; arguments and errors as :func:`plan_project`."""
    now = source.read(project)
    changed = None if question.since is None else source.changed_since(project, question.since)
    memo = artifacts / "cache" / "elements.json"
    path = elements.elements_path(project)
    records = Records(artifacts)
    wanted = scope(catalog, question.only)
    taking_part = {n: elements_of(catalog, n, path) for n in catalog.order() if n in wanted}
    folders = {name: at for found in taking_part.values() for name, at in found.items()}
    known = elements.digests(folders, memo)
    sources = agent.sources_digest(memo)
    facts: dict[str, ImageFacts] = {}
    archives: dict[str, _Asked] = {}
    for name in catalog.order():
        if name in wanted:
            archive = open_archive(
                catalog.resolved(name), settings, artifacts / "cache" / "archive"
            )
            asked = archives.setdefault(archive.name, _Asked(archive))
            asked.images.append(name)
            facts[name] = ImageFacts(
                files=_files(catalog[name], catalog.folders[name]),
                elements={each: known[each] for each in taking_part[name]},
                agent=_agent(catalog, name, sources) if agent.takes_part(taking_part[name]) else "",
                tests=tests_digest(catalog, name),
                archive=archive.name,
                history=[_known(artifacts, catalog[name], r, now) for r in records.of(name)],
            )
    notes: list[str] = []
    for each in archives.values():
        _refresh(each, facts, settings, question, say, notes)
    return Look(
        source=now,
        builder=elements.builder(memo),
        format=FORMAT,
        images=facts,
        archives={name: _offer(each, facts) for name, each in archives.items()},
        changed=None if changed is None else frozenset(changed),
        notes=tuple(notes),
    )


def elements_of(catalog: Catalog, name: str, path: list[Path]) -> dict[str, Path]:
    """All elements that take part in a build of an image, with their folders.

    Args:
        catalog: the project's images.
        name: the image.
        path: see :func:`pipeline.dib.elements.elements_path`.

    Raises:
        DefinitionError: an element is unknown or does not fit (names the image), or has a hook
            that would not run.
    """
    try:
        found = elements.expand(named_elements(catalog, name), path)
    except DefinitionError as error:
        raise DefinitionError(
            f"images/{catalog.folders[name].name}/image.yaml: elements: {error.message}",
            hint=error.hint,
        ) from error
    elements.check_hooks(found, catalog.folders[name].parent / "elements")
    return found


def _agent(catalog: Catalog, name: str, sources: str) -> str:
    try:
        return agent.digest_for(catalog.resolved(name), sources)
    except DefinitionError as error:
        raise DefinitionError(
            f"images/{catalog.folders[name].name}/image.yaml: {error.message}", hint=error.hint
        ) from error


def named_elements(catalog: Catalog, name: str) -> list[str]:
    """The elements that a build of an image names to diskimage-builder."""
    inherited = {each for above in catalog.ancestors(name) for each in catalog[above].elements}
    own = catalog[name]
    return elements.effective_elements(own, not own.is_base, inherited)


def tests_digest(catalog: Catalog, name: str) -> str:
    """Digest of all tests that an image has to pass, and of what says how they run.

    Those of its ancestors run on it too, and the ones that ship with Recast.
    """
    folders = [CHECKS]
    for each in (*catalog.ancestors(name), name):
        folders.append(catalog.folders[each] / catalog[each].tests.path)
    return digest.of_data(
        [
            catalog[name].tests.model_dump(mode="json"),
            [digest.of_folder(folder, ignore=_NOT_TESTS) for folder in folders],
        ]
    )


def _files(definition: ImageDefinition, folder: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in [entry.source for entry in definition.files if entry.source]:
        try:
            found[name] = digest.of_file(folder / name)
        except OSError as error:
            raise DefinitionError(
                f"images/{folder.name}/image.yaml: files: {name} cannot be read: "
                f"{error.strerror or error}",
                hint="`source:` names a file in the image's own folder.",
            ) from error
    return found


def _known(
    artifacts: Path, definition: ImageDefinition, record: BuildRecord, now: Source
) -> KnownBuild:
    if not record.version:
        return KnownBuild(record, released=False)
    if source.is_dirty(record.version) and now.dirty is None:
        # What was in no commit then is committed now: the same bytes, under the commit's name.
        return KnownBuild(record, released=False)
    folder = artifacts / "images" / record.image / record.version
    name = release_name(record.image, record.version, definition.arch)
    if not manifest_path(folder, name).is_file():
        return KnownBuild(record, released=False)
    return KnownBuild(record, True, tuple(_verdicts(folder, name)))


def _verdicts(folder: Path, release: str) -> Iterable[TestVerdict]:
    for path in sorted(folder.glob(f"{release}.test-*.json")):
        yield read_verdict(path)


def _refresh(
    asked: _Asked,
    facts: Mapping[str, ImageFacts],
    settings: Settings,
    question: Question,
    say: Callable[[str], None],
    notes: list[str],
) -> None:
    """Ask an archive again, if it is time to.

    A build is a look at the archive, too: right after one there is nothing to ask.
    """
    archive = asked.archive
    if not archive.known:
        notes.append(f"updates of {archive.name} are not watched: its archive cannot be asked")
        return
    oldest = min(_seen(facts[name].history, archive.looked_at) for name in asked.images)
    age = (datetime.now(UTC) - oldest).total_seconds()
    if not question.refresh and age < settings.archive_max_age:
        return
    say(f"asking the archive of {archive.name}")
    try:
        archive.refresh(question.refresh, settings.archive_max_age)
    except (NetworkError, HostError) as error:
        if question.refresh:
            raise
        notes.append(f"{error.message}. {_instead(archive.looked_at)}")


def _seen(history: Collection[KnownBuild], looked_at: datetime | None) -> datetime:
    never = datetime.min.replace(tzinfo=UTC)
    built = [known.record.built for known in history][:1]
    return max([looked_at or never, *built])


def _instead(looked_at: datetime | None) -> str:
    if looked_at is None:
        return "What changed there is not known."
    age = (datetime.now(UTC) - looked_at).total_seconds()
    return f"What it offered {clock.duration(age)} ago counts."


def _offer(asked: _Asked, facts: Mapping[str, ImageFacts]) -> ArchiveLook:
    archive = asked.archive
    histories = [facts[name].history for name in asked.images]
    names = {
        package
        for history in histories
        for known in history
        for package in known.record.components.archive
    }
    return ArchiveLook(
        name=archive.name,
        looked_at=archive.looked_at,
        index="" if all(histories) else archive.index_digest(),
        candidates=archive.candidates(names),
    )
