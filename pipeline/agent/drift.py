"""What differs from the image on a running machine: all of it is gone at the next boot.

The root is an overlay whose upper folder cannot be reached once the machine runs. The image below
it can: its device is mounted a second time, for one process alone, and the two are compared.
"""

from __future__ import annotations

import contextlib
import filecmp
import fnmatch
import json
import os
import re
import stat
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from pipeline.errors import RecastError
from pipeline.models.fields import Record

DEVICE = Path("/dev/mapper/root")
"""The verified device of the image's root."""

PERSIST = Path("/usr/lib/recast/persist")
"""Lists the paths that live on the data partition."""

MOST = 200
SECONDS = 10.0

IGNORED = (
    # What is not of the root, or in memory.
    *("/boot", "/data", "/dev", "/efi", "/proc", "/run", "/sys", "/tmp"),  # noqa: S108
    # What the system makes at each boot, or keeps for itself while it runs.
    *("/var/log", "/var/cache", "/var/tmp", "/var/spool", "/var/run", "/var/lock"),  # noqa: S108
    *("/var/lib/systemd", "/var/lib/private", "/var/lib/dbus", "/var/lib/dhcp*"),
    *("/var/lib/chrony", "/var/lib/NetworkManager", "/var/lib/machines", "/var/lib/portables"),
    *("/var/lib/sudo", "/var/lib/logrotate", "/var/.updated", "/etc/.updated", "/etc/.pwd.lock"),
    *("/etc/machine-id", "/etc/hostname", "/etc/resolv.conf", "/etc/mtab", "/etc/adjtime"),
    # What is made of this machine's credentials.
    *("/etc/ssh/ssh_host_*", "/root/.ssh", "*/__pycache__"),
)
"""Paths, and patterns of them, that differ on every machine that is well."""

_CHILD = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from pipeline.agent.drift import _tell; _tell(*sys.argv[2:])"
)
_MOUNT = 'mount -t erofs -o "$1" -- "$2" "$3" && shift 3 && exec "$@"'
_ESCAPED = re.compile(r"\\([0-7]{3})")


class Drift(Record):
    """What differs from the image.

    Attributes:
        changed, added, removed: absolute paths, in order; at most 200 in all. A folder that was
            added or removed stands for all below it.
        more: how many others there are.
        complete: was everything looked at, or was there no time?
        trouble: why it could not be looked at; empty if it could.
    """

    changed: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    more: int = 0
    complete: bool = True
    trouble: str = ""


def drift(root: Path, image: Path, ignored: Sequence[str], *, seconds: float = SECONDS) -> Drift:
    """What differs between two folders: the running root, and the image that it came from.

    Types, owners, modes, contents and the targets of links count; times do not. Where all times
    of a file agree nothing is read: a filesystem sets the time of the last change of any kind by
    itself, and nobody can set it back.

    Args:
        root: the root that runs.
        image: the image.
        ignored: absolute paths, seen from *root*, that are left out with all that is below;
            patterns of :mod:`fnmatch`.
        seconds: how long it may take.
    """
    walk = _Walk(root, image, ignored, time.monotonic() + seconds)
    walk.compare("")
    found = {kind: tuple(sorted(p for k, p in walk.found if k == kind)) for kind in _KINDS}
    return Drift(
        changed=found["changed"],
        added=found["added"],
        removed=found["removed"],
        more=walk.more,
        complete=not walk.cut,
    )


def find_drift(device: Path = DEVICE, root: Path = Path("/"), *, seconds: float = SECONDS) -> Drift:
    """What differs from the image on this machine; never raises: it may have trouble.

    The image is mounted in a namespace of one process, which takes the mount along when it ends.

    Args:
        device: of the image's root; a file for tests.
        root: the root that runs.
        seconds: how long the comparison may take.
    """
    if os.geteuid() != 0:
        return Drift(trouble="only root may look")
    if not device.exists():
        return Drift(trouble=f"{device}, where the image should be, is not there")
    from pipeline.command import run

    options = "ro,nodev,nosuid,noexec" + ("" if device.is_block_device() else ",loop")
    place = ""
    try:
        place = tempfile.mkdtemp(prefix="recast-image.", dir="/run")
        child = [sys.executable, "-ISBc", _CHILD, json.dumps(sys.path), str(root), place]
        unshare = ["unshare", "--mount", "--propagation", "private", "--"]
        shell = ["sh", "-c", _MOUNT, "sh", options, str(device), place]
        argv = [*unshare, *shell, *child, str(seconds)]
        said = run(argv, timeout=seconds + 20.0, separate=True).stdout
        return Drift.model_validate_json(said)
    except (RecastError, OSError, ValidationError) as error:
        why = str(error).splitlines()[-1].strip() if str(error) else type(error).__name__
        return Drift(trouble=f"the image cannot be looked at: {why}")
    finally:
        if place:
            with contextlib.suppress(OSError):
                os.rmdir(place)


def _tell(root: str, image: str, seconds: str) -> None:
    """What the process with the mount does: print a :class:`Drift` as JSON."""
    ignored = (*IGNORED, *_persistent(PERSIST), *_mounts(Path("/proc/self/mountinfo"), root))
    print(drift(Path(root), Path(image), ignored, seconds=float(seconds)).model_dump_json())


def _persistent(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text().splitlines() if line.startswith("/")]
    except OSError:
        return []


def _mounts(table: Path, root: str) -> list[str]:
    """What is mounted below *root*, as seen from it (proc_pid_mountinfo(5))."""
    below = root.rstrip("/")
    found = []
    for line in table.read_text().splitlines():
        point = _ESCAPED.sub(lambda match: chr(int(match[1], 8)), line.split(" ")[4])
        if point.startswith(f"{below}/") and point != "/":
            found.append(point[len(below) :].translate(_LITERAL))
    return found


def _holds_something(path: str) -> bool:
    """Is it more than empty folders, which services make for themselves?"""
    if os.path.islink(path) or not os.path.isdir(path):
        return True
    return any(files for _, _, files in os.walk(path))


# In a pattern of fnmatch, what stands for itself.
_LITERAL = str.maketrans({sign: f"[{sign}]" for sign in "*?["})

_Kind = Literal["changed", "added", "removed"]
_KINDS: tuple[_Kind, ...] = ("changed", "added", "removed")


class _Walk:
    """One comparison, and what it has found."""

    def __init__(self, root: Path, image: Path, ignored: Sequence[str], end: float) -> None:
        self.found: list[tuple[_Kind, str]] = []
        self.more = 0
        self.cut = False
        self._root, self._image = os.fspath(root), os.fspath(image)
        self._plain = frozenset(each for each in ignored if not set(each) & set("*?["))
        wild = [fnmatch.translate(each) for each in ignored if each not in self._plain]
        self._wild = re.compile("|".join(wild) or r"(?!)")
        self._end = end

    def compare(self, folder: str) -> None:
        """Compare what two folders hold; *folder* begins with a slash, or is empty."""
        here, there = self._names(self._root + folder), self._names(self._image + folder)
        for name in sorted(here | there):
            path = f"{folder}/{name}"
            if self.cut or time.monotonic() > self._end:
                self.cut = True
                return
            if path in self._plain or self._wild.fullmatch(path):
                continue
            if name not in there:
                if _holds_something(self._root + path):
                    self._note("added", path)
            elif name not in here:
                self._note("removed", path)
            else:
                self._compare_entry(path)

    def _compare_entry(self, path: str) -> None:
        here, there = self._root + path, self._image + path
        try:
            one, other = os.lstat(here), os.lstat(there)
            if _differ(here, one, there, other):
                self._note("changed", path)
        except FileNotFoundError:  # it has gone meanwhile
            self._note("removed", path)
            return
        except OSError:  # it cannot be read: nothing is known of it
            return
        if stat.S_ISDIR(one.st_mode) and stat.S_ISDIR(other.st_mode):
            self.compare(path)

    def _names(self, folder: str) -> set[str]:
        try:
            return set(os.listdir(folder))
        except OSError:
            return set()

    def _note(self, kind: _Kind, path: str) -> None:
        if len(self.found) < MOST:
            # A name may be any bytes; what is told is text.
            self.found.append((kind, os.fsencode(path).decode(errors="replace")))
        else:
            self.more += 1


def _differ(here: str, one: os.stat_result, there: str, other: os.stat_result) -> bool:
    if (one.st_mode, one.st_uid, one.st_gid) != (other.st_mode, other.st_uid, other.st_gid):
        return True
    if stat.S_ISLNK(one.st_mode):
        return os.readlink(here) != os.readlink(there)
    if stat.S_ISCHR(one.st_mode) or stat.S_ISBLK(one.st_mode):
        return one.st_rdev != other.st_rdev
    if not stat.S_ISREG(one.st_mode):
        return False
    if one.st_size != other.st_size:
        return True
    if (one.st_mtime_ns, one.st_ctime_ns) == (other.st_mtime_ns, other.st_ctime_ns):
        return False
    return not filecmp.cmp(here, there, shallow=False)
