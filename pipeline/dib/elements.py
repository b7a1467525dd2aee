"""Elements: which an image gets, where they lie, and what is in them.

diskimage-builder itself says what an element depends on; nothing of that is repeated here. Errors
of its come back as a :class:`DefinitionError` that names what a person can change.
"""

from __future__ import annotations

import difflib
import importlib.util
import logging
import os
import re
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.dib.memo import Memo
from pipeline.errors import DefinitionError, HostError

if TYPE_CHECKING:
    from pipeline.models.image import ImageDefinition

BASE = "recast-base"
"""The element of ours that every image gets: the boot chain."""

PARENT = "recast-parent"
"""The element of ours that takes a parent's tree for the operating system."""

_OPERATING_SYSTEM = "operating-system"
_QUIET = threading.Lock()
# The folders whose files are run, and which names of files in them (see DIB's dib-run-parts).
_PHASES = frozenset(
    f"{phase}.d"
    for phase in "root extra-data pre-install install post-install post-root block-device "
    "pre-finalise finalise cleanup".split()
)
_RUN = re.compile(r"[0-9A-Za-z_-]+")
_LIBRARY = "lib"  # diskimage-builder's own scripts, beside its elements


def elements_path(project: Path) -> list[Path]:
    """Where elements are looked for, first match wins: the project's, ours, diskimage-builder's.

    Raises:
        HostError: diskimage-builder is not installed, or a folder's name cannot be passed to it.
    """
    ours = Path(__file__).resolve().parent.parent / "elements"
    places = [project.resolve() / "images" / "elements", ours, _package() / "elements"]
    for place in places:
        if ":" in str(place):
            raise HostError(
                f"diskimage-builder cannot use the elements in {place}: a colon ends a path",
                hint="Move the project to a folder without a colon in its name.",
            )
    return [place for place in places if place.is_dir()]


def stock_elements() -> list[Path]:
    """The folder of diskimage-builder's own elements.

    Raises:
        HostError: it is not installed.
    """
    return [_package() / "elements"]


def effective_elements(
    definition: ImageDefinition, parent: bool, inherited: Collection[str] = ()
) -> list[str]:
    """The elements that a build of *definition* names to diskimage-builder.

    A parent's tree went through its elements already. Of ours the base runs again in a child, as
    what a child adds may need other boot files.

    Args:
        definition: the image as its own file says it.
        parent: is it built upon a parent's tree?
        inherited: elements that its ancestors' definitions name.
    """
    if parent:
        system = [PARENT]
        own = [name for name in definition.elements if name not in inherited]
    else:
        system = [f"{definition.distribution}-minimal"]
        own = list(definition.elements)
    return list(dict.fromkeys([*system, BASE, *own]))


def expand(names: Sequence[str], path: list[Path]) -> dict[str, Path]:
    """*names* and all that they depend on, sorted by name, with the folder of each.

    Args:
        names: as given to diskimage-builder.
        path: see :func:`elements_path`.

    Raises:
        DefinitionError: an element is unknown (near misses are named), two provide the same
            thing, or none of them brings an operating system.
    """
    from diskimage_builder import element_dependencies as dib

    try:
        with _quiet(dib.__name__):
            found = dib.get_elements(list(names), ":".join(str(place) for place in path))
    except dib.MissingElementException as error:
        raise _unknown(names, path, error) from error
    except dib.AlreadyProvidedException as error:
        raise _twice(names, path) from error
    except dib.MissingOSException as error:
        raise DefinitionError(
            f"none of the elements {', '.join(names)} brings an operating system",
            hint="A distribution needs an element `<distribution>-minimal`; "
            f"known are: {', '.join(_minimal(path))}.",
        ) from error
    return {name: Path(folder) for name, folder in sorted(found)}


def check_hooks(elements: Mapping[str, Path], own: Path) -> None:
    """Refuse hooks that diskimage-builder would pass over in silence.

    Args:
        elements: see :func:`expand`.
        own: the project's folder of elements; those of others are not looked at.

    Raises:
        DefinitionError: a hook is not executable.
    """
    own = own.resolve()
    idle = [
        hook.relative_to(own.parent.parent).as_posix()
        for folder in elements.values()
        if folder.parent == own
        for hook in sorted(folder.glob("*.d/[0-9]*"))
        if hook.parent.name in _PHASES and hook.is_file() and not os.access(hook, os.X_OK)
        if _RUN.fullmatch(hook.name)
    ]
    if idle:
        is_not = "is not executable" if len(idle) == 1 else "are not executable"
        raise DefinitionError(
            f"{', '.join(idle)} {is_not}: diskimage-builder would pass over {_them(idle)}",
            hint=f"Run `chmod +x {' '.join(idle)}`, and commit that.",
        )


def _them(things: Sequence[str]) -> str:
    return "it" if len(things) == 1 else "them"


def digests(elements: Mapping[str, Path], memo: Path | None = None) -> dict[str, str]:
    """The digest of each element's files.

    Args:
        elements: see :func:`expand`.
        memo: a file that remembers them between runs, see :class:`Memo`.

    Raises:
        OSError: an element cannot be read.
    """
    known = Memo.load(memo)
    found = {name: known.digest(folder) for name, folder in elements.items()}
    known.save(memo)
    return found


def builder(memo: Path | None = None) -> str:
    """diskimage-builder's version and the digest of its own scripts: ``3.43.0 0123…``.

    Raises:
        HostError: it is not installed.
    """
    library = _package() / _LIBRARY
    return f"{_version()} {digests({_LIBRARY: library}, memo)[_LIBRARY]}"


def default_of(element: str, variable: str, path: list[Path]) -> str | None:
    """What an element's ``environment.d`` sets *variable* to when nobody else does.

    Args:
        element: its name; what it depends on is not looked at.
        variable: such as ``DIB_DISTRIBUTION_MIRROR``.
        path: see :func:`elements_path`.
    """
    pattern = re.compile(rf"\$\{{{re.escape(variable)}:?-\"?([^}}\"]*)\"?\}}")
    folders = [place / element / "environment.d" for place in path if (place / element).is_dir()]
    for file in sorted(folders[0].glob("*")) if folders else ():
        text = file.read_text(errors="replace")
        if (match := pattern.search(text)) and match[1]:
            return _value(match[1], text)
    return None


def _value(word: str, script: str) -> str | None:
    """*word*, or what a script sets the variable to that it stands for (the last time)."""
    if not word.startswith("$"):
        return word
    name = re.escape(word.strip("${}"))
    set_to = re.findall(rf"^\s*(?:export )?{name}=[\"']?([^\s\"'$]+)", script, re.MULTILINE)
    return set_to[-1] if set_to else None


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Keep a library's log off the terminal: what it warns of is meant here, or raised as well."""
    logger = logging.getLogger(name)
    with _QUIET:  # two builds may begin at once
        was, logger.disabled = logger.disabled, True
        try:
            yield
        finally:
            logger.disabled = was


@cache
def _package() -> Path:
    found = importlib.util.find_spec("diskimage_builder")
    if found is None or found.origin is None:
        raise HostError(
            "diskimage-builder is not installed beside this Recast",
            hint="Install the extra that builds images: `pip install 'recast[build]'`.",
        )
    return Path(found.origin).resolve().parent


@cache
def _version() -> str:
    # Its folder's name says it; asking importlib.metadata costs 30 ms, which every plan would pay.
    for folder in _package().parent.glob("diskimage_builder-*.dist-info"):
        return folder.name.removeprefix("diskimage_builder-").removesuffix(".dist-info")
    from importlib.metadata import version

    return version("diskimage-builder")


def _names(path: list[Path]) -> dict[str, Path]:
    return {
        folder.name: folder for place in reversed(path) for folder in place.iterdir()
        if folder.is_dir() and not folder.name.startswith((".", "_"))
    }  # fmt: skip


def _minimal(path: list[Path]) -> list[str]:
    return sorted(name for name in _names(path) if name.endswith("-minimal"))


def _unknown(names: Sequence[str], path: list[Path], error: Exception) -> DefinitionError:
    match = re.search(r"'([^']*)'", str(error))
    missing = match[1] if match else str(error)
    known = _names(path)
    near = difflib.get_close_matches(missing, known, n=3, cutoff=0.6)
    needed_by = "" if missing in names else _needed_by(missing, known)
    if near:
        hint = f"Did you mean {' or '.join(f'`{name}`' for name in near)}?"
    else:
        hint = f"Make it in images/elements/{missing}/, or take one that diskimage-builder has."
    return DefinitionError(f"the element `{missing}`{needed_by} does not exist", hint=hint)


def _needed_by(missing: str, known: Mapping[str, Path]) -> str:
    users = [
        name for name, folder in sorted(known.items()) if missing in _lines(folder, "element-deps")
    ]
    return f", which `{users[0]}` depends on," if users else ""


def _twice(names: Sequence[str], path: list[Path]) -> DefinitionError:
    """Say who provides what twice; diskimage-builder's own message often leaves that out."""
    known = _names(path)
    providers: dict[str, list[str]] = {}
    reached = _closure(names, known)
    for name in sorted(reached):
        for thing in _lines(known[name], "element-provides"):
            providers.setdefault(thing, []).append(name)
    for thing, elements in sorted(providers.items()):
        if len(elements) > 1:
            both = " and ".join(f"`{name}`" for name in elements)
            extra = " (an image has one operating system)" if thing == _OPERATING_SYSTEM else ""
            return DefinitionError(
                f"the elements {both} both provide `{thing}`{extra}",
                hint="Remove one of them from the definition, or what depends on it.",
            )
        if thing in names:
            return DefinitionError(
                f"the element `{thing}` is provided by `{elements[0]}` already",
                hint=f"Remove `{thing}` from the definition.",
            )
    return DefinitionError(f"two of the elements {', '.join(names)} provide the same thing")


def _closure(names: Sequence[str], known: Mapping[str, Path]) -> set[str]:
    reached: set[str] = set()
    queue = list(names)
    while queue:
        name = queue.pop()
        if name in known and name not in reached:
            reached.add(name)
            queue += _lines(known[name], "element-deps")
    return reached


def _lines(folder: Path, file: str) -> list[str]:
    try:
        return sorted({line.strip() for line in (folder / file).read_text().splitlines()} - {""})
    except FileNotFoundError:
        return []
