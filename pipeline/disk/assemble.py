"""From the tar of a tree to the parts of a release: root, verity, UKI, disk.

Two steps, because what lies between them decides whether there is a new release at all: the root
and its hash know nothing of commits and versions; the UKI and the disk carry the release's name.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pipeline import digest
from pipeline.command import CommandError, Stop, run
from pipeline.disk import erofs, gpt, initrd, tree, uki, verity
from pipeline.disk.rooted import resolve
from pipeline.errors import BudgetError, BuildError
from pipeline.files import disk_full, explained, format_size, free_space

KERNEL_ARGUMENTS = (
    "systemd.volatile=overlay",
    # Nobody is there to type: what cannot boot reboots, and the boot loader counts.
    "rd.shell=0",
    "rd.emergency=reboot",
    "panic=10",
    # A power cut while an update names its slot may leave one half of the partition table damaged:
    # the kernel then uses the other one, which by itself it would not.
    "gpt",
)
"""What every release has on its command line beside ``roothash=`` and ``recast.release=``."""

_STUB = "usr/lib/systemd/boot/efi/linuxx64.efi.stub"
_BOOT_LOADER = "usr/lib/systemd/boot/efi/systemd-bootx64.efi"
_INITRD = "boot/recast/initrd"
_OS_RELEASE = "usr/lib/os-release"
_LARGEST = 6
_NO_ROOM = 1 << 20


@dataclass(frozen=True)
class Sizes:
    """Bytes of the partitions of a machine's disk; they follow from an image's budget."""

    root: int
    verity: int
    esp: int

    @classmethod
    def of_budget(cls, root: int, esp: int) -> Sizes:
        """A release that is within its budget fits every machine that an older one was put on."""
        step = gpt.ALIGNMENT
        hashes = verity.tree_size(root)
        return cls(root, -(-hashes // step) * step, esp)

    def as_dict(self) -> dict[str, int]:
        """By role: ``root``, ``verity``, ``esp``."""
        return {"root": self.root, "verity": self.verity, "esp": self.esp}


@dataclass(frozen=True)
class RootParts:
    """What a tree comes to, before it has a name.

    Attributes:
        folder: where the files lie.
        tree: the normalised tree.
        root: the EROFS.
        verity: its hash tree.
        root_hash: 64 hexadecimal digits.
        root_digest: of the EROFS.
        kernel, initrd, os_release: what goes into the UKI; the files of the initrd on blocks.
    """

    folder: Path
    tree: Path
    root: Path
    verity: Path
    root_hash: str
    root_digest: str
    kernel: bytes
    initrd: bytes
    os_release: str

    @property
    def boot_loader(self) -> Path:
        """systemd-boot, as the image's own systemd has it."""
        return resolve(self.tree, _BOOT_LOADER)

    @property
    def stub(self) -> Path:
        """The EFI stub that a UKI starts with."""
        return resolve(self.tree, _STUB)

    def boot_digest(self, arguments: Sequence[str]) -> str:
        """Digest of all that boots, without the release's name: equal ones need no reboot."""
        return digest.of_data(
            {
                "kernel": digest.of_bytes(self.kernel),
                "initrd": digest.of_bytes(self.initrd),
                "stub": digest.of_file(self.stub),
                "loader": digest.of_file(self.boot_loader),
                "os_release": self.os_release,
                "arguments": [*KERNEL_ARGUMENTS, *arguments],
            }
        )


def make_root(
    tar: Path, folder: Path, *, image: str, budget: int, log: IO[str], stop: Stop | None = None
) -> RootParts:
    """Turn the tar of a tree into a verified root.

    Args:
        tar: what diskimage-builder made.
        folder: an empty folder to work in; the results stay there.
        image: the image's name.
        budget: the most bytes that the root may have.
        log: gets what the tools print.
        stop: ends them when set.

    Raises:
        BudgetError: the root is larger than *budget*; names the largest folders.
        BuildError: the tree has no kernel, initrd, or boot loader, or its initrd is damaged.
    """
    root = folder / "tree"
    with _room(folder):
        tree.unpack(tar, root, log=log, stop=stop)
        kernel = _kernel(root)
        aligned = initrd.align(_needed(root, _INITRD).read_bytes())
        tree.normalise(root)
        for name in (_STUB, _BOOT_LOADER):
            _needed(root, name)
        os_release = _needed(root, _OS_RELEASE).read_text(encoding="utf-8")
        filesystem, hashes = folder / "root.erofs", folder / "root.verity"
        erofs.make_erofs(root, filesystem, label=image, log=log, stop=stop)
        size = filesystem.stat().st_size
        if size > budget:
            raise BudgetError(
                f"the root of {image} is {format_size(size)}, and its budget is "
                f"{format_size(budget)}; the largest folders:\n{_largest(root)}",
                hint=f"Take something out, or raise `budget: root:` in images/{image}/image.yaml "
                "(machines in the field have slots of the old size).",
            )
        found = verity.make_verity(root, filesystem, hashes, stop=stop)
    log.write(f"root hash {found.root_hash}, {format_size(size)}\n")
    return RootParts(
        folder=folder,
        tree=root,
        root=filesystem,
        verity=hashes,
        root_hash=found.root_hash,
        root_digest=found.content,
        kernel=kernel,
        initrd=aligned,
        os_release=os_release,
    )


@dataclass(frozen=True)
class Naming:
    """What a release is called, wherever its name appears."""

    image: str
    version: str
    name: str


def command_line(root_hash: str, arguments: Sequence[str], release: str) -> str:
    """The kernel's command line of a release."""
    words = [f"roothash={root_hash}", *KERNEL_ARGUMENTS, *arguments, f"recast.release={release}"]
    return " ".join(words)


def make_boot_files(
    parts: RootParts,
    naming: Naming,
    *,
    arguments: Sequence[str],
    sizes: Sizes,
    budget: int,
    log: IO[str],
    stop: Stop | None = None,
) -> Mapping[str, Path]:
    """Make the UKI and the disk of a release.

    Args:
        parts: its root.
        naming: its name.
        arguments: the definition's kernel arguments.
        sizes: of the partitions.
        budget: the most bytes that the UKI may have.
        log: gets what the tools print.
        stop: ends them when set.

    Returns:
        The files by role: ``root``, ``verity``, ``uki``, ``disk``.

    Raises:
        BudgetError: the UKI is larger than *budget*.
    """
    os_release = (
        f"{parts.os_release.rstrip()}\nIMAGE_ID={naming.image}\nIMAGE_VERSION={naming.version}\n"
    )
    sections = {
        ".osrel": os_release.encode(),
        ".cmdline": command_line(parts.root_hash, arguments, naming.name).encode(),
        ".initrd": parts.initrd,
        ".linux": parts.kernel,
    }
    image = uki.make_uki(parts.stub, sections)
    if len(image) > budget:
        raise BudgetError(
            f"the UKI of {naming.image} is {format_size(len(image))} (initrd "
            f"{format_size(len(parts.initrd))}), and its budget is {format_size(budget)}",
            hint=f"Raise `budget: uki:` in images/{naming.image}/image.yaml, and `esp:` with it.",
        )
    boot = parts.folder / "uki.efi"
    disk = parts.folder / "disk.raw"
    with _room(parts.folder):
        boot.write_bytes(image)
        wanted = gpt.DiskParts(
            root=parts.root,
            verity=parts.verity,
            uki=boot,
            boot_loader=parts.boot_loader,
            root_hash=parts.root_hash,
            name=naming.name,
            version=naming.version,
            sizes=sizes.as_dict(),
        )
        gpt.make_disk(wanted, disk, scratch=parts.folder, log=log, stop=stop)
    return {"root": parts.root, "verity": parts.verity, "uki": boot, "disk": disk}


def make_qcow2(disk: Path, target: Path, *, log: IO[str], stop: Stop | None = None) -> None:
    """The same disk bytes in a compressed container.

    Raises:
        CommandError: qemu-img failed.
        DiskFullError: no space is left.
    """
    options = ["-c", "-o", "compression_type=zstd", "-m", "8", "-f", "raw", "-O", "qcow2"]
    with _room(target):
        run(["qemu-img", "convert", "-q", *options, str(disk), str(target)], log=log, stop=stop)


def digests(parts: RootParts, files: Mapping[str, Path]) -> dict[str, str]:
    """The digest of each of a release's files, by role.

    The last step: the unpacked tree, which nothing needs any more, is removed meanwhile.
    """
    with ThreadPoolExecutor(max_workers=3) as pool:
        removed = pool.submit(shutil.rmtree, parts.tree)
        wanted = {role: file for role, file in files.items() if role != "root"}
        found = dict(zip(wanted, pool.map(digest.of_file, wanted.values()), strict=True))
        removed.result()
    return {role: found.get(role, parts.root_digest) for role in files}


@contextlib.contextmanager
def _room(path: Path) -> Iterator[None]:
    """Turn "no space left" of ours and of a tool into a DiskFullError that names *path*."""
    try:
        with explained(path):
            yield
    except CommandError as error:
        told = any("No space left on device" in line for line in error.tail)
        if told or free_space(path) < _NO_ROOM:  # mkfs.vfat does not say why it failed
            raise disk_full(path) from error
        raise


def _kernel(root: Path) -> bytes:
    kernels = sorted(resolve(root, "boot").glob("vmlinuz-*"))
    if len(kernels) != 1:
        names = ", ".join(path.name for path in kernels) or "none"
        raise BuildError(
            f"an image has one kernel in /boot, this tree has: {names}",
            hint="The element recast-base installs one; look in `packages:` and in the image's "
            "elements for what adds another or removes it.",
        )
    return _needed(root, f"boot/{kernels[0].name}").read_bytes()


def _needed(root: Path, name: str) -> Path:
    path = resolve(root, name)
    if not path.is_file():
        raise BuildError(
            f"the tree has no /{name}",
            hint="The element recast-base brings it; see the log of the build stage.",
        )
    return path


def _largest(root: Path) -> str:
    """The largest folders two levels down, for a person to see what to take out."""
    sizes = []
    for top in (path for path in root.iterdir() if not path.is_symlink() and path.is_dir()):
        for folder in (p for p in top.iterdir() if not p.is_symlink() and p.is_dir()):
            size = sum(path.lstat().st_size for path in folder.rglob("*"))
            sizes.append((size, folder.relative_to(root).as_posix()))
    largest = sorted(sizes, reverse=True)[:_LARGEST]
    return "\n".join(f"    {format_size(size):>9}  {name}" for size, name in largest)
