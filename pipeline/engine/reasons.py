"""Why an image is built, in words: the difference between two sets of components."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from pipeline.engine.records import BuildRecord, Components
from pipeline.source import is_dirty

if TYPE_CHECKING:
    from pipeline.dib.archive import Candidate

NEVER_BUILT = "never built"
TESTS_CHANGED = "tests changed"
NEVER_PASSED = "tests never passed"

_NAMED = 5  # of one kind; the rest is counted


def unfinished(record: BuildRecord) -> str:
    """Why a build that is known must be done or completed all the same."""
    if is_dirty(record.version):
        return f"{record.version} was made of changes in no commit, or is gone"
    if record.version:
        return f"release {record.version} is gone"
    return "not finished the last time"


def differences(
    old: Components,
    new: Components,
    parent: str | None,
    candidates: Mapping[str, Candidate],
) -> tuple[str, ...]:
    """What has changed from *old* to *new*; empty only if nothing has.

    Args:
        old: of the last build.
        new: as they are now.
        parent: the parent image's name.
        candidates: what the archive offers, for the suites that it comes from.
    """
    fields = sorted(
        name
        for name in old.definition.keys() | new.definition.keys()
        if old.definition.get(name) != new.definition.get(name)
    )
    found: list[str] = []
    if fields:
        found.append(f"definition changed: {', '.join(fields)}")
    found += _few(list(_changes("file", old.files, new.files)), "files")
    found += _few(list(_changes("element", old.elements, new.elements)), "elements")
    if old.agent != new.agent:
        found.append(_agent(old.agent, new.agent))
    if old.builder != new.builder:
        found.append(_builder(old.builder, new.builder))
    if old.parent != new.parent and "from" not in fields:
        found.append(f"parent {parent} rebuilt")
    found += _few(_packages(old.archive, new.archive, candidates), "packages")
    if old.index != new.index:
        found.append("the archive changed")
    if old.format != new.format:
        found.append(f"assembly format {old.format} → {new.format}")
    return tuple(found)


def _changes(what: str, old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[str]:
    for name in sorted(old.keys() | new.keys()):
        if name not in old:
            yield f"{what} {name} added"
        elif name not in new:
            yield f"{what} {name} removed"
        elif old[name] != new[name]:
            yield f"{what} {name} changed"


def _packages(
    old: Mapping[str, str], new: Mapping[str, str], candidates: Mapping[str, Candidate]
) -> list[str]:
    """Security updates first: they are why one hurries."""
    found: list[tuple[bool, str]] = []
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            candidate = candidates.get(name)
            suite = candidate.suite if candidate and candidate.version == new.get(name) else ""
            text = f"{name} {old.get(name, '(none)')} → {new.get(name, '(none)')}"
            found.append((not suite.endswith("-security"), f"{text} in {suite}" if suite else text))
    return [text for _, text in sorted(found)]


def _agent(old: str, new: str) -> str:
    if old and new:
        return "the agent changed"
    return "the agent added" if new else "the agent removed"


def _builder(old: str, new: str) -> str:
    was, now = old.split(" ")[0], new.split(" ")[0]
    if was != now:
        return f"diskimage-builder {was} → {now}"
    return "diskimage-builder's own scripts changed"


def _few(texts: list[str], kind: str) -> list[str]:
    if len(texts) <= _NAMED:
        return texts
    more = len(texts) - _NAMED
    return [*texts[:_NAMED], f"and {more} more {kind if more > 1 else kind.removesuffix('s')}"]
