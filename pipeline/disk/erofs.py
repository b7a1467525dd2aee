"""A tree as a read-only EROFS: plain and block-aligned, so that equal files stay equal blocks."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import IO

from pipeline.command import Stop, run
from pipeline.disk.tree import ENVIRONMENT, EPOCH, program

BLOCK = 4096

_NAMESPACE = uuid.UUID("b4f8a5c2-6a43-4b0e-9b55-6d2b9c1f3e70")


def derived_uuid(*words: str) -> uuid.UUID:
    """A UUID that is a function of *words* (version 5): nothing in an image comes from chance."""
    return uuid.uuid5(_NAMESPACE, "\0".join(words))


def make_erofs(
    root: Path, image: Path, *, label: str, log: IO[str], stop: Stop | None = None
) -> None:
    """Write the tree below *root* to *image*, with the tree's own mkfs.erofs.

    Args:
        root: a normalised tree.
        image: the file to write.
        label: names the image, not the release; it decides the filesystem's UUID.
        log: gets what the tool prints.
        stop: ends it when set.

    Raises:
        CommandError: mkfs.erofs failed.
        BuildError: the tree has no mkfs.erofs.
    """
    # Quiet: it would print a line for each file. No SOURCE_DATE_EPOCH in the environment: with it
    # -T would only be a ceiling, and files older than that would keep their times.
    options = ["--quiet", "-T", str(EPOCH), "-U", str(derived_uuid("erofs", label))]
    argv = [*program(root, "mkfs.erofs"), *options, "-E", "noinline_data", str(image), str(root)]
    run(argv, env=ENVIRONMENT, log=log, stop=stop)
    # dm-verity hashes whole blocks.
    size = image.stat().st_size
    if size % BLOCK:
        with image.open("r+b") as file:
            file.truncate(-(-size // BLOCK) * BLOCK)
