"""What one image asks of diskimage-builder, from its definition and the project's settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from pipeline.dib import agent as agents
from pipeline.dib.create import TreeRequest
from pipeline.dib.elements import BASE, elements_path, expand
from pipeline.dib.mirrors import components, mirrors

if TYPE_CHECKING:
    from pipeline.models.image import ImageDefinition
    from pipeline.models.settings import Settings


def tree_request(
    definition: ImageDefinition,
    *,
    project: Path,
    elements: Mapping[str, str],
    files: Mapping[str, str],
    agent: str,
    settings: Settings,
    parent_tree: Path | None,
    sizes: Mapping[str, int],
) -> TreeRequest:
    """Put together what a build of *definition* (with what it inherits) needs.

    Args:
        definition: the image, resolved.
        project: the folder that holds ``images/``.
        elements: the digest of each element that takes part, as planned.
        files: the digest of each file that the definition takes from its folder, as planned.
        agent: the digest of its agent, as planned; empty for an image without one.
        settings: the project's settings.
        parent_tree: the parent's tar, or none.
        sizes: bytes of the machine's partitions: ``root``, ``verity``, ``esp``.

    Raises:
        DefinitionError: an element is unknown or does not fit.
    """
    distribution, release = definition.distribution or "", definition.release or ""
    found = expand(tuple(elements), elements_path(project))
    chosen = mirrors(distribution, settings, own=definition.environment)
    lines = chosen.sources(release, components(distribution, definition.environment))
    ours = [found[name] for name in (BASE, agents.ELEMENT) if name in found]
    return TreeRequest(
        definition=definition,
        elements=found,
        named=tuple(elements),
        sources=lines,
        environment={**chosen.environment(), **definition.environment},
        parent_tree=parent_tree,
        files_from=project / "images" / definition.name,
        sizes=sizes,
        bootstrap_packages=[
            *(each for folder in ours for each in _packages(folder, distribution, release)),
            *definition.packages,
        ],
        digests=elements,
        file_digests=files,
        agent=agents.agent_of(definition, agent) if agent else None,
    )


def _packages(element: Path, distribution: str, release: str) -> list[str]:
    """The packages of one of our elements, by the distribution's names (see DIB's pkg-map)."""
    wanted = yaml.safe_load(_text(element / "package-installs.yaml") or "{}")
    maps = json.loads(_text(element / "pkg-map") or "{}")
    family = {"debian": "debian", "ubuntu": "debian"}.get(distribution, distribution)
    by_place = (
        maps.get("release", {}).get(distribution, {}).get(release, {}),
        maps.get("distro", {}).get(distribution, {}),
        maps.get("family", {}).get(family, {}),
    )
    names = [next((m[name] for m in by_place if name in m), name) for name in wanted]
    return [name for name in names if name]


def _text(file: Path) -> str:
    return file.read_text() if file.is_file() else ""
