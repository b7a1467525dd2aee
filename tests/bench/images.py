"""Two images of a tree: as a distribution would ship it, and as Recast does.

Every image is kept below ``artifacts/bench/images`` under a key of the tree and of what is done to
it. The agent is left out of ours: it is the same in every release of one version of Recast.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pipeline import digest, disk
from pipeline.command import run
from pipeline.disk import assemble
from pipeline.files import give_name
from tests.bench.inside import run_inside
from tests.bench.trees import Tree, pack

ORDINARY, OURS = "ordinary", "ours"
_RECIPE = 1  # counts up when images are to be made anew
_MIB = 1 << 20
_SIZES = assemble.Sizes.of_budget(1536 * _MIB, 512 * _MIB)
_UKI_BUDGET = 256 * _MIB
_IMAGE = "bench"
_ELEMENT = Path(assemble.__file__).parents[1] / "elements" / "recast-base"
_SCRIPTS = ("post-install.d/50-recast-base", "finalise.d/50-recast-kernel")


@dataclass(frozen=True)
class Image:
    """One release's files.

    Attributes:
        flavour: ``ordinary`` or ``ours``.
        name: of the tree.
        files: by role, in the order in which they are sent. An ordinary image has one, its root
            with kernel and initrd in /boot; ours has ``root`` and ``uki``.
        packed: an ordinary image as a squashfs: casync and zsync fetch a third of the bytes of it
            that they do of an EROFS, which has every file's place beside its content. Deltas
            between two of these are larger. Ours has none.
        tree: what is in it, as a tar, for those that send files; of ours with the UKI in /boot.
        digest: over all of it.
    """

    flavour: str
    name: str
    files: Mapping[str, Path]
    packed: Path | None
    tree: Path
    digest: str

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(path.stat().st_size for path in self.files.values())


class Studio:
    """Makes images, and keeps them.

    Args:
        place: ``artifacts/bench``.
        log: gets what the tools print.
    """

    def __init__(self, place: Path, log: IO[str]) -> None:
        self._place = place
        self._images = place / "images"
        self._log = log
        scripts = digest.of_folder(_ELEMENT)
        self._ours = digest.of_data([_RECIPE, "ours", disk.FORMAT, scripts])

    def ordinary(self, tree: Tree) -> Image:
        """The tree unchanged, in filesystems made with their defaults."""
        key = digest.of_data([_RECIPE, ORDINARY, tree.key])
        folder = self._kept(f"{tree.name}-{ORDINARY}", key, lambda f: self._fill(tree, f))
        files = {"root": folder / "root"}
        return Image(ORDINARY, tree.name, files, folder / "squashfs", tree.tar, key)

    def ours(self, tree: Tree) -> Image:
        """The tree as our element and our assembly leave it: a plain root, and a UKI."""
        key = digest.of_data([self._ours, tree.key])
        folder = self._kept(f"{tree.name}-{OURS}", key, lambda f: self._assemble(tree, f))
        files = {role: folder / role for role in ("root", "uki")}
        return Image(OURS, tree.name, files, None, folder / "tree.tar.zst", key)

    def _fill(self, tree: Tree, folder: Path) -> None:
        root = folder / "tree"
        tree.unpack(root)
        run(["mkfs.erofs", "--quiet", str(folder / "root"), str(root)], log=self._log)
        options = ["-comp", "zstd", "-noappend", "-quiet", "-no-progress"]
        run(["mksquashfs", str(root), str(folder / "squashfs"), *options], log=self._log)
        shutil.rmtree(root)

    def _assemble(self, tree: Tree, folder: Path) -> None:
        root, tar = folder / "tree", folder / "tree.tar"
        tree.unpack(root)
        self._apply_element(root)
        run(["tar", "-C", str(root), "--xattrs", "--numeric-owner", "-cf", str(tar), "."])
        shutil.rmtree(root)
        parts = assemble.make_root(tar, folder, image=_IMAGE, budget=_SIZES.root, log=self._log)
        tar.unlink()
        # A name of one length: that of a release names a commit.
        version = f"20260301.120000.g{hashlib.sha256(tree.key.encode()).hexdigest()[:12]}"
        files = assemble.make_boot_files(
            parts,
            assemble.Naming(_IMAGE, version, f"{_IMAGE}_{version}_amd64"),
            arguments=["console=tty0", "console=ttyS0,115200"],
            sizes=_SIZES,
            budget=_UKI_BUDGET,
            log=self._log,
        )
        for role in ("disk", "verity"):
            files[role].unlink()
        shutil.copyfile(files["uki"], root / "boot" / "uki.efi")
        pack(root, folder / "tree.tar.zst")
        shutil.rmtree(root)
        for role in ("root", "uki"):
            files[role].rename(folder / role)

    def _apply_element(self, root: Path) -> None:
        """What recast-base does to a tree: its files, plain modules, a plain initrd."""
        inside = root / "recast-base"
        shutil.copytree(_ELEMENT, inside, symlinks=True)
        env = {f"RECAST_{name.upper()}_SIZE": str(n) for name, n in _SIZES.as_dict().items()}
        for script in _SCRIPTS:
            run_inside(root, [f"/recast-base/{script}"], log=self._log, env=env)
        shutil.rmtree(inside)

    def _kept(self, name: str, key: str, make: Callable[[Path], None]) -> Path:
        """The folder of that key; made when it is not there, and then older ones are removed."""
        final = self._images / f"{name}-{key[:16]}"
        if final.is_dir():
            return final
        print(f"  image {name} ...", flush=True)
        with tempfile.TemporaryDirectory(prefix="image-", dir=self._place) as scratch:
            folder = Path(scratch) / "image"
            folder.mkdir()
            make(folder)
            for path in folder.iterdir():
                path.chmod(0o444)
            for old in self._images.glob(f"{name}-" + "[0-9a-f]" * 16):
                shutil.rmtree(old)
            give_name(folder, final)
        return final
