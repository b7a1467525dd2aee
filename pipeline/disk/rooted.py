"""Paths inside a tree, as a program of that tree would see them: a link never leads to the host."""

from __future__ import annotations

import os
from pathlib import Path, PurePath

from pipeline.errors import BuildError

_MOST_LINKS = 40  # as the kernel


def resolve(root: Path, name: str, *, follow: bool = True) -> Path:
    """Where *name* lies for a program that has *root* as its root folder.

    Symbolic links are followed as they would be there: an absolute one starts at *root*, and
    ``..`` never leads above it. Nothing need exist.

    Args:
        root: the tree.
        name: a path in it, with or without a leading slash.
        follow: whether the last part is followed if it is a link itself.

    Raises:
        BuildError: the links lead in a circle.
    """
    here: list[str] = []
    pending = list(reversed(PurePath(name).parts))
    links = 0
    while pending:
        part = pending.pop()
        if part == "/":
            here = []
        elif part == "..":
            here = here[:-1]
        elif (pending or follow) and (path := root.joinpath(*here, part)).is_symlink():
            links += 1
            if links > _MOST_LINKS:
                raise BuildError(f"the tree's symbolic links at /{name.lstrip('/')} never end")
            pending.extend(reversed(PurePath(os.readlink(path)).parts))
        else:
            here.append(part)
    return root.joinpath(*here)
