"""The agent in an image: which of our sources it is made of, for which Python, and its digest.

The element ``recast-agent``, which ``recast-base`` depends on, puts it into the tree. A project
that has an element of that name in ``images/elements`` gets that one, and none of what is here.
"""

from __future__ import annotations

import ast
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from pipeline import digest
from pipeline.dib.libraries import fetched
from pipeline.dib.memo import Memo
from pipeline.errors import DefinitionError, HostError

if TYPE_CHECKING:
    from pipeline.command import Stop
    from pipeline.models.image import ImageDefinition

ELEMENT = "recast-agent"
"""The element of ours that puts the agent into a tree."""

PLACE = "usr/lib/recast/agent"
"""Where it lies in a tree: its libraries, and ``pipeline`` as far as it needs it."""

_PACKAGE = Path(__file__).resolve().parent.parent
_START = "agent"  # the sub-package whose imports are followed
_LOCK = "agent/requirements.lock"

# The `python3` of each release that images are built on. A release that is missing here needs its
# line, and wheels of all libraries for its Python.
_PYTHONS = {
    "debian": {"bookworm": "3.11", "trixie": "3.13"},
    "ubuntu": {"noble": "3.12"},
}


@dataclass(frozen=True)
class Agent:
    """The agent that one image gets.

    Attributes:
        python: the version of the image's Python, such as ``3.13``.
        arch: the image's architecture, in Debian's words.
        digest: see :func:`digest_for`.
    """

    python: str
    arch: str
    digest: str


def takes_part(elements: Mapping[str, Path]) -> bool:
    """Do these elements (names and folders) put our agent into a tree?"""
    return elements.get(ELEMENT) == _PACKAGE / "elements" / ELEMENT


def python_of(definition: ImageDefinition) -> str:
    """The version of Python that an image (resolved) has: ``3.13``.

    Raises:
        DefinitionError: its release is not one that the agent is known to run on.
    """
    distribution, release = definition.distribution or "", definition.release or ""
    found = _PYTHONS.get(distribution, {}).get(release)
    if found is None:
        known = ", ".join(f"{name} {each}" for name, all_ in _PYTHONS.items() for each in all_)
        raise DefinitionError(
            f"the agent that Recast puts into {definition.name} is not known to run on "
            f"{distribution} {release}",
            hint=f"Base it on {known}; or give the project an element of its own instead, "
            f"images/elements/{ELEMENT}/: an empty folder makes images without an agent.",
        )
    return found


def digest_for(definition: ImageDefinition, sources: str) -> str:
    """The digest of the agent that an image gets: it is that of the image's Python, too.

    Args:
        definition: the image, resolved.
        sources: see :func:`sources_digest`.

    Raises:
        DefinitionError: see :func:`python_of`.
    """
    return _digest(sources, python_of(definition), definition.arch)


def agent_of(definition: ImageDefinition, planned: str) -> Agent:
    """The agent that an image (resolved) gets, its digest being *planned*.

    Raises:
        DefinitionError: see :func:`python_of`.
    """
    return Agent(python_of(definition), definition.arch, planned)


def sources_digest(memo: Path | None = None) -> str:
    """The digest of the agent's own sources and of the lock of its libraries.

    Args:
        memo: see :func:`pipeline.dib.elements.digests`.

    Raises:
        HostError: one of the sources is not Python.
    """
    known = Memo.load(memo)
    found = known.digest(_PACKAGE, lambda package: _sources_digest(sources(package), package))
    known.save(memo)
    return found


def sources(package: Path = _PACKAGE) -> dict[str, bytes]:
    """The agent's own sources by their path: what its modules import, and what that imports.

    Imports for the type checker are left out, those inside functions are not.

    Args:
        package: the folder ``pipeline``.

    Raises:
        HostError: one of them is not Python.
    """
    found: dict[str, bytes] = {}
    queue = [_name(path, package) for path in (package / _START).rglob("*.py")]
    while queue:
        parts = queue.pop().split(".")
        for depth in range(1, len(parts) + 1):  # importing a module imports what it lies in
            file = _file(parts[1:depth], package)
            if file is None or (path := _path(file, package)) in found:
                continue
            found[path] = file.read_bytes()
            queue += _imports(found[path], ".".join(parts[:depth]), file)
    return dict(sorted(found.items()))


def put(agent: Agent, element: Path, *, cache: Path, log: IO[str], stop: Stop) -> bool:
    """Put the agent into the copy of its element, for the hook to put it into the tree.

    Args:
        agent: what was planned.
        element: the copy.
        cache: libraries that were fetched before; shared with other builds.
        log: gets what is printed while libraries are fetched.
        stop: ends that when set.

    Returns:
        Whether it is still what was planned; if not, nothing was put there.

    Raises:
        NetworkError: libraries cannot be fetched.
        TrustError: they are not those that the lock names.
        HostError: this machine cannot fetch any.
        Interrupted: *stop* was set.
    """
    taken = sources()
    lock = (_PACKAGE / _LOCK).read_bytes()
    if _digest(_with_lock(taken, lock), agent.python, agent.arch) != agent.digest:
        return False
    place = element / ELEMENT / PLACE
    libraries = fetched(lock, agent.python, agent.arch, cache=cache, log=log, stop=stop)
    shutil.copytree(libraries, place)
    for name, text in taken.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(text)
    (place / "digest").write_text(agent.digest + "\n")
    (place / "python").write_text(agent.python + "\n")
    return True


def _digest(sources: str, python: str, arch: str) -> str:
    return digest.of_data([sources, python, arch])


def _sources_digest(taken: Mapping[str, bytes], package: Path) -> str:
    return _with_lock(taken, (package / _LOCK).read_bytes())


def _with_lock(taken: Mapping[str, bytes], lock: bytes) -> str:
    files = {name: digest.of_bytes(text) for name, text in taken.items()}
    return digest.of_data([files, digest.of_bytes(lock)])


def _name(path: Path, package: Path) -> str:
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _path(file: Path, package: Path) -> str:
    return file.relative_to(package.parent).as_posix()


def _file(parts: list[str], package: Path) -> Path | None:
    """The source of ``pipeline.PARTS``; None if that is no module."""
    folder = package.joinpath(*parts)
    for file in (folder / "__init__.py", folder.with_name(folder.name + ".py")):
        if file.is_file() and (parts or file.name == "__init__.py"):
            return file
    return None


def _imports(text: bytes, module: str, file: Path) -> list[str]:
    """The modules of ours that one imports, and names in them that may be modules as well."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError) as error:
        raise HostError(
            f"{file} is not Python: {error}",
            hint="It is a part of the agent that images get: mend it, or install Recast again.",
        ) from error
    within = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
    names: list[str] = []
    for node in _at_runtime(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = within[: len(within) - node.level + 1] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            names += [f"{origin}.{alias.name}" for alias in node.names]
    ours = _PACKAGE.name
    return [name for name in names if name.split(".")[0] == ours]


def _at_runtime(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below *node*, but for what only a type checker reads."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and _for_checkers(child.test):
            for other in child.orelse:
                yield other
                yield from _at_runtime(other)
        else:
            yield child
            yield from _at_runtime(child)


def _for_checkers(test: ast.expr) -> bool:
    name = test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", "")
    return name == "TYPE_CHECKING"
