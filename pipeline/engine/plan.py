"""What is to be built, in which order, and why: a pure function of what was looked up before.

An image is unchanged when one of its past builds was made of the very same components (see
:class:`~pipeline.engine.records.Components`); the archive counts for the packages that this past
build has. So a revert finds the build of back then, and an upload of a package that an image does
not carry triggers nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from pydantic import JsonValue

from pipeline.engine import reasons
from pipeline.engine.records import BuildRecord, Components

if TYPE_CHECKING:
    from pipeline.dib.archive import Candidate
    from pipeline.models.image import Catalog, ImageDefinition
    from pipeline.models.release import TestVerdict
    from pipeline.source import Source

_NOT_BUILT = {"description", "tests"}
"""Fields of a definition that do not change a single byte of the image."""

UNCHANGED = "unchanged"


@dataclass(frozen=True)
class KnownBuild:
    """A past build, as it is found now.

    Attributes:
        record: what it was made of.
        released: is its release still there?
        verdicts: what its tests said.
    """

    record: BuildRecord
    released: bool = True
    verdicts: tuple[TestVerdict, ...] = ()


@dataclass(frozen=True)
class ImageFacts:
    """What was found out about one image.

    Attributes:
        files: digests of what its definition takes from its folder.
        elements: digests of the elements that take part, by name.
        tests: the digest of its tests.
        archive: the name of the archive that its packages come from.
        history: its past builds, the newest first.
        agent: the digest of the agent that it gets; empty without one.
    """

    files: Mapping[str, str]
    elements: Mapping[str, str]
    tests: str
    archive: str
    history: Sequence[KnownBuild] = ()
    agent: str = ""


@dataclass(frozen=True)
class ArchiveLook:
    """What an archive offered when it was last asked.

    Attributes:
        name: such as ``debian trixie``.
        looked_at: when; None for never.
        index: digest over its indexes; empty for never.
        candidates: by package.
    """

    name: str
    looked_at: datetime | None = None
    index: str = ""
    candidates: Mapping[str, Candidate] = field(default_factory=dict)


@dataclass(frozen=True)
class Look:
    """Everything that a plan depends on, gathered at one moment.

    Attributes:
        source: the commit.
        builder: diskimage-builder's version and the digest of its scripts.
        format: how trees become disks.
        images: by name.
        archives: by name.
        changed: paths that a push has touched; None to plan for everything.
        notes: what a person should know of how this was gathered.
    """

    source: Source
    builder: str
    format: int
    images: Mapping[str, ImageFacts]
    archives: Mapping[str, ArchiveLook] = field(default_factory=dict)
    changed: frozenset[str] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class PlannedImage:
    """What becomes of one image.

    Attributes:
        action: is it built, or is there a release of exactly this already?
        reasons: why, in words.
        build_key: of what it is made of. Before a build the packages are not known for certain:
            see :func:`settle`.
        parent: the parent image.
        release: the version of the release that there is, when it is unchanged.
        tests_digest: what its tests are.
        test: must they run?
        components: what it is made of.
        tree: the name of its tree's folder in ``artifacts/cache/trees``.
    """

    image: str
    action: Literal["build", "unchanged"]
    reasons: tuple[str, ...]
    build_key: str
    parent: str | None
    release: str | None
    tests_digest: str
    test: bool
    components: Components
    tree: str


@dataclass(frozen=True)
class Plan:
    """What is to be done.

    Attributes:
        images: parents before children.
        source: the commit.
        seconds: how long it took to find out.
        archives: when each archive was last asked.
        untouched: images left out because a push did not touch them.
        notes: what a person should know besides.
    """

    images: tuple[PlannedImage, ...]
    source: Source
    seconds: float = 0.0
    archives: Mapping[str, datetime | None] = field(default_factory=dict)
    untouched: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __getitem__(self, image: str) -> PlannedImage:
        return next(planned for planned in self.images if planned.image == image)

    @property
    def builds(self) -> tuple[PlannedImage, ...]:
        """The images to be built."""
        return tuple(planned for planned in self.images if planned.action == "build")


def make_plan(catalog: Catalog, look: Look, *, only: Collection[str] = ()) -> Plan:
    """Decide for each image whether it is built, and say why.

    Args:
        catalog: all images.
        look: what was found out about those in question and their ancestors.
        only: plan for these and their ancestors; for all when empty.

    Raises:
        UsageError: one of *only* does not exist.
    """
    wanted = scope(catalog, only)
    touched = wanted if look.changed is None else wanted & _touched(catalog, look)
    needed = {parent for name in touched for parent in catalog.ancestors(name)}
    planned: dict[str, PlannedImage] = {}
    for name in catalog.order():
        if name in touched or name in needed:
            parent = planned.get(catalog[name].from_ or "")
            # A push is not about the archive's news: a parent that it did not touch is taken as
            # it was built, as long as nothing else is different.
            planned[name] = _plan_image(catalog[name], look, parent, news=name in touched)
    return Plan(
        images=tuple(planned.values()),
        source=look.source,
        archives={name: archive.looked_at for name, archive in look.archives.items()},
        untouched=tuple(name for name in catalog.order() if name in wanted - planned.keys()),
        notes=look.notes,
    )


def scope(catalog: Catalog, only: Collection[str]) -> set[str]:
    """The images that a plan for *only* is about: they and their ancestors; all when empty.

    Raises:
        UsageError: one of *only* does not exist.
    """
    if not only:
        return set(catalog.order())
    return {each for name in only for each in (*catalog.ancestors(name), name)}


def settle(
    components: Components,
    packages: Mapping[str, str],
    *,
    inherited: Mapping[str, str] | None = None,
    parent_key: str | None = None,
    offered: Mapping[str, str] | None = None,
) -> Components:
    """The components of a build that is done, its packages being known now.

    The next plan comes to the same key as long as the archive offers nothing newer. What the
    archive offered already counts too: a package that an element holds back at an older version
    would otherwise be news for ever.

    Args:
        components: as planned.
        packages: versions by name, of all packages in the tree.
        inherited: the same of the parent's tree: these are covered by the parent's key.
        parent_key: the parent's key after its build, if that changed it.
        offered: what the archive offers of *packages*, as far as it was asked.
    """
    before = inherited or {}
    own = {name: v for name, v in packages.items() if before.get(name) != v}
    return components.model_copy(
        update={
            "archive": _newest(own, offered or {}),
            "index": "",
            "parent": parent_key or components.parent,
        }
    )


def final_key(
    components: Components,
    packages: Mapping[str, str],
    *,
    inherited: Mapping[str, str] | None = None,
    parent_key: str | None = None,
    offered: Mapping[str, str] | None = None,
) -> str:
    """The build key of a build that is done; the arguments are those of :func:`settle`."""
    return settle(
        components, packages, inherited=inherited, parent_key=parent_key, offered=offered
    ).key


def definition_parts(definition: ImageDefinition) -> dict[str, JsonValue]:
    """What an image's own file says that matters to its bytes, field by field.

    What it inherits is left to the parent's key.
    """
    parts: dict[str, JsonValue] = definition.model_dump(
        mode="json", by_alias=True, exclude=_NOT_BUILT
    )
    return parts


def _plan_image(
    own: ImageDefinition, look: Look, parent: PlannedImage | None, *, news: bool
) -> PlannedImage:
    facts = look.images[own.name]
    archive = look.archives.get(facts.archive) or ArchiveLook(facts.archive)
    present = Components(
        definition=definition_parts(own),
        files=facts.files,
        elements=facts.elements,
        agent=facts.agent,
        builder=look.builder,
        parent=parent.build_key if parent else None,
        index=archive.index,
        format=look.format,
    )
    candidates = archive.candidates if news else {}
    same = [k for k in facts.history if _since(k, present, candidates) == k.record.components]
    match = next((known for known in same if known.released), None)
    if match is None:
        return _to_build(own, facts, present, candidates, next(iter(same), None))
    why = _untested(own, match, facts.tests)
    return PlannedImage(
        image=own.name,
        action="unchanged",
        reasons=(why or UNCHANGED,),
        build_key=match.record.build_key,
        parent=own.from_,
        release=match.record.version,
        tests_digest=facts.tests,
        test=bool(why),
        components=match.record.components,
        tree=match.record.tree,
    )


def _to_build(
    own: ImageDefinition,
    facts: ImageFacts,
    present: Components,
    candidates: Mapping[str, Candidate],
    started: KnownBuild | None,
) -> PlannedImage:
    """An image that must be built; *started* if its tree was made already."""
    last = started or next((known for known in facts.history if known.released), None)
    last = last or next(iter(facts.history), None)
    components = present if last is None else _since(last, present, candidates)
    why: tuple[str, ...]
    if last is None:
        why = (reasons.NEVER_BUILT,)
    elif last is started:
        why = (reasons.unfinished(last.record),)
    else:
        why = reasons.differences(last.record.components, components, own.from_, candidates)
    return PlannedImage(
        image=own.name,
        action="build",
        reasons=why,
        build_key=components.key,
        parent=own.from_,
        release=None,
        tests_digest=facts.tests,
        test=True,
        components=components,
        tree=started.record.tree if started else components.key,
    )


def _since(
    known: KnownBuild, present: Components, candidates: Mapping[str, Candidate]
) -> Components:
    """*present*, with the archive's state for the packages that a past build has."""
    offered = {name: candidate.version for name, candidate in candidates.items()}
    archive = _newest(known.record.components.archive, offered)
    return present.model_copy(update={"archive": archive, "index": ""})


def _newest(versions: Mapping[str, str], offered: Mapping[str, str]) -> dict[str, str]:
    """*versions*, each replaced by what is offered where that is newer."""
    found = dict(versions)
    for name, version in versions.items():
        other = offered.get(name, version)
        if other != version:
            from pipeline.packages import compare_versions

            if compare_versions(version, other) < 0:
                found[name] = other
    return found


def _untested(own: ImageDefinition, known: KnownBuild, tests: str) -> str:
    """Why the tests must run, or nothing when they have passed wherever they must."""
    this_root = [v for v in known.verdicts if v.root_hash == known.record.root_hash and v.passed]
    by_provider: Iterable[list[str]] = (
        [v.tests_digest for v in this_root if v.provider == name] for name in own.tests.providers
    )
    missing = [digests for digests in by_provider if tests not in digests]
    if not missing:
        return ""
    return reasons.TESTS_CHANGED if all(missing) else reasons.NEVER_PASSED


def _touched(catalog: Catalog, look: Look) -> set[str]:
    """The images that a push has touched, and all that stand on them."""
    changed = look.changed or frozenset()
    parts = [path.split("/") for path in changed]
    # The machinery itself, or what brings it and diskimage-builder: any image may be different.
    if any(part[0] not in ("images",) for part in parts):
        return set(catalog.order())
    folders = {part[1] for part in parts if len(part) > 2 and part[1] != "elements"}
    elements = {part[2] for part in parts if len(part) > 3 and part[1] == "elements"}
    direct = {
        name
        for name in catalog.order()
        if catalog.folders[name].name in folders or elements & look.images[name].elements.keys()
    }
    return direct | {child for name in direct for child in catalog.descendants(name)}
