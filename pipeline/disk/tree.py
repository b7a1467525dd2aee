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
from pipeline.disk.rooted import resolve
from pipeline.errors import BuildError

EPOCH = 1577836800
"""The time of every file in a root: 2020-01-01, in seconds since 1970."""

ENVIRONMENT = {"LC_ALL": "C", "TZ": "UTC"}
"""All that the tools which shape an image see of an environment: nothing of ours."""

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
_MADE |= {"sys": 0o555, "tmp": 0o1777, "var": 0o755, "var/tmp": 0o1777}
_HOST_KEY = re.compile(r"ssh_host_.*_key(\.pub)?")
_CHANGED_DAY = str(EPOCH // 86400).encode()
_PYC_HEADER = struct.Struct("<4sIII")


def unpack(tar: Path, root: Path, *, log: IO[str], stop: Stop | None = None) -> None:
    """Unpack the tar of a tree to *root*, with owners, modes and extended attributes."""
    root.mkdir(parents=True)
    root.chmod(0o755)  # unless the tar says otherwise; never by our umask
    options = ["--numeric-owner", "--same-owner", "--xattrs", "--xattrs-include=*", "-p"]
    argv = ["tar", "-C", str(root), *options, "-xf", str(tar)]
    run(argv, env=ENVIRONMENT, log=log, stop=stop)


def normalise(root: Path) -> None:
    """Make the tree a function of its content alone. Times are left to the filesystem's maker.

    Links are followed inside the tree only: one that points at ``/etc`` means the tree's.

    Raises:
        BuildError: it is not the tree of an operating system.
    """
    if not resolve(root, "usr").is_dir() or not resolve(root, "etc").is_dir():
        raise BuildError(f"{root} holds no operating system: usr/ or etc/ is missing")
    for name in _REMOVED:
        _remove(resolve(root, name, follow=False))
    for name in _EMPTIED:
        folder = resolve(root, name, follow=False)
        if _is_folder(folder):
            _empty(folder, keep_folders=name == "var/log")
    for name, mode in _MADE.items():
        _make(root, name, mode)
    keys = resolve(root, "etc/ssh")
    for key in list(keys.iterdir()) if keys.is_dir() else ():
        if _HOST_KEY.fullmatch(key.name):
            _remove(key)
    # Empty, not missing: systemd then makes an id for each boot without taking it for the first.
    # All caches are as new as /usr (systemd.unit(5), ConditionNeedsUpdate=): not made at each boot.
    for name in ("etc/machine-id", "etc/.updated", "var/.updated"):
        _make_empty(resolve(root, name, follow=False))
    _settle_shadow(resolve(root, "etc/shadow"))
    _settle_bytecode(root)
    _settle_attributes(root)


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _remove(path: Path) -> None:
    if _is_folder(path):
        shutil.rmtree(path)
    else:  # a device or a socket too
        path.unlink(missing_ok=True)


def _empty(folder: Path, *, keep_folders: bool) -> None:
    """Services expect the folders that packages made for their logs."""
    for entry in list(folder.iterdir()):
        if keep_folders and _is_folder(entry):
            _empty(entry, keep_folders=True)
        else:
            _remove(entry)


def _make(root: Path, name: str, mode: int) -> None:
    folder = resolve(root, name, follow=False)
    if folder.is_symlink():
        return
    if not folder.parent.is_dir() or (folder.exists() and not folder.is_dir()):
        raise BuildError(
            f"/{name} of the tree cannot be a folder: a file or a broken link is there"
        )
    folder.mkdir(exist_ok=True)
    folder.chmod(mode)


def _make_empty(path: Path) -> None:
    """Owner and mode of a file that is there stay; a new one does not depend on our umask."""
    if path.is_symlink() or not path.is_file():
        _remove(path)
        path.touch()
        path.chmod(0o644)
    os.truncate(path, 0)


def _settle_shadow(path: Path) -> None:
    """The third field of shadow(5) is the day of the last password change: the build's day."""
    if not path.is_file():
        return
    lines = [line.split(b":") for line in path.read_bytes().splitlines()]
    for fields in lines:
        if len(fields) > 2 and fields[2] not in (b"", b"0"):
            fields[2] = _CHANGED_DAY
    # In place: owner and mode stay.
    path.write_bytes(b"".join(b":".join(fields) + b"\n" for fields in lines))


def _settle_bytecode(root: Path) -> None:
    """A .pyc names its source's time (PEP 552); all sources get one time, so their .pyc do too.

    Otherwise Python would find every one of them stale, and compile it again at each start.
    """
    for parent, _folders, files in os.walk(root):
        for name in files:
            if name.endswith(".pyc"):
                _settle_pyc(root, Path(parent) / name)


def _settle_pyc(root: Path, path: Path) -> None:
    if not stat.S_ISREG(path.lstat().st_mode):
        return
    with path.open("r+b") as file:
        header = file.read(_PYC_HEADER.size)
        if len(header) < _PYC_HEADER.size:
            return
        magic, flags, time, size = _PYC_HEADER.unpack(header)
        if not magic.endswith(b"\r\n") or flags != 0 or time == EPOCH:
            return
        if not _is_stale(root, path, time, size):
            file.seek(0)
            file.write(_PYC_HEADER.pack(magic, flags, EPOCH, size))
            return
    path.unlink()


def _is_stale(root: Path, path: Path, time: int, size: int) -> bool:
    """Was the source changed after it was compiled? With equal times Python could not tell."""
    if path.parent.name != "__pycache__":
        return False
    source = path.parent.parent / (path.name.partition(".")[0] + ".py")
    source = resolve(root, source.relative_to(root).as_posix())
    if not source.is_file():
        return False
    info = source.stat()
    # Both fields have 32 bits.
    return (int(info.st_mtime) & 0xFFFFFFFF, info.st_size & 0xFFFFFFFF) != (time, size)


def _settle_attributes(root: Path) -> None:
    """mkfs.erofs takes a file's attributes in the order in which they are listed: make it one.

    A folder with an access and a default ACL has two, /var/log/journal for one.
    """
    for parent, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(parent) / name
            # Most filesystems list in the order of setting, a few in the opposite one.
            for turned in (False, True):
                names = os.listxattr(path, follow_symlinks=False)
                wanted = _attribute_order(names)
                if names == wanted:
                    break
                values = {each: os.getxattr(path, each, follow_symlinks=False) for each in names}
                for each in names:
                    os.removexattr(path, each, follow_symlinks=False)
                for each in reversed(wanted) if turned else wanted:
                    os.setxattr(path, each, values[each], follow_symlinks=False)


def _attribute_order(names: list[str]) -> list[str]:
    """ACLs, then the others from z to a: tmpfs knows no other order."""
    acls = sorted(name for name in names if name.startswith("system."))
    return acls + sorted((name for name in names if name not in acls), reverse=True)


def program(root: Path, name: str) -> list[str]:
    """How to run a program of the tree on this host: by the tree's own loader and libraries.

    The tools that shape an image come from the image's own package set, so that the versions on
    the build host never matter to its bytes.

    Raises:
        BuildError: the tree does not have it.
    """
    paths = (resolve(root, f"{folder}/{name}") for folder in ("usr/bin", "usr/sbin"))
    found = next((path for path in paths if path.is_file()), None)
    loader = resolve(root, "lib64/ld-linux-x86-64.so.2")
    if found is None or not loader.is_file():
        raise BuildError(
            f"the tree has no `{name}`",
            hint="Every image needs the element recast-base, which brings it; see the build's log.",
        )
    libraries = [resolve(root, "usr/lib/x86_64-linux-gnu"), resolve(root, "usr/lib64")]
    return [str(loader), "--library-path", ":".join(str(p) for p in libraries), str(found)]
