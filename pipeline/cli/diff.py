"""``recast diff``: what differs between two releases, and what that costs a machine's link."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.cli.context import Context
from pipeline.cli.found import Found, find_release
from pipeline.cli.outcomes import print_json
from pipeline.cli.terminal import colour, fitting_table, is_terminal, printable, width
from pipeline.errors import UsageError
from pipeline.files import format_size
from pipeline.releases import ReleaseDiff, compare

if TYPE_CHECKING:
    from pipeline.disk.changes import Changes, FileChange
    from pipeline.transfer.costs import Costs

_ROLES = ("root", "uki")
_NAMES = {"root": "root", "uki": "boot file"}
_PACKAGES = 15  # that are named; --json has them all
_FILES = 20
_LABEL = 12  # columns
_NUMBERS = 24  # columns that the table of files needs for bytes
_SHORTEST = 24  # columns of a path
_LESS = ("old", "new")  # what a narrow terminal does without, in this order


@dataclass(frozen=True)
class _Side:
    """One of the two: a release, or a file by itself."""

    name: str
    files: Mapping[str, Path]  # by role; those that are here
    found: Found | None = None


@dataclass(frozen=True)
class _Diff:
    """Everything that there is to tell."""

    old: _Side
    new: _Side
    packages: ReleaseDiff | None
    changes: Mapping[str, Changes]  # by role
    costs: Costs | None
    notes: tuple[str, ...]


@click.command()
@click.argument("old", metavar="OLD")
@click.argument("new", metavar="NEW")
@click.option("--all", "every", is_flag=True, help=f"List all files, not only {_FILES}.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def diff(old: str, new: str, every: bool, as_json: bool) -> None:
    """Show what differs between two releases, and what that costs a machine's link.

    OLD and NEW are releases, as for `recast show`, or files: roots (….root.erofs) or boot files
    (….efi). Files are read where a release was built. What costs is blocks of 4 KiB that OLD
    holds nowhere: a file that only moved costs nothing. Blocks are counted as they are; what is
    downloaded is compressed, and a delta takes from a block what is like an old one.

    \b
    Example:
      recast diff edge-web@20260301 edge-web
      recast diff old.root.erofs new.root.erofs --all
    """
    found = _compare(_side(old), _side(new))
    if as_json:
        print_json(_as_data(found))
        return
    shown = sum(len(each.files) for each in found.changes.values()) if every else _FILES
    sections = [_title(found), _packages(found), _files(found, shown), _downloads(found)]
    sections.append("\n".join(found.notes))
    click.echo(printable("\n\n".join(section for section in sections if section), sys.stdout))


def _side(words: str) -> _Side:
    """What *words* mean; a file comes first, as no release is called like one."""
    from pipeline.disk.changes import kind_of

    path = Path(words)
    if path.is_file():
        return _Side(words, {kind_of(path): path})
    if "/" in words:
        raise UsageError(f"there is no file {words}")
    found = find_release(Context.find(), words)
    release, stored = found.release, found.stored
    files = {
        role: stored.folder / release.parts[role].file
        for role in _ROLES
        if stored is not None and role in release.parts
    }
    here = {role: file for role, file in files.items() if file.is_file()}
    return _Side(f"{release.image} {release.version}", here, found)


def _compare(old: _Side, new: _Side) -> _Diff:
    changes: dict[str, Changes] = {}
    notes: list[str] = []
    packages = None
    if old.found is not None and new.found is not None:
        packages = compare(old.found.release, new.found.release)
    elif not set(old.files) & set(new.files):
        kinds = [" and ".join(_NAMES[r] for r in side.files) or "nothing" for side in (old, new)]
        raise UsageError(
            f"{old.name} and {new.name} have nothing to compare: {kinds[0]} here, {kinds[1]} there"
        )
    for role in _ROLES:
        if role in old.files and role in new.files:
            changes[role] = _changes(role, old, new)
        elif packages is not None:
            missing = " and ".join(side.name for side in (old, new) if role not in side.files)
            notes.append(
                f"The {_NAMES[role]} of {missing} is not here: compare where it was built."
            )
    costs, note = _costs(old, new)
    return _Diff(old, new, packages, changes, costs, (*notes, *([note] if note else [])))


def _changes(role: str, old: _Side, new: _Side) -> Changes:
    from pipeline.disk.changes import NO_CHANGES, root_changes, uki_changes

    if old.found is not None and new.found is not None:
        left, right = (side.found.release.parts[role] for side in (old, new) if side.found)
        if left.digest == right.digest:
            return NO_CHANGES
    if is_terminal(sys.stderr):
        click.echo(printable(f"comparing the {_NAMES[role]} …", sys.stderr), err=True)
    read = root_changes if role == "root" else uki_changes
    return read(old.files[role], new.files[role])


def _costs(old: _Side, new: _Side) -> tuple[Costs | None, str]:
    """What *new* costs a machine that runs *old*, and a word on what is not known of it."""
    from pipeline.transfer.costs import costs

    if new.found is None or old.found is None:
        return None, ""
    if new.found.published is None:
        return None, f"{new.name} is not published: what machines download is not known yet."
    base = old.found.published
    note = "" if base else f"{old.name} is not published: no machine can have it as a start."
    return costs(Context.find().store, new.found.published, base), note


def _as_data(found: _Diff) -> dict[str, object]:
    from pipeline.cli.wire import costs_data
    from pipeline.transfer.costs import LINK

    return {
        "old": _side_data(found.old),
        "new": _side_data(found.new),
        "changes": found.packages.model_dump(mode="json") if found.packages else None,
        "files": {role: asdict(each) for role, each in found.changes.items()},
        "downloads": (
            {"bits_per_second": LINK, **costs_data(found.costs)} if found.costs else None
        ),
        "notes": list(found.notes),
    }


def _side_data(side: _Side) -> dict[str, object]:
    release = side.found.release if side.found else None
    return {
        "name": side.name,
        "version": release.version if release else None,
        "root_hash": release.root_hash if release else None,
        "published": side.found is not None and side.found.published is not None,
        "files": {role: str(file) for role, file in side.files.items()},
    }


def _title(found: _Diff) -> str:
    room = max((width() - 3) // 2, _SHORTEST) if is_terminal(sys.stdout) else sys.maxsize
    names = (_fitted(side.name, room) for side in (found.old, found.new))
    return colour(" → ".join(names), "", bold=True)


def _packages(found: _Diff) -> str:
    if found.packages is None:
        return ""
    change = found.packages.packages
    lines = [_field("packages", change.summary())]
    named = change.lines()
    lines += [_field("", line) for line in named[:_PACKAGES]]
    if len(named) > _PACKAGES:
        lines.append(_field("", f"… and {len(named) - _PACKAGES} more: `--json` lists all"))
    return "\n".join(lines)


def _files(found: _Diff, most: int) -> str:
    lines = [_part(role, each) for role, each in found.changes.items()]
    # A root's paths begin with a slash, a boot file's pieces do not.
    files = [each for changes in found.changes.values() for each in changes.files]
    files.sort(key=lambda each: (-each.cost, each.path))
    if files:
        rows = [_row(each, _room(files[:most])) for each in files[:most]]
        headers = ("new blocks", "old", "new", "path", "why")
        lines += ["", fitting_table(rows, headers, _LESS)]
    if len(files) > most:
        rest = files[most:]
        size = format_size(sum(each.cost for each in rest))
        lines.append(f"… and {len(rest)} more, with {size} in new blocks: `--all` lists them")
    return "\n".join(lines)


def _room(files: Sequence[FileChange]) -> int:
    """Columns that there are for a path."""
    if not is_terminal(sys.stdout):
        return sys.maxsize
    return max(width() - _NUMBERS - max(len(each.why) for each in files), _SHORTEST)


def _part(role: str, changes: Changes) -> str:
    if not changes.files and not changes.total:
        return _field(_NAMES[role], "the same")
    text = f"{format_size(changes.total)} in new blocks of {format_size(changes.size)}"
    if changes.metadata:
        what = "inodes and folders" if role == "root" else "headers"
        text += f", {format_size(changes.metadata)} of it {what}"
    return _field(_NAMES[role], text)


def _row(change: FileChange, room: int) -> dict[str, str]:
    return {
        "new blocks": format_size(change.cost) if change.cost else "–",
        "old": "–" if change.old is None else format_size(change.old),
        "new": "–" if change.new is None else format_size(change.new),
        "path": _fitted(_plain(change.path), room),
        "why": _plain(change.why),
    }


def _downloads(found: _Diff) -> str:
    if found.costs is None:
        return ""
    from pipeline.cli.wire import cost_cells, cost_headers

    parts: list[tuple[str, Costs]] = [
        (_NAMES[role], {role: each}) for role, each in found.costs.items()
    ]
    parts.append(("together", found.costs))
    headers = ["what", *cost_headers([costs for _, costs in parts])]
    rows = [{"what": name, **cost_cells(costs)} for name, costs in parts]
    title = colour("what a machine downloads, at most", "", bold=True)
    return f"{title}\n{fitting_table(rows, headers)}"


def _plain(text: str) -> str:
    """*text* from an image: nothing in it moves a cursor."""
    return "".join(c if c.isprintable() else "?" for c in text)


def _fitted(path: str, room: int) -> str:
    """A path in so many columns: what is left out is in its middle."""
    if len(path) <= room:
        return path
    tail = (room - 1) * 2 // 3
    return f"{path[: room - 1 - tail]}…{path[-tail:]}"


def _field(label: str, value: str) -> str:
    return f"{label:<{_LABEL}}{value}"
