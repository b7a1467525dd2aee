"""Reading ``images/``: every definition, settings, channels, and all that is wrong with them.

An error lists all problems of all files at once, one per line, each as
``images/edge-web/image.yaml:7: persist[0]: expected an absolute path, got "var/log"``.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from pipeline.definitions.checks import Loaded, check, check_channels
from pipeline.definitions.document import Document, Problem, read
from pipeline.definitions.wording import problems_of, unknown_key
from pipeline.errors import DefinitionError, UsageError
from pipeline.models.channel import Channels
from pipeline.models.fields import FROM_FILE, Model
from pipeline.models.image import Catalog, ImageDefinition
from pipeline.models.settings import Settings

DEFINITION = "image.yaml"
SETTINGS = "settings.yaml"
CHANNELS = "channels.yaml"
ELEMENTS = "elements"
"""The folder under ``images/`` that holds elements, and can hold no image."""

PROVIDERS = ("qemu",)
"""The providers that a definition may name for its tests."""

_HINT = "`recast schema` prints what a definition may hold; editors can complete from it."

_M = TypeVar("_M", bound=Model)


def find_project(start: Path) -> Path:
    """The nearest folder, from *start* upwards, that has a folder ``images/``.

    Raises:
        UsageError: there is none.
    """
    here = start.absolute()
    for folder in (here, *here.parents):
        if (folder / "images").is_dir():
            return folder
    raise UsageError(
        f"there is no folder `images/` in {here} or above it",
        hint="Change to your project's folder, or name it in RECAST_PROJECT.",
    )


def load_catalog(images_dir: Path, *, providers: Collection[str] = PROVIDERS) -> Catalog:
    """Read every image definition of a project.

    Args:
        images_dir: the project's folder ``images/``.
        providers: the names that definitions may use under ``tests.providers``.

    Raises:
        DefinitionError: something is not valid; the message lists all problems, one per line.
    """
    loaded: dict[str, Loaded] = {}
    problems: list[Problem] = []
    for folder in _folders(images_dir):
        label = f"{images_dir.name}/{folder.name}"
        file = folder / DEFINITION
        if folder.name == ELEMENTS:
            if file.exists():
                text = "`elements` is the folder for elements; an image needs another name"
                problems.append(Problem(f"{label}/{DEFINITION}", 1, 1, text))
        elif not file.exists():
            problems.append(Problem(label, 0, 0, _no_definition(folder)))
        else:
            document = read(file, f"{label}/{DEFINITION}")
            problems.extend(document.problems)
            definition = _validated(ImageDefinition, document, problems)
            loaded[folder.name] = Loaded(folder, document, definition)
    problems.extend(check(loaded, providers))
    if problems:
        raise _error(problems)
    if not loaded:
        raise DefinitionError(
            f"there is no image in {images_dir}",
            hint=f"Make a folder {images_dir.name}/<name>/ with an {DEFINITION}. {_HINT}",
        )
    definitions = {
        name: each.definition for name, each in loaded.items() if each.definition is not None
    }
    return Catalog(definitions, {name: each.folder for name, each in loaded.items()})


def load_settings(images_dir: Path) -> Settings:
    """Read a project's ``settings.yaml``; without one, or with an empty one, all defaults hold.

    Args:
        images_dir: the project's folder ``images/``.

    Raises:
        DefinitionError: it is not valid; the message lists all problems, one per line.
    """
    _, settings, problems = _single(Settings, images_dir, SETTINGS)
    if problems or settings is None:
        raise _error(problems, hint="`recast schema settings` prints what the settings may hold.")
    return settings


def load_channels(images_dir: Path, *, providers: Collection[str] = PROVIDERS) -> Channels:
    """Read a project's ``channels.yaml``; without one, or with an empty one, all defaults hold.

    Args:
        images_dir: the project's folder ``images/``.
        providers: the names that gates may use under ``tests``.

    Raises:
        DefinitionError: it is not valid; the message lists all problems, one per line.
    """
    document, channels, problems = _single(Channels, images_dir, CHANNELS)
    if document is not None:
        images = {folder.name for folder in _images(images_dir)}
        problems.extend(check_channels(document, images, providers))
    if problems or channels is None:
        raise _error(problems, hint="`recast schema channels` prints what channels may hold.")
    return channels


def _single(
    model: type[_M], images_dir: Path, name: str
) -> tuple[Document | None, _M | None, list[Problem]]:
    """One file for the whole project, which need not be there: it, its meaning, its problems."""
    file = images_dir / name
    problems: list[Problem] = []
    short = file.with_suffix(".yml")
    if short.exists():
        text = f"rename it to {name}" if not file.exists() else f"remove it: {name} is there too"
        problems.append(Problem(f"{images_dir.name}/{short.name}", 0, 0, text))
    if not file.exists() and not file.is_symlink():
        return None, model(), problems
    document = read(file, f"{images_dir.name}/{name}")
    if document.empty:
        return None, model(), problems
    problems.extend(document.problems)
    return document, _validated(model, document, problems), problems


def _images(images_dir: Path) -> list[Path]:
    """The folders that hold an image's definition."""
    return [
        folder
        for folder in _folders(images_dir)
        if folder.name != ELEMENTS and (folder / DEFINITION).is_file()
    ]


def _folders(images_dir: Path) -> list[Path]:
    try:
        return sorted(
            entry
            for entry in images_dir.iterdir()
            if entry.is_dir() and not entry.name.startswith((".", "_"))
        )
    except OSError as error:
        raise DefinitionError(
            f"{images_dir} cannot be read: {error.strerror}",
            hint="A project has its image definitions in `images/`.",
        ) from error


def _no_definition(folder: Path) -> str:
    other = next((name for name in ("image.yml", "image.json") if (folder / name).exists()), None)
    if other is not None:
        return f"there is no {DEFINITION} in this folder; rename {other}"
    inside = [path.name for path in folder.iterdir()]
    if any(name.endswith((".d", ".rst")) or name.startswith("element-") for name in inside):
        return f"there is no {DEFINITION} in this folder; an element belongs in {ELEMENTS}/"
    return f"there is no {DEFINITION} in this folder; write one, or remove the folder"


def _validated(model: type[_M], document: Document, problems: list[Problem]) -> _M | None:
    """The document as a *model*; None when it is not valid, its problems being added."""
    data = document.data
    if data is None:
        return None
    plain: Any = data
    if isinstance(data, dict):
        for name, field in model.model_fields.items():
            # A model also takes its Python names (`from_`); a file must not.
            if name in data and field.validation_alias not in (None, name):
                problems.append(document.problem((name,), unknown_key(name, model)))
                plain = {key: value for key, value in plain.items() if key != name}
    try:
        return model.model_validate(plain, context={FROM_FILE: True})
    except ValidationError as error:
        problems.extend(problems_of(error, model, document))
        return None


def _error(problems: Sequence[Problem], *, hint: str = _HINT) -> DefinitionError:
    lines = dict.fromkeys(str(problem) for problem in sorted(problems))
    return DefinitionError("\n".join(lines), hint=hint)
