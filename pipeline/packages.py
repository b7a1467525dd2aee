"""What is installed in a tree, and what changed between two: read from dpkg's own database.

Parsing and Debian's version order come from debian-inspector, whose licence (Apache-2.0) fits
ours; python-debian's (GPL) does not.
"""

from __future__ import annotations

import contextlib
import re
import tarfile
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path
from typing import IO, Literal

from pydantic import ValidationError

from pipeline.errors import BuildError
from pipeline.files import write_atomically
from pipeline.models.fields import Record
from pipeline.models.release import Package

Direction = Literal["upgraded", "downgraded", "changed"]

_STATUS = "var/lib/dpkg/status"
_STATUS_FOLDER = "var/lib/dpkg/status.d/"  # one file per package: images without dpkg itself
_OS_RELEASE = ("usr/lib/os-release", "etc/os-release")
_NEEDED = ("package", "version", "architecture")
# Where Python keeps what it knows of a library; Debian's own belong to packages.
_LIBRARY = re.compile(r"(?!usr/lib/python3/dist-packages/).+\.dist-info/METADATA")


class PackageChange(Record):
    """One package in another version; ``changed`` when Debian's order tells no difference."""

    name: str
    architecture: str
    old: str
    new: str
    direction: Direction


class PackageDiff(Record):
    """What it takes to get from one set of packages to another; every part sorted by name."""

    added: tuple[Package, ...] = ()
    removed: tuple[Package, ...] = ()
    changed: tuple[PackageChange, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)

    def of(self, direction: Direction) -> tuple[PackageChange, ...]:
        """The changes of one direction."""
        return tuple(change for change in self.changed if change.direction == direction)

    def summary(self) -> str:
        """``3 upgraded, 1 added``, or ``no package changed``."""
        counts = (
            (len(self.of("upgraded")), "upgraded"),
            (len(self.of("downgraded")), "downgraded"),
            (len(self.of("changed")), "changed"),
            (len(self.added), "added"),
            (len(self.removed), "removed"),
        )
        return ", ".join(f"{n} {word}" for n, word in counts if n) or "no package changed"

    def lines(self) -> list[str]:
        """One line per package: what happened, its name, its version or versions."""
        changed = (
            f"{change.direction:<10} {change.name} {change.old} → {change.new}"
            for direction in ("downgraded", "upgraded", "changed")
            for change in self.of(direction)
        )
        added = (f"{'added':<10} {package.name} {package.version}" for package in self.added)
        removed = (f"{'removed':<10} {package.name} {package.version}" for package in self.removed)
        return [*changed, *added, *removed]


class Library(Record):
    """A Python library that no package brought, by its normalised name."""

    name: str
    version: str


@dataclass(frozen=True)
class Inventory:
    """What a tree holds.

    Attributes:
        packages: the installed packages, sorted.
        distribution: os-release's ``ID``, such as ``debian``; empty when the tree has none.
        distribution_version: os-release's ``VERSION_ID``, such as ``13``; may be empty.
        libraries: Python's, sorted: the agent's, and what elements installed with pip.
    """

    packages: tuple[Package, ...]
    distribution: str = ""
    distribution_version: str = ""
    libraries: tuple[Library, ...] = ()


def read_dpkg(status: str) -> tuple[Package, ...]:
    """The installed packages of a ``/var/lib/dpkg/status``, sorted by name and architecture.

    Packages that are removed but not purged, or half-installed, are left out.

    Raises:
        BuildError: a stanza cannot be understood; better none than a list with a hole.
    """
    return _sorted(
        _package(stanza)
        for stanza in _stanzas(status)
        if stanza.get("status", "").split()[-1:] == ["installed"]
    )


def from_tree(tar: Path) -> tuple[Package, ...]:
    """The installed packages of the tree in *tar*; as :func:`inspect`."""
    return inspect(tar).packages


class _Memo(Record):
    """What was read from a tar before, kept beside it."""

    size: int
    changed: int
    packages: tuple[Package, ...]
    distribution: str
    distribution_version: str
    libraries: tuple[Library, ...]

    @property
    def inventory(self) -> Inventory:
        """What was read."""
        return Inventory(
            self.packages, self.distribution, self.distribution_version, self.libraries
        )


def inspect(tar: Path) -> Inventory:
    """Read what tells of packages and libraries out of a tree, without unpacking the rest of it.

    A tar is read once: the answer is kept beside it as long as size and time stay as they are.

    Args:
        tar: the tree, an uncompressed tar.

    Raises:
        BuildError: *tar* cannot be read, or holds no dpkg database.
    """
    memo = tar.with_name(f"{tar.name}.packages.json")
    with contextlib.suppress(OSError, ValidationError):
        info = tar.stat()
        known = _Memo.model_validate_json(memo.read_bytes())
        if (known.size, known.changed) == (info.st_size, info.st_mtime_ns):
            return known.inventory
    found = _inspect(tar)
    with contextlib.suppress(OSError):
        kept = _Memo(size=tar.stat().st_size, changed=tar.stat().st_mtime_ns, **vars(found))
        write_atomically(memo, kept.model_dump_json())
    return found


def _inspect(tar: Path) -> Inventory:
    try:
        with tarfile.open(tar, "r:") as archive:
            texts = _wanted(archive)
    except (OSError, tarfile.TarError) as error:
        raise BuildError(
            f"the tree {tar} cannot be read: {error}",
            hint="Remove its folder and run again: the tree is then built anew.",
        ) from error
    folder = [text for name, text in texts.items() if name.startswith(_STATUS_FOLDER)]
    if _STATUS not in texts and not folder:
        raise BuildError(
            f"the tree {tar} holds no dpkg database (/{_STATUS})",
            hint="Packages are read from dpkg's database; other families of distributions "
            "cannot be scanned yet.",
        )
    found = list(read_dpkg(texts.get(_STATUS, "")))
    # A file of status.d describes what is there, and so may have no Status field.
    found += [_package(stanza) for text in folder for stanza in _stanzas(text)]
    about: dict[str, str] = {}
    for name in reversed(_OS_RELEASE):
        about.update(_os_release(texts.get(name, "")))
    told = (_library(text) for name, text in texts.items() if _LIBRARY.fullmatch(name))
    libraries = {library for library in told if library is not None}
    return Inventory(
        _sorted(found),
        about.get("ID", ""),
        about.get("VERSION_ID", ""),
        tuple(sorted(libraries, key=lambda each: (each.name, each.version))),
    )


def diff(old: Iterable[Package], new: Iterable[Package]) -> PackageDiff:
    """What changed from *old* to *new*; swapping the two swaps the answer's sides.

    A package that only moved between ``all`` and an architecture counts as changed, and one
    installed for two architectures as two.
    """
    before, after = _by_name(old), _by_name(new)
    added: list[Package] = []
    removed: list[Package] = []
    changed: list[PackageChange] = []
    for name in sorted(before.keys() | after.keys()):
        mine, theirs = dict(before.get(name, {})), dict(after.get(name, {}))
        pairs = [(mine.pop(key), theirs.pop(key)) for key in sorted(mine.keys() & theirs.keys())]
        if len(mine) == len(theirs) == 1:
            (was,), (now,) = mine.values(), theirs.values()
            if was.version != now.version:
                pairs.append((was, now))
                mine, theirs = {}, {}
        changed += [_change(was, now) for was, now in pairs if was.version != now.version]
        removed += [mine[key] for key in sorted(mine)]
        added += [theirs[key] for key in sorted(theirs)]
    return PackageDiff(added=tuple(added), removed=tuple(removed), changed=tuple(changed))


def compare_versions(left: str, right: str) -> int:
    """-1, 0 or 1 by Debian's version order (deb-version(7)); 0 for what is no version at all."""
    from debian_inspector.version import compare_version_objects

    try:
        return int(compare_version_objects(_version(left), _version(right)))
    except (TypeError, ValueError):
        return 0


def _version(text: str) -> object:
    """The three parts of a version.

    The library's own reader refuses what dpkg lets pass, such as ``1.0~`` and ``2.1+``.
    """
    from debian_inspector.version import Version

    epoch, colon, rest = text.partition(":")
    if not colon:
        epoch, rest = "0", text
    upstream, dash, revision = rest.rpartition("-")
    if not dash:
        upstream, revision = rest, "0"
    return Version(epoch=int(epoch), upstream=upstream, revision=revision)


def _change(was: Package, now: Package) -> PackageChange:
    order = compare_versions(was.version, now.version)
    return PackageChange(
        name=now.name,
        architecture=now.architecture,
        old=was.version,
        new=now.version,
        direction="upgraded" if order < 0 else "downgraded" if order > 0 else "changed",
    )


def _by_name(packages: Iterable[Package]) -> Mapping[str, dict[str, Package]]:
    names: defaultdict[str, dict[str, Package]] = defaultdict(dict)
    for package in packages:
        names[package.name][package.architecture] = package
    return names


def _sorted(packages: Iterable[Package]) -> tuple[Package, ...]:
    return tuple(sorted(packages, key=lambda p: (p.name, p.architecture, p.version)))


def _stanzas(text: str) -> list[Mapping[str, str]]:
    from debian_inspector.debcon import get_paragraphs_data

    stanzas: list[Mapping[str, str]] = list(get_paragraphs_data(text))
    for stanza in stanzas:
        if "package" not in stanza:
            start = next(iter(stanza.values()), "").strip()[:80]
            raise BuildError(
                f"dpkg's database has an entry that cannot be read, beginning with {start!r}",
                hint="Look for an element that writes to /var/lib/dpkg/status by itself.",
            )
    return stanzas


def _package(stanza: Mapping[str, str]) -> Package:
    missing = [field for field in _NEEDED if not stanza.get(field)]
    if missing:
        raise BuildError(
            f"dpkg's database lacks the {' and '.join(missing)} of the package {stanza['package']}",
            hint="Look for an element that writes to /var/lib/dpkg/status by itself.",
        )
    return Package(
        name=stanza["package"],
        version=stanza["version"],
        architecture=stanza["architecture"],
        source=stanza.get("source", ""),
    )


def _wanted(archive: tarfile.TarFile) -> dict[str, str]:
    texts: dict[str, str] = {}
    for member in archive:
        name = member.name.removeprefix("./").lstrip("/")
        status = name == _STATUS or (
            name.startswith(_STATUS_FOLDER) and not name.endswith(".md5sums")
        )
        if member.isfile() and (status or name in _OS_RELEASE or _LIBRARY.fullmatch(name)):
            file: IO[bytes] | None = archive.extractfile(member)
            if file is not None:
                texts[name] = file.read().decode(errors="replace")
    return texts


def _library(metadata: str) -> Library | None:
    """See the core metadata specification of Python's packaging; None for what is none of it."""
    fields = HeaderParser().parsestr(metadata)
    name, version = fields["Name"], fields["Version"]
    if not name or not version:
        return None
    return Library(name=re.sub(r"[-_.]+", "-", name).lower(), version=version)


def _os_release(text: str) -> dict[str, str]:
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line)
    return {key.strip(): value.strip().strip("\"'") for key, value in pairs}
