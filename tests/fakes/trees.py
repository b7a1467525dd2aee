"""Root trees with nothing in them but what a test is about."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path


def make_tree(path: Path, files: Mapping[str, str]) -> Path:
    """Write a tar with these files (names as a tree has them, ``./etc/hostname``) to *path*."""
    with tarfile.open(path, "w") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return path
