"""A root tree of a few megabytes that can be assembled: the host's own tools, a stub of ours."""

from __future__ import annotations

import os
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

from pipeline import command
from tests.fakes import newc
from tests.fakes.efi_stub import make_stub

TOOLS = ("mkfs.erofs", "veritysetup")
OS_RELEASE = 'ID=debian\nPRETTY_NAME="Debian"\n'
KERNEL = b"MZ kernel " * 5_000
INITRD = newc.archive(
    newc.member("init", b"#!/bin/sh\n" * 50, 0o100755, time=1_700_000_000),
    *(newc.member(f"usr/lib/{name}.so", b"%d" % name * 9_000, number=name) for name in range(7)),
    step=512,
)
BOOT_LOADER = b"MZ boot loader " * 700


def make_folder(root: Path) -> Path:
    """Make such a tree in the folder *root*."""
    libraries = root / "usr/lib/x86_64-linux-gnu"
    efi = root / "usr/lib/systemd/boot/efi"
    folders = ("usr/sbin", "usr/bin", "usr/lib64", "etc/ssh", "boot/recast", "var/log", "opt")
    for folder in (libraries, efi, *(root / name for name in folders)):
        folder.mkdir(parents=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    for tool in TOOLS:
        program = command.find(tool)
        shutil.copy2(program, root / "usr/sbin" / tool)
        for line in command.run(["ldd", program]).stdout.splitlines():
            if match := re.search(r"(/\S+) \(0x", line):
                shutil.copy2(match[1], libraries / Path(match[1]).name)
    loader = libraries / "ld-linux-x86-64.so.2"
    (root / "usr/lib64/ld-linux-x86-64.so.2").symlink_to(f"../lib/x86_64-linux-gnu/{loader.name}")
    (efi / "linuxx64.efi.stub").write_bytes(make_stub())
    (efi / "systemd-bootx64.efi").write_bytes(BOOT_LOADER)
    (root / "usr/lib/os-release").write_text(OS_RELEASE)
    (root / "boot/vmlinuz-6.12").write_bytes(KERNEL)
    (root / "boot/recast/initrd").write_bytes(INITRD)
    (root / "etc/shadow").write_text("root:*:20000:0:99999:7:::\n")
    (root / "etc/machine-id").write_text("uninitialized\n")
    return root


def pack(root: Path, tar: Path, *, turned: bool = False, time: int = 1_700_000_000) -> Path:
    """Make the tar of a tree; *turned*: names and attributes in the opposite order."""

    def settled(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.mtime = time
        member.uname = member.gname = ""
        return member

    with tarfile.open(
        tar, "w", format=tarfile.PAX_FORMAT, encoding="utf-8", errors="surrogateescape"
    ) as archive:
        _add(archive, root, ".", settled, turned)
    return tar


def _add(
    archive: tarfile.TarFile,
    path: Path,
    name: str,
    settled: Callable[[tarfile.TarInfo], tarfile.TarInfo],
    turned: bool,
) -> None:
    member = settled(archive.gettarinfo(path, name))
    # As GNU tar writes them.
    member.pax_headers = {
        f"SCHILY.xattr.{attribute}": os.getxattr(path, attribute, follow_symlinks=False).decode(
            "utf-8", "surrogateescape"
        )
        for attribute in sorted(os.listxattr(path, follow_symlinks=False), reverse=turned)
    }
    if member.isreg():
        with path.open("rb") as file:
            archive.addfile(member, file)
    else:
        archive.addfile(member)
    if path.is_dir() and not path.is_symlink():
        for entry in sorted(path.iterdir(), reverse=turned):
            _add(archive, entry, f"{name}/{entry.name}", settled, turned)
