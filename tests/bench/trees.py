"""Trees of a small server, made from the distribution's archive: what changes between releases.

Every tree is kept below ``artifacts/bench/trees`` under a key of what it is made of: the recipe,
the tree that it begins with, and the versions of the packages. A second run makes nothing.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pipeline import digest
from pipeline.command import run
from pipeline.dib.archive import Archive
from pipeline.dib.mirrors import FAMILIES, Mirrors, mirrors
from pipeline.files import write_atomically
from pipeline.models.release import Package
from pipeline.packages import PackageDiff, diff, read_dpkg
from tests.bench.inside import run_inside

PACKAGES = tuple(
    "ca-certificates cryptsetup-bin curl dbus dosfstools dracut e2fsprogs erofs-utils iproute2 "
    "kmod linux-image-amd64 nginx-light openssh-server python3-minimal systemd systemd-boot "
    "systemd-boot-efi systemd-cryptsetup systemd-repart systemd-resolved systemd-sysv "
    "systemd-timesyncd udev xz-utils zstd".split()
)
"""What an image at the edge has: what edge-base and edge-web install, and the boot chain."""

_LACKING: Mapping[str, frozenset[str]] = {
    "bookworm": frozenset({"systemd-cryptsetup", "systemd-repart"})
}
_LIBRARIES = ("openssl", "gnutls28", "glibc", "expat", "libxml2", "zlib", "systemd")
_EXTRA = "jq"
_CONFIGURATION = ("etc/nginx/nginx.conf", "worker_connections 768;", "worker_connections 1024;")
_RECIPE = 1  # counts up when trees are to be made anew
_DAY = 86400.0


class MainAlone(Mirrors):
    """The point release as it was made: neither updates nor security updates."""

    def sources(self, release: str, components: Sequence[str]) -> list[str]:
        """Apt's line for the release itself."""
        return super().sources(release, components)[:1]


@dataclass(frozen=True)
class Tree:
    """A tree that is there.

    Attributes:
        name: such as ``base``.
        key: digest of what it was made of.
        tar: the tree, compressed with zstd.
        packages: what is installed.
    """

    name: str
    key: str
    tar: Path
    packages: tuple[Package, ...]

    def unpack(self, folder: Path) -> None:
        """Unpack it to *folder*, which is made."""
        folder.mkdir(parents=True)
        options = ["--numeric-owner", "--same-owner", "--xattrs", "--xattrs-include=*", "-p"]
        run(["tar", "-C", str(folder), "--zstd", *options, "-xf", str(self.tar)])


class Nursery:
    """Makes trees, and keeps them.

    Args:
        place: ``artifacts/bench``.
        log: gets what the tools print.
    """

    def __init__(self, place: Path, log: IO[str]) -> None:
        self._place = place
        self._trees = place / "trees"
        self._log = log
        self._mirrors = mirrors("debian")
        self._trees.mkdir(parents=True, exist_ok=True)

    def base(self, name: str, release: str) -> Tree:
        """The point release *release*, from the main archive alone."""
        alone = MainAlone("debian", self._mirrors.main, self._mirrors.security)
        archive = Archive("debian", release, "amd64", alone, self._place / "archive-main")
        archive.refresh(force=False, max_age=_DAY)
        wanted = [each for each in PACKAGES if each not in _LACKING.get(release, ())]
        key = digest.of_data([_RECIPE, release, wanted, archive.index_digest()])

        def make(folder: Path) -> tuple[Path, tuple[Package, ...]]:
            tar = folder / "tree.tar.zst"
            options = ["--mode=root", "--variant=minbase", f"--include={','.join(wanted)}"]
            keys = f"--keyring={FAMILIES['debian'].keyring}"
            lines = alone.sources(release, ["main"])
            run(["mmdebstrap", *options, keys, release, str(tar), *lines], log=self._log)
            read = ["tar", "--zstd", "-xOf", str(tar), "./var/lib/dpkg/status"]
            return tar, read_dpkg(run(read).stdout)

        return self._kept(name, key, make)

    def with_library(self, name: str, parent: Tree) -> Tree:
        """*parent* with one library that the security archive has a newer one of, and no more."""
        source, versions = self._library(parent)
        wanted = [f"{each}={version}" for each, version in sorted(versions.items())]

        def change(tree: Path) -> None:
            self._apt(tree, "install", "--only-upgrade", *wanted)
            _new_initrd(tree, self._log)

        print(f"  library: {source}: {', '.join(wanted)}", flush=True)
        return self._derived(name, parent, ["library", wanted], change)

    def with_package(self, name: str, parent: Tree) -> Tree:
        """*parent* with one small package more, and one line of a configuration file changed."""

        def change(tree: Path) -> None:
            self._apt(tree, "install", _EXTRA, main_alone=True)
            path, old, new = tree / _CONFIGURATION[0], *_CONFIGURATION[1:]
            text = path.read_text()
            if old not in text:
                raise ValueError(f"{path} has no line with {old!r}")
            path.write_text(text.replace(old, new))

        return self._derived(name, parent, ["package", _EXTRA, *_CONFIGURATION], change)

    def updated(self, name: str, parent: Tree) -> Tree:
        """*parent* with all updates and security updates there are now, the kernel's too."""
        now = self._now(parent)
        versions = sorted(f"{package}={found}" for package, (found, _) in now.items())

        def change(tree: Path) -> None:
            self._apt(tree, "dist-upgrade")
            old = _old_kernels(tree)
            if old:
                self._apt(tree, "purge", *old)
            _new_initrd(tree, self._log)

        return self._derived(name, parent, ["updated", versions], change)

    def _library(self, parent: Tree) -> tuple[str, dict[str, str]]:
        """A source package of libraries that has news, and its packages' new versions."""
        found: dict[str, dict[str, str]] = {}
        sources = {each.name: each.source.split(" ")[0] or each.name for each in parent.packages}
        for package, (version, suite) in self._now(parent).items():
            if suite.endswith("-security"):
                found.setdefault(sources[package], {})[package] = version
        found = {s: names for s, names in found.items() if any(n.startswith("lib") for n in names)}
        if not found:
            raise ValueError("the security archive has no newer library than the point release")
        for source in (*_LIBRARIES, *sorted(found)):
            if source in found:
                return source, found[source]
        raise AssertionError

    def _now(self, parent: Tree) -> dict[str, tuple[str, str]]:
        """What apt would install now in place of what *parent* has: version and suite."""
        archive = Archive("debian", "trixie", "amd64", self._mirrors, self._place / "archive")
        archive.refresh(force=False, max_age=_DAY)
        has = {each.name: each.version for each in parent.packages}
        candidates = archive.candidates(has)
        return {
            name: (found.version, found.suite)
            for name, found in candidates.items()
            if found.version != has[name]
        }

    def _apt(self, tree: Path, *words: str, main_alone: bool = False) -> None:
        """Let the tree's own apt do something, and leave nothing of that but the result."""
        lines = self._mirrors.sources("trixie", ["main"])
        stated = tree / "etc/apt/sources.list.d/bench.list"
        stated.write_text("".join(f"{line}\n" for line in lines[: 1 if main_alone else None]))
        aside = tree / "etc/apt/sources.list"
        kept = aside.read_bytes() if aside.exists() else None
        aside.unlink(missing_ok=True)
        options = ["-y", "-o", "APT::Install-Recommends=false", "-o", "Acquire::Languages=none"]
        try:
            for each in (("update",), words, ("clean",)):
                run_inside(tree, ["apt-get", *options, *each], log=self._log)
        finally:
            stated.unlink()
            if kept is not None:
                aside.write_bytes(kept)
        for path in (tree / "var/lib/apt/lists").iterdir():
            if path.is_file() and path.name != "lock":
                path.unlink()
        for path in (tree / "var/cache/apt").glob("*.bin"):
            path.unlink()

    def _derived(
        self, name: str, parent: Tree, recipe: Sequence[object], change: Callable[[Path], None]
    ) -> Tree:
        def make(folder: Path) -> tuple[Path, tuple[Package, ...]]:
            tree, tar = folder / "tree", folder / "tree.tar.zst"
            parent.unpack(tree)
            change(tree)
            pack(tree, tar)
            return tar, read_dpkg((tree / "var/lib/dpkg/status").read_text())

        return self._kept(name, digest.of_data([_RECIPE, parent.key, *recipe]), make)

    def _kept(
        self, name: str, key: str, make: Callable[[Path], tuple[Path, tuple[Package, ...]]]
    ) -> Tree:
        """The tree of that key; made when it is not there, and then older ones are removed."""
        tar = self._trees / f"{name}-{key[:16]}.tar.zst"
        known = tar.with_name(f"{name}-{key[:16]}.json")
        if known.exists() and tar.exists():
            packages = [Package(**each) for each in json.loads(known.read_text())]
            return Tree(name, key, tar, tuple(packages))
        print(f"  tree {name} ...", flush=True)
        with tempfile.TemporaryDirectory(prefix="tree-", dir=self._place) as folder:
            made, installed = make(Path(folder))
            for old in self._trees.iterdir():
                if re.fullmatch(rf"{re.escape(name)}-[0-9a-f]{{16}}\.(json|tar\.zst)", old.name):
                    old.unlink()
            shutil.move(made, tar)
        write_atomically(known, json.dumps([each.model_dump() for each in installed]))
        return Tree(name, key, tar, installed)


def changes(old: Tree, new: Tree) -> PackageDiff:
    """What was upgraded, added and removed."""
    return diff(old.packages, new.packages)


def pack(tree: Path, tar: Path) -> None:
    """Write *tree* to *tar*, with zstd; the mounts that programs had in it are gone."""
    options = ["--numeric-owner", "--xattrs", "--xattrs-include=*", "--sort=name"]
    run(["tar", "-C", str(tree), "--zstd", *options, "-cf", str(tar), "."])


def _old_kernels(tree: Path) -> list[str]:
    """Packages of kernels that the newest one has taken the place of."""
    status = (tree / "var/lib/dpkg/status").read_text()
    names = [each.name for each in read_dpkg(status) if re.match(r"linux-image-[0-9]", each.name)]
    wanted = re.search(r"^Package: linux-image-amd64\n(?:.+\n)*?Depends: (\S+)", status, re.M)
    return [name for name in names if wanted is not None and name != wanted[1]]


def _new_initrd(tree: Path, log: IO[str]) -> None:
    """The initrd as the distribution makes it, from what the tree has now."""
    for modules in (tree / "usr/lib/modules").iterdir():
        initrd = f"/boot/initrd.img-{modules.name}"
        run_inside(tree, ["dracut", "--force", "--quiet", initrd, modules.name], log=log)
