"""What one file alone cannot tell: parents, cycles, folders and files that must be there."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.definitions.document import Document, Problem, Route
from pipeline.definitions.wording import did_you_mean, listed
from pipeline.models.fields import relative_path, shown
from pipeline.models.image import ImageDefinition, Tests
from pipeline.models.rules import find_cycles, persist_overlaps


@dataclass(frozen=True)
class Loaded:
    """One image's file: what it says, and what it means if it is valid by itself."""

    folder: Path
    document: Document
    definition: ImageDefinition | None


def check(images: Mapping[str, Loaded], providers: Collection[str]) -> list[Problem]:
    """Every problem between files.

    Files that are not valid by themselves are looked at as far as they can be, so that a person
    sees all problems at once.

    Args:
        images: each image's file, by its folder's name.
        providers: the names of the providers that there are.
    """
    found: list[Problem] = []
    for name, loaded in images.items():
        if not isinstance(loaded.document.data, dict):
            continue
        found.extend(_name(name, loaded))
        found.extend(_parent(name, loaded, images))
        found.extend(_tests(name, loaded))
        found.extend(_sources(name, loaded))
        found.extend(_providers(loaded, providers))
    cycles = find_cycles({name: _parent_of(loaded) for name, loaded in images.items()})
    for cycle in cycles:
        text = f"a cycle of parents: {' → '.join((*cycle, cycle[0]))}"
        found.append(images[cycle[0]].document.problem(("from",), text))
    circular = {name for cycle in cycles for name in cycle}
    for name in images:
        found.extend(_persist(name, images, circular))
    return found


def check_channels(
    document: Document, images: Collection[str], providers: Collection[str]
) -> list[Problem]:
    """What ``channels.yaml`` names and the project does not have.

    Args:
        document: the file.
        images: the names of the project's images.
        providers: the names of the providers that there are.
    """
    found: list[Problem] = []
    channels = document.at("channels")
    for index in range(len(channels) if isinstance(channels, list) else 0):
        route: Route = ("channels", index, "gates", "tests")
        found.extend(_unknown(document, route, "provider", providers))
    found.extend(_unknown(document, ("images",), "image", images))
    return found


def _unknown(
    document: Document, route: Route, what: str, known: Collection[str]
) -> Iterator[Problem]:
    """A problem for each entry of the list at *route* that is not *known*."""
    given = document.at(*route)
    for index, name in enumerate(given if isinstance(given, list) else ()):
        if isinstance(name, str) and name not in known:
            near = did_you_mean(name, known) or f"; known: {listed(sorted(known)) or 'none'}"
            yield document.problem((*route, index), f"there is no {what} {shown(name)}{near}")


def _parent_of(loaded: Loaded) -> str | None:
    parent = loaded.document.at("from")
    return parent if isinstance(parent, str) else None


def _name(name: str, loaded: Loaded) -> Iterator[Problem]:
    given = loaded.document.at("name")
    if isinstance(given, str) and given != name:
        yield loaded.document.problem(
            ("name",), f"expected {shown(name)}, the name of its folder, got {shown(given)}"
        )


def _parent(name: str, loaded: Loaded, images: Mapping[str, Loaded]) -> Iterator[Problem]:
    parent = _parent_of(loaded)
    if parent is not None and parent not in images:
        others = sorted(other for other in images if other != name)
        known = f"; other images: {listed(others)}" if others else "; it is the only image"
        near = did_you_mean(parent, others) or known
        yield loaded.document.problem(("from",), f"there is no image {shown(parent)}{near}")


def _tests(name: str, loaded: Loaded) -> Iterator[Problem]:
    route: Route = ("tests", "path")
    given = loaded.document.at(*route)
    path = Tests().path if given is None else given
    if not _is_relative(path):
        return  # told by the model
    folder = loaded.folder / str(path)
    shown_folder = f"{loaded.folder.parent.name}/{name}/{str(path).rstrip('/')}"
    if not folder.is_dir():
        yield loaded.document.problem(route, f"there is no folder {shown_folder}")
    elif not _inside(folder, loaded.folder):
        yield loaded.document.problem(route, f"{shown_folder} leads out of the image's folder")
    elif not any(folder.rglob("test_*.py")):
        yield loaded.document.problem(route, f"there is no test (test_*.py) in {shown_folder}")


def _sources(name: str, loaded: Loaded) -> Iterator[Problem]:
    entries = loaded.document.at("files")
    for index in range(len(entries) if isinstance(entries, list) else 0):
        route: Route = ("files", index, "source")
        source = loaded.document.at(*route)
        if not _is_relative(source):
            continue
        path = loaded.folder / str(source)
        label = f"{loaded.folder.parent.name}/{name}/{source}"
        if path.is_dir():
            yield loaded.document.problem(route, f"expected a file, {label} is a folder")
        elif not path.is_file():
            yield loaded.document.problem(route, f"there is no file {label}")
        elif not _inside(path, loaded.folder):
            yield loaded.document.problem(route, f"{label} leads out of the image's folder")


def _is_relative(path: object) -> bool:
    try:
        return isinstance(path, str) and bool(relative_path(path))
    except ValueError:
        return False


def _inside(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _providers(loaded: Loaded, known: Collection[str]) -> Iterator[Problem]:
    return _unknown(loaded.document, ("tests", "providers"), "provider", known)


def _persist(
    name: str, images: Mapping[str, Loaded], circular: Collection[str]
) -> Iterator[Problem]:
    own = images[name].definition
    inherited: dict[str, str] = {}
    if own is None:
        return
    parent = own.from_
    while parent is not None and parent in images and parent not in circular:
        definition = images[parent].definition
        if definition is None:
            break
        inherited.update(dict.fromkeys(definition.persist, parent))
        parent = definition.from_
    for index, text in persist_overlaps(own.persist, inherited):
        yield images[name].document.problem(("persist", index), text)
