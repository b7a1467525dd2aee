"""What a plan depends on, made up: images, past builds and an archive; nothing is touched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pipeline import digest
from pipeline.dib.archive import Candidate
from pipeline.engine.plan import (
    ArchiveLook,
    ImageFacts,
    KnownBuild,
    Look,
    PlannedImage,
    settle,
)
from pipeline.engine.records import BuildRecord
from pipeline.models.image import Catalog, ImageDefinition
from pipeline.models.release import TestVerdict
from pipeline.source import Source

MOMENT = datetime(2026, 3, 1, 12, tzinfo=UTC)
SOURCE = Source(commit="0123456789abcdef0123456789abcdef01234567", time=MOMENT)
ARCHIVE = "debian trixie"

BASE = ImageDefinition(
    name="edge-base", distribution="debian", release="trixie", packages=("openssl",)
)
WEB = ImageDefinition(
    name="edge-web", from_="edge-base", elements=("nginx-site",), packages=("nginx",)
)

BASE_PACKAGES = {"libc6": "2.41-12", "openssl": "3.5.1-1"}
WEB_PACKAGES = {**BASE_PACKAGES, "nginx": "1.26.3-3"}


def catalog(*images: ImageDefinition) -> Catalog:
    """A catalog of these; of the two samples when none is given."""
    given = images or (BASE, WEB)
    return Catalog(
        {image.name: image for image in given},
        {image.name: Path("images") / image.name for image in given},
    )


def facts(
    name: str,
    elements: Sequence[str] = ("recast-base",),
    history: Sequence[KnownBuild] = (),
) -> ImageFacts:
    """Facts of an image: each element's digest is that of its name."""
    return ImageFacts(
        files={},
        elements={element: digest.of_data(element) for element in elements},
        tests=digest.of_data(["tests", name]),
        archive=ARCHIVE,
        history=history,
    )


def look(**images: ImageFacts) -> Look:
    """Facts of the two samples, with what is given (``edge_web=…``) instead of their own."""
    given = {name.replace("_", "-"): fact for name, fact in images.items()}
    samples = {"edge-base": facts("edge-base"), "edge-web": facts("edge-web", _WEB_ELEMENTS)}
    return Look(
        source=SOURCE,
        builder="3.43.0 " + digest.of_data("scripts"),
        format=1,
        images={**samples, **given},
        archives={ARCHIVE: ArchiveLook(ARCHIVE, MOMENT, digest.of_data("index"))},
    )


_WEB_ELEMENTS = ("recast-base", "recast-parent", "nginx-site")


def offering(before: Look, **versions: str) -> Look:
    """*before*, the archive offering these: ``openssl="3.5.1-2 trixie-security"``."""
    found = {
        name.replace("_", "-"): Candidate(*(text if " " in text else f"{text} trixie").split(" "))
        for name, text in versions.items()
    }
    archive = replace(before.archives[ARCHIVE], candidates=found)
    return replace(before, archives={ARCHIVE: archive})


def built(
    planned: PlannedImage,
    packages: Mapping[str, str],
    *,
    inherited: Mapping[str, str] | None = None,
    parent: KnownBuild | None = None,
    offered: Mapping[str, str] | None = None,
    passed: bool = True,
) -> KnownBuild:
    """What is known after *planned* was built and tested."""
    components = settle(
        planned.components,
        packages,
        inherited=inherited,
        parent_key=parent.record.build_key if parent else None,
        offered=offered,
    )
    root = digest.of_data([planned.image, components.key])
    record = BuildRecord(
        image=planned.image,
        build_key=components.key,
        components=components,
        tree=planned.tree,
        built=MOMENT + timedelta(minutes=5),
        version=SOURCE.version,
        root_hash=root,
    )
    return KnownBuild(record, True, (verdict(root, planned.tests_digest, passed=passed),))


def verdict(root_hash: str, tests: str, *, passed: bool = True) -> TestVerdict:
    """What the tests of a release said on the provider qemu."""
    return TestVerdict(
        provider="qemu",
        passed=passed,
        root_hash=root_hash,
        tests=7,
        seconds=60.0,
        boot_seconds=40.0,
        tests_digest=tests,
        when=MOMENT,
    )
