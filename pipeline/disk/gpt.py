"""A disk of three partitions: ESP with systemd-boot and one UKI, the root, its verity tree.

Partition types and the rule that the root's and the verity's UUIDs are halves of the root hash:
https://uapi-group.org/specifications/specs/discoverable_partitions_specification/. With
``roothash=`` alone on its command line the initrd finds both; no slot has a letter anywhere.
"""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pipeline.command import Stop, run
from pipeline.disk.erofs import derived_uuid
from pipeline.disk.tree import ENVIRONMENT, EPOCH
from pipeline.files import data_ranges, explained

ESP = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
ROOT_X86_64 = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709"
ROOT_VERITY_X86_64 = "2c7357ed-ebd2-46d9-aec1-23d437ec2bf5"

SECTOR = 512
ALIGNMENT = 1 << 20
TRIES = 3
"""How often a new release may fail to boot before the boot loader goes back."""

_READ_ONLY = 60  # GPT attribute bit of the specification
_LABEL = 36  # UTF-16 units in a GPT name


@dataclass(frozen=True)
class DiskParts:
    """What goes into a disk.

    Attributes:
        root, verity, uki, boot_loader: files.
        root_hash: 64 hexadecimal digits.
        name: of the release; the UKI's file name.
        version: of the release; the partitions' label.
        sizes: bytes of the partitions ``esp``, ``root`` and ``verity``.
    """

    root: Path
    verity: Path
    uki: Path
    boot_loader: Path
    root_hash: str
    name: str
    version: str
    sizes: dict[str, int]


def partition_uuids(root_hash: str) -> tuple[uuid.UUID, uuid.UUID]:
    """UUIDs of the root and the verity partition: first and last half of the root hash."""
    return uuid.UUID(root_hash[:32]), uuid.UUID(root_hash[32:])


def make_disk(
    parts: DiskParts, disk: Path, *, scratch: Path, log: IO[str], stop: Stop | None = None
) -> None:
    """Write *disk*, sparse; the same parts give the same bytes.

    Raises:
        CommandError: a tool failed.
        DiskFullError: no space is left.
    """
    esp = scratch / "esp.img"
    make_esp(parts, esp, scratch=scratch, log=log, stop=stop)
    starts, at = {}, ALIGNMENT
    for role in ("esp", "root", "verity"):
        starts[role] = at
        at += -(-parts.sizes[role] // ALIGNMENT) * ALIGNMENT
    root_uuid, verity_uuid = partition_uuids(parts.root_hash)
    label = parts.version[:_LABEL]
    rows = [
        ("esp", ESP, derived_uuid("esp", parts.root_hash), "esp", ""),
        ("root", ROOT_X86_64, root_uuid, label, f', attrs="GUID:{_READ_ONLY}"'),
        ("verity", ROOT_VERITY_X86_64, verity_uuid, label, f', attrs="GUID:{_READ_ONLY}"'),
    ]
    script = f"label: gpt\nlabel-id: {derived_uuid('disk', parts.root_hash)}\nunit: sectors\n"
    for role, kind, identity, name, attributes in rows:
        size = -(-parts.sizes[role] // ALIGNMENT) * ALIGNMENT
        script += (
            f"start={starts[role] // SECTOR}, size={size // SECTOR}, type={kind}, "
            f'uuid={identity}, name="{name}"{attributes}\n'
        )
    with explained(disk):
        with disk.open("wb") as file:
            file.truncate(at + ALIGNMENT)
        argv = ["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", str(disk)]
        run(argv, env=ENVIRONMENT, input=script.encode(), log=log, stop=stop)
        with disk.open("r+b") as file:
            for role, source in (("esp", esp), ("root", parts.root), ("verity", parts.verity)):
                _copy_sparse(source, file, starts[role])
    esp.unlink()


def make_esp(
    parts: DiskParts, esp: Path, *, scratch: Path, log: IO[str], stop: Stop | None = None
) -> None:
    """The EFI system partition: a FAT with the boot loader, and the UKI under its boot counter."""
    environment = {**ENVIRONMENT, "SOURCE_DATE_EPOCH": str(EPOCH)}
    staged = scratch / "esp"
    (staged / "loader").mkdir(parents=True)
    # No menu, no editor: what a machine boots is decided by what is on it.
    (staged / "loader/loader.conf").write_text("timeout 0\neditor no\n")
    files = {
        "EFI/BOOT/BOOTX64.EFI": parts.boot_loader,
        f"EFI/Linux/{parts.name}+{TRIES}.efi": parts.uki,
        "loader/loader.conf": staged / "loader/loader.conf",
    }
    serial = derived_uuid("fat", parts.root_hash).hex[:8]
    with esp.open("wb") as file:
        file.truncate(parts.sizes["esp"])
    argv = ["mkfs.vfat", "--invariant", "-F", "32", "-S", str(SECTOR), "-i", serial, "-n", "ESP"]
    run([*argv, str(esp)], log=log, env=environment, stop=stop)
    folders = ["EFI", "EFI/BOOT", "EFI/Linux", "EFI/systemd", "loader"]
    run(["mmd", "-i", str(esp), *(f"::{f}" for f in folders)], log=log, env=environment, stop=stop)
    for target, source in files.items():
        os.utime(source, (EPOCH, EPOCH))
        copy = ["mcopy", "-m", "-i", str(esp), str(source), f"::{target}"]
        run(copy, log=log, env=environment, stop=stop)


def _copy_sparse(source: Path, disk: IO[bytes], start: int) -> None:
    """Copy the parts of *source* that hold data, inside the kernel; holes stay holes."""
    with source.open("rb") as file:
        for at, end in data_ranges(file.fileno()):
            os.lseek(disk.fileno(), start + at, os.SEEK_SET)
            while at < end:
                at += os.sendfile(disk.fileno(), file.fileno(), at, end - at)
