"""The releases in the local store: which there are, and which one a person means.

A release is a folder, ``artifacts/images/<image>/<version>/``, with its manifest in it. The
order of an image's releases is that of their commits; builds of one commit (with changes in the
working tree) are in the order of building.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol, TypeVar

from pydantic import BaseModel, ValidationError

from pipeline.errors import BuildError, UsageError
from pipeline.files import format_size, write_atomically
from pipeline.models.fields import Record
from pipeline.models.release import Release, TestVerdict
from pipeline.packages import PackageDiff, diff

MANIFEST_SUFFIX = ".manifest.json"
DIFF_SUFFIX = ".package-diff.json"
LATEST = "latest"

_MANY = 5
_SHORTEST_HASH = 6  # hexadecimal digits by which a root hash or a commit may be called
_Model = TypeVar("_Model", bound=BaseModel)
_Release = TypeVar("_Release")
_ON_A_MACHINE = ("root", "verity", "uki")


class Called(Protocol):
    """What a release can be called by, wherever it is kept."""

    @property
    def version(self) -> str:
        """Its version."""

    @property
    def commit(self) -> str:
        """The commit that it was built from."""

    @property
    def root_hash(self) -> str:
        """Its root hash."""


class SizeChange(Record):
    """How one part grew; sizes in bytes."""

    old: int
    new: int

    @property
    def growth(self) -> int:
        """Bytes more than before; negative when it shrank."""
        return self.new - self.old


@dataclass(frozen=True)
class Stored:
    """A release in the local store.

    Attributes:
        release: its manifest.
        folder: where its files are.
        verdicts: what its tests said, by provider's name.
        built: when its root was written; the manifest knows only the commit's time.
    """

    release: Release
    folder: Path
    verdicts: tuple[TestVerdict, ...]
    built: datetime

    def passed(self, provider: str) -> bool | None:
        """Did this very root pass its tests there? None when it was not tested there."""
        for verdict in self.verdicts:
            if verdict.provider == provider:
                return verdict.passed and verdict.root_hash == self.release.root_hash
        return None

    @property
    def size(self) -> int:
        """Bytes that a machine stores of it: root, verity and boot file."""
        return machine_size(self.release)


def manifest_path(folder: Path, release_name: str) -> Path:
    """Where the manifest of the release in *folder* is."""
    return folder / f"{release_name}{MANIFEST_SUFFIX}"


def verdict_path(folder: Path, release_name: str, provider: str) -> Path:
    """Where the verdict of the tests on *provider* is, for the release in *folder*."""
    return folder / f"{release_name}.test-{provider}.json"


def save(folder: Path, release: Release) -> None:
    """Write the manifest of the release in *folder*.

    Raises:
        DiskFullError: no space is left.
    """
    path = manifest_path(folder, release.name)
    write_atomically(path, release.model_dump_json(indent=2) + "\n")


class Side(Record):
    """One of the two releases of a comparison."""

    release: str
    root_hash: str


class ReleaseDiff(Record):
    """What changed between two releases of an image; the file ``<name>.package-diff.json``.

    Attributes:
        old: the release before; None for an image's first.
        packages: what changed; empty for a first release.
        sizes: by part, in bytes.
    """

    format: int = 1
    old: Side | None
    new: Side
    packages: PackageDiff
    sizes: dict[str, SizeChange]


def compare(old: Release | None, new: Release) -> ReleaseDiff:
    """What changed from *old* to *new*; nothing did when there is no *old*."""
    side = Side(release=new.name, root_hash=new.root_hash)
    if old is None:
        return ReleaseDiff(old=None, new=side, packages=PackageDiff(), sizes={})
    return ReleaseDiff(
        old=Side(release=old.name, root_hash=old.root_hash),
        new=side,
        packages=diff(old.packages, new.packages),
        sizes=growth(old, new),
    )


def growth(old: Release, new: Release) -> dict[str, SizeChange]:
    """How the parts that both releases have grew from *old* to *new*, in the order of *new*."""
    return {
        role: SizeChange(old=old.parts[role].size, new=part.size)
        for role, part in new.parts.items()
        if role in old.parts
    }


def format_growth(change: SizeChange) -> str:
    """``437 MiB, 3.4 MiB more``, or ``437 MiB, as before``."""
    now = format_size(change.new)
    if change.growth == 0:
        return f"{now}, as before"
    return f"{now}, {format_size(abs(change.growth))} {'more' if change.growth > 0 else 'less'}"


def machine_size(release: Release) -> int:
    """Bytes that a machine stores of *release*: root, verity and boot file."""
    return sum(release.parts[role].size for role in _ON_A_MACHINE if role in release.parts)


class Releases:
    """The releases under ``artifacts/images``.

    Attributes:
        problems: one sentence for each release that had to be passed over in a list.
    """

    def __init__(self, artifacts: Path) -> None:
        self._root = artifacts / "images"
        self.problems: list[str] = []

    def images(self) -> list[str]:
        """The names of the images that have a release here, sorted."""
        if not self._root.is_dir():
            return []
        names = (folder.name for folder in self._root.iterdir() if folder.is_dir())
        return sorted(name for name in names if self._folders(name))

    def of(self, image: str) -> list[Stored]:
        """All releases of *image*, oldest first; a broken one goes to ``problems`` instead."""
        found: list[Stored] = []
        for folder in self._folders(image):
            try:
                found.append(_read(folder))
            except BuildError as error:
                if error.message not in self.problems:
                    self.problems.append(error.message)
        return sorted(found, key=lambda s: (s.release.created, s.built, s.release.version))

    def latest(self, image: str) -> Stored | None:
        """The newest release of *image*."""
        return next(reversed(self.of(image)), None)

    def find(self, image: str, version: str) -> Stored | None:
        """The release with exactly this version.

        Raises:
            BuildError: it is there, and its manifest cannot be read.
        """
        folder = self._root / image / version
        return _read(folder) if folder in self._folders(image) else None

    def previous(self, release: Release) -> Stored | None:
        """The release of the same image that came before *release*, itself stored or not yet."""
        older: list[Stored] = []
        for stored in self.of(release.image):
            if stored.release.version == release.version:
                return older[-1] if older else None
            older.append(stored)
        return next((s for s in reversed(older) if s.release.created <= release.created), None)

    def resolve(self, words: str, known: Iterable[str] = ()) -> Stored:
        """The release that a person calls *words*.

        ``IMAGE`` (its newest), ``IMAGE@VERSION``, ``IMAGE@`` and the beginning of a version, a
        commit or a root hash, or a release's full name.

        Args:
            words: what was typed.
            known: names of images that may have no release yet, for the error's advice.

        Raises:
            UsageError: there is no such release, or more than one; names what is near.
            BuildError: its manifest cannot be read.
        """
        image, version = split(words)
        exact = self.find(image, version) if version else None
        if exact is not None:
            return exact
        stored = self.of(image)
        if not stored:
            raise self._no_image(image, known)
        return choose(image, version, stored, lambda each: each.release)

    def _folders(self, image: str) -> list[Path]:
        if not image or "/" in image or image.startswith("."):
            return []
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return [
                folder
                for folder in sorted((self._root / image).iterdir())
                if folder.is_dir() and any(folder.glob(f"{image}_*{MANIFEST_SUFFIX}"))
            ]
        return []

    def _no_image(self, image: str, known: Iterable[str]) -> UsageError:
        defined = set(known)
        if self._folders(image):
            return UsageError(
                f"no release of {image} can be read", hint="; ".join(self.problems[:_MANY])
            )
        if image in defined:
            return UsageError(
                f"{image} has no release yet", hint=f"Build one with `recast run {image}`."
            )
        return no_image(image, defined | set(self.images()))


def read_verdict(path: Path) -> TestVerdict:
    """Read what the tests said.

    Raises:
        BuildError: the file cannot be understood.
    """
    return _parse(TestVerdict, path)


def _read(folder: Path) -> Stored:
    manifest = min(folder.glob(f"{folder.parent.name}_*{MANIFEST_SUFFIX}"))
    release = _parse(Release, manifest)
    if (release.image, release.version) != (folder.parent.name, folder.name):
        raise BuildError(
            f"{manifest} is the manifest of {release.name}, in another release's folder",
            hint=f"Remove {folder} and build again.",
        )
    verdicts = [read_verdict(path) for path in folder.glob(f"{release.name}.test-*.json")]
    root = release.parts.get("root")
    written = manifest
    if root is not None and (folder / root.file).exists():
        written = folder / root.file
    return Stored(
        release=release,
        folder=folder,
        verdicts=tuple(sorted(verdicts, key=lambda verdict: verdict.provider)),
        built=datetime.fromtimestamp(written.stat().st_mtime, UTC),
    )


def _parse(model: type[_Model], path: Path) -> _Model:
    try:
        return model.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        reason = str(error)
        if isinstance(error, ValidationError):
            first = error.errors(include_url=False)[0]
            reason = ": ".join([".".join(map(str, first["loc"])), first["msg"]]).lstrip(": ")
        raise BuildError(
            f"{path} cannot be read: {reason}",
            hint=f"Remove {path.parent} and build again: what is there is not whole.",
        ) from error


def split(words: str) -> tuple[str, str]:
    """The image and the version in what a person calls a release; the version may be empty."""
    image, at, version = words.partition("@")
    if at or "_" not in words:
        return image, version
    image, _, rest = words.partition("_")
    return image, rest.rpartition("_")[0] or rest


def choose(
    image: str,
    version: str,
    releases: Sequence[_Release],
    called: Callable[[_Release], Called],
) -> _Release:
    """The one of an image's releases that a person calls *version*.

    Args:
        image: the image's name.
        version: a version or its beginning, the beginning of a commit or of a root hash; the
            newest release when it is empty or :data:`LATEST`.
        releases: all of the image's, oldest first; there is at least one.
        called: what each of them can be called by.

    Raises:
        UsageError: none or several are called that; names what is near.
    """
    if version in ("", LATEST):
        return releases[-1]
    found = [each for each in releases if _is_called(called(each), version)]
    exact = [each for each in found if called(each).version == version]
    if len(found) == 1 or exact:
        return (exact or found)[0]
    versions = [called(each).version for each in found or releases]
    raise _several(image, version, versions) if found else _no_version(image, version, versions)


def no_image(image: str, names: Iterable[str]) -> UsageError:
    """The error for an image that nobody knows; says which of *names* is near."""
    return UsageError(f"there is no image `{image}`", hint=_near(image, sorted(names)))


def _is_called(release: Called, text: str) -> bool:
    if release.version.startswith(text):
        return True
    digits = text.removeprefix("g")
    return len(digits) >= _SHORTEST_HASH and (
        release.commit.startswith(digits) or release.root_hash.startswith(text)
    )


def _several(image: str, version: str, versions: Sequence[str]) -> UsageError:
    names = ", ".join(versions[-_MANY:])
    return UsageError(
        f"{len(versions)} releases of {image} are called `{version}`",
        hint=f"Say more of the version: {names}{', …' if len(versions) > _MANY else ''}.",
    )


def _no_version(image: str, version: str, versions: Sequence[str]) -> UsageError:
    return UsageError(f"{image} has no release `{version}`", hint=_near(version, versions))


def _near(word: str, names: Sequence[str]) -> str:
    if not names:
        return "Nothing was built here yet: `recast run` builds every image."
    near = difflib.get_close_matches(word, names, n=3, cutoff=0.5)
    if near:
        return f"Did you mean {' or '.join(near)}?"
    shown = ", ".join([*names[-_MANY:], *(["…"] if len(names) > _MANY else [])])
    return f"There {'is' if len(names) == 1 else 'are'} {shown}."
