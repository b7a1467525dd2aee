"""The software bill of materials of a release: CycloneDX 1.6, the same bytes each time.

What generators draw from chance or the clock is derived here: the serial number from the
release and its root hash, the time from the commit.
"""

from __future__ import annotations

import re
import uuid
from datetime import datetime
from typing import TYPE_CHECKING

from pipeline.models.release import Package, Release

if TYPE_CHECKING:
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component
    from packageurl import PackageURL

    from pipeline.packages import Inventory, Library

SUFFIX = ".cdx.json"
"""Ending of an SBOM's file name, after the release's name."""

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "sbom.recast")
_SOURCE = re.compile(r"(?P<name>\S+)(?:\s+\((?P<version>[^)]+)\))?")


def render(release: Release, inventory: Inventory, committed: datetime) -> bytes:
    """The SBOM of *release* as CycloneDX JSON, in UTF-8.

    The image is the root component, and depends on its distribution, every package and every
    Python library beside them; packages carry package URLs with their source package, as
    vulnerability scanners expect them.

    Args:
        release: the manifest; its root hash and root part are recorded.
        inventory: what its tree holds.
        committed: the time of its commit; stands for the time of making.
    """
    from cyclonedx.output import make_outputter
    from cyclonedx.schema import OutputFormat, SchemaVersion

    bom = _bom(release, inventory, committed)
    text = make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=2)
    return (text + "\n").encode()


def purl(package: Package, inventory: Inventory) -> PackageURL:
    """``pkg:deb/debian/openssl@3.5.1-1?arch=amd64&distro=debian-13``; see package-url/purl-spec.

    A source package of another name or version goes into ``upstream``, the qualifier by which
    scanners find advisories.
    """
    from packageurl import PackageURL

    distribution = inventory.distribution or "debian"
    qualifiers = {"arch": package.architecture}
    if inventory.distribution_version:
        qualifiers["distro"] = f"{distribution}-{inventory.distribution_version}"
    source = _SOURCE.match(package.source)
    if source is not None:
        version = source["version"]
        qualifiers["upstream"] = source["name"] + (f"@{version}" if version else "")
    return PackageURL("deb", distribution, package.name, package.version, qualifiers)


def _bom(release: Release, inventory: Inventory, committed: datetime) -> Bom:
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.model.tool import ToolRepository

    image = _image(release)
    parts = [
        _component(package.name, package.version, purl(package, inventory))
        for package in inventory.packages
    ]
    parts += [_component(each.name, each.version, _pypi(each)) for each in inventory.libraries]
    if inventory.distribution:
        parts.append(
            Component(
                type=ComponentType.OPERATING_SYSTEM,
                name=inventory.distribution,
                version=inventory.distribution_version or None,
                bom_ref=f"os:{inventory.distribution}-{inventory.distribution_version}",
            )
        )
    recast = Component(
        type=ComponentType.APPLICATION,
        name="recast",
        version=release.tools.get("recast"),
        bom_ref="tool:recast",
    )
    bom = Bom(
        serial_number=uuid.uuid5(_NAMESPACE, f"{release.name} {release.root_hash}"),
        metadata=BomMetaData(
            component=image, timestamp=committed, tools=ToolRepository(components=[recast])
        ),
        components=parts,
    )
    bom.register_dependency(image, parts)
    return bom


def _image(release: Release) -> Component:
    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.component import Component, ComponentType

    known = {
        "recast:root-hash": release.root_hash,
        "recast:build-key": release.build_key,
        "recast:commit": release.commit,
        "recast:parent": release.parent or "",
    }
    root = release.parts.get("root")
    return Component(
        type=ComponentType.OPERATING_SYSTEM,
        name=release.image,
        version=release.version,
        bom_ref=release.name,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=root.digest)] if root else [],
        properties=[Property(name=name, value=value) for name, value in known.items() if value],
    )


def _pypi(library: Library) -> PackageURL:
    from packageurl import PackageURL

    return PackageURL("pypi", None, library.name, library.version)


def _component(name: str, version: str, url: PackageURL) -> Component:
    from cyclonedx.model.component import Component, ComponentType

    return Component(
        type=ComponentType.LIBRARY,
        name=name,
        version=version,
        purl=url,
        bom_ref=url.to_string(),
    )
