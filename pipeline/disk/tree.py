"""A root tree, freed of all that chance, time and place put into it.

What is taken out or set was found by building one commit twice, on other days, in other places,
and comparing: see ``recast build --check-reproducible``. Host keys and machine ids would be a
security hole besides.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import struct
from pathlib import Path
from typing import IO

from pipeline.command import Stop, run
from pipeline.errors import BuildError

EPOCH = 1577836800
"""The time of every file in a root: 2020-01-01, in seconds since 1970."""

_EMPTIED = (
    "boot dev proc run sys tmp "  # mount points, and the kernel and initrd that the UKI holds
    "etc/apt/sources.list.d var/lib/apt/lists var/cache/apt "  # where this build got packages
    "var/cache/man var/tmp var/log var/lib/systemd/coredump"
).split()
_REMOVED = (
    "etc/.pwd.lock etc/apt/sources.list etc/dib-manifests etc/hostname "
    "etc/iscsi/initiatorname.iscsi etc/group- etc/gshadow- etc/passwd- etc/shadow- "
    "etc/subgid- etc/subuid- initrd.img initrd.img.old vmlinuz vmlinuz.old "
    "root/.bash_history root/.cache root/.wget-hsts usr/lib/diskimage-builder lost+found "
    "var/cache/debconf/config.dat-old var/cache/debconf/passwords.dat-old "
    "var/cache/debconf/templates.dat-old var/cache/ldconfig/aux-cache "
    "var/lib/dbus/machine-id var/lib/dpkg/available var/lib/dpkg/available-old "
    "var/lib/dpkg/diversions-old var/lib/dpkg/lock var/lib/dpkg/lock-frontend "
    "var/lib/dpkg/status-old var/lib/dpkg/statoverride-old var/lib/dpkg/triggers/Lock "
    "var/lib/systemd/random-seed var/lib/systemd/credential.secret "
    "var/lib/urandom/random-seed"
).split()
_MADE = {"boot": 0o755, "data": 0o755, "dev": 0o755, "efi": 0o755, "proc": 0o555, "run": 0o755}
_MADE |= {"sys": 0o555, "tmp": 0o1777, "var/tmp": 0o1777}
_HOST_KEY = re.compile(r"ssh_host_.*_key(\.pub)?")
_CHANGED_DAY = str(EPOCH // 86400)
_PYC_HEADER = struct.Struct("<4sIII")


def unpack(tar: Path, root: Path, *, log: IO[str], stop: Stop | None = None) -> None:
    """Unpack the tar of a tree to *root*, with owners, modes and extended attributes."""
    root.mkdir(parents=True)
    options = ["--numeric-owner", "--same-owner", "--xattrs", "--xattrs-include=*", "-p"]
    run(["tar", "-C", str(root), *options, "-xf", str(tar)], log=log, stop=stop)


def normalise(root: Path) -> None:
    """Make the tree a function of its content alone. Times are left to the filesystem's maker.

    Raises:
        BuildError: it is not the tree of an operating system.
    """
    if not (root / "usr").is_dir() or not (root / "etc").is_dir():
        raise BuildError(f"{root} holds no operating system: usr/ or etc/ is missing")
    for name in _REMOVED:
        _remove(root / name)
    for name in _EMPTIED:
        folder = root / name
        if folder.is_dir() and not folder.is_symlink():
            _empty(folder, keep_folders=name == "var/log")
    for name, mode in _MADE.items():
        folder = root / name
        if not folder.is_symlink():
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(mode)
    for key in (root / "etc/ssh").glob("*") if (root / "etc/ssh").is_dir() else ():
        if _HOST_KEY.fullmatch(key.name):
            key.unlink()
    # Empty, not missing: systemd then makes an id for each boot without taking it for the first.
    (root / "etc/machine-id").write_bytes(b"")
    # All caches are as new as /usr (systemd.unit(5), ConditionNeedsUpdate=): not made at each boot.
    for name in ("etc/.updated", "var/.updated"):
        (root / name).write_bytes(b"")
    _settle_shadow(root / "etc/shadow")
    _settle_bytecode(root)


def _remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.is_dir():
        shutil.rmtree(path)


def _empty(folder: Path, *, keep_folders: bool) -> None:
    """Services expect the folders that packages made for their logs."""
    for entry in list(folder.iterdir()):
        if keep_folders and entry.is_dir() and not entry.is_symlink():
            _empty(entry, keep_folders=True)
        else:
            _remove(entry)


def _settle_shadow(path: Path) -> None:
    """The third field of shadow(5) is the day of the last password change: the build's day."""
    if not path.exists():
        return
    lines = [line.split(":") for line in path.read_text().splitlines()]
    for fields in lines:
        if len(fields) > 2 and fields[2] not in ("", "0"):
            fields[2] = _CHANGED_DAY
    # In place: owner and mode stay.
    path.write_text("".join(":".join(fields) + "\n" for fields in lines))


def _settle_bytecode(root: Path) -> None:
    """A .pyc names its source's time (PEP 552); all sources get one time, so their .pyc do too.

    Otherwise Python would find every one of them stale, and compile it again at each start.
    """
    for parent, folders, files in os.walk(root / "usr"):
        if parent.endswith("__pycache__"):
            for name in files:
                if name.endswith(".pyc"):
                    _settle_pyc(Path(parent) / name)
        folders.sort()


def _settle_pyc(path: Path) -> None:
    if not stat.S_ISREG(path.lstat().st_mode):
        return
    with path.open("r+b") as file:
        header = file.read(_PYC_HEADER.size)
        if len(header) < _PYC_HEADER.size:
            return
        magic, flags, _time, size = _PYC_HEADER.unpack(header)
        if flags == 0:
            file.seek(0)
            file.write(_PYC_HEADER.pack(magic, flags, EPOCH, size))


def program(root: Path, name: str) -> list[str]:
    """How to run a program of the tree on this host: by the tree's own loader and libraries.

    The tools that shape an image come from the image's own package set, so that the versions on
    the build host never matter to its bytes.

    Raises:
        BuildError: the tree does not have it.
    """
    found = next(
        (path for folder in ("usr/bin", "usr/sbin") if (path := root / folder / name).exists()),
        None,
    )
    loader = root / "lib64/ld-linux-x86-64.so.2"
    if found is None or not loader.exists():
        raise BuildError(
            f"the tree has no `{name}`",
            hint="Every image needs the element recast-base, which brings it; see the build's log.",
        )
    libraries = [root / "usr/lib/x86_64-linux-gnu", root / "usr/lib64"]
    return [str(loader), "--library-path", ":".join(str(p) for p in libraries), str(found)]
