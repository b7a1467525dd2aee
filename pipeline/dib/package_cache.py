"""Downloaded packages, shared by builds that run at the same time.

apt locks the folder that it downloads to, so two builds cannot have one folder. Each is lent one
of its own, full of hard links; what it downloaded comes back under its final name at once, also
from a build that failed. apt checks each package against the signed index before it uses it, so a
damaged one costs a download and no more.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

DAYS = 30
"""How long a package is kept; then it is downloaded once more, if it is still wanted."""


def given_back(own: Path) -> Path:
    """A folder in *own* whose packages are kept beside those of the lent one.

    diskimage-builder empties the lent folder in the middle of a build.
    """
    return own / "given-back"


def lent(own: Path, distribution: str) -> Path:
    """The folder in *own* that diskimage-builder lets apt download to."""
    return own / "apt" / distribution


@contextlib.contextmanager
def lend(shared: Path, own: Path, distribution: str) -> Iterator[None]:
    """Lend the shared packages to one build, and keep its new ones when the block ends.

    Args:
        shared: the cache; other builds may use it meanwhile.
        own: a folder for this build alone.
        distribution: packages of different ones are kept apart.
    """
    kept = shared / "apt" / distribution
    mine = lent(own, distribution)
    for folder in (kept, mine, given_back(own)):
        folder.mkdir(parents=True, exist_ok=True)
    for package in kept.glob("*.deb"):
        with contextlib.suppress(FileNotFoundError):  # another build has just removed it
            _link(package, mine / package.name)
    try:
        yield
    finally:
        for folder in (given_back(own), mine):
            for package in folder.glob("*.deb"):
                # The cache only saves time: what it cannot take is no reason to fail.
                with contextlib.suppress(OSError):
                    _keep(package, kept / package.name)
        _prune(kept)


def _keep(package: Path, target: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        if target.samefile(package):
            return
        if target.stat().st_size == package.stat().st_size:
            return
    os.utime(package)  # apt gives it the time at which the archive got it
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=".")
    os.close(handle)
    try:
        os.unlink(name)
        _link(package, Path(name))
        os.replace(name, target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK):
            raise
        shutil.copyfile(source, target)


def _prune(kept: Path) -> None:
    """Remove what is old, and what a killed build left half-copied."""
    now = time.time()
    for file in kept.iterdir():
        days = 1 if file.name.startswith(".") else DAYS
        with contextlib.suppress(OSError):
            if file.stat().st_mtime < now - days * 86400:
                file.unlink()
