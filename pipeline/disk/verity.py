"""dm-verity over a root image; the root hash is the image's identity.

Format: https://docs.kernel.org/admin-guide/device-mapper/verity.html, version 1, SHA-256, 4 KiB
blocks. Salt and UUID are functions of the data, so the hash is too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pipeline import digest
from pipeline.command import Stop, run
from pipeline.disk.erofs import BLOCK, derived_uuid
from pipeline.disk.tree import ENVIRONMENT, program
from pipeline.errors import BuildError

_HASH = 32


@dataclass(frozen=True)
class Hashes:
    """What is known of a root image.

    Attributes:
        root_hash: 64 hexadecimal digits.
        content: its digest.
    """

    root_hash: str
    content: str


def make_verity(root: Path, data: Path, tree: Path, *, stop: Stop | None = None) -> Hashes:
    """Write the hash tree of *data* to *tree*.

    Args:
        root: the normalised root tree, whose own veritysetup is used.
        data: the root image.
        tree: the file to write: superblock and hash tree.
        stop: ends it when set.

    Raises:
        CommandError: veritysetup failed.
        BuildError: it printed no root hash.
    """
    content = digest.of_file(data)
    salt = digest.of_bytes(f"recast verity salt {content}".encode())
    argv = [*program(root, "veritysetup"), "format", str(data), str(tree)]
    argv += ["--hash", "sha256", "--data-block-size", str(BLOCK), "--hash-block-size", str(BLOCK)]
    argv += ["--salt", salt, "--uuid", str(derived_uuid("verity", content))]
    printed = run(argv, env=ENVIRONMENT, stop=stop).stdout
    match = re.search(r"Root hash:\s*([0-9a-f]{64})\b", printed)
    if match is None:
        raise BuildError(f"veritysetup printed no root hash:\n{printed}")
    return Hashes(match[1], content)


def tree_size(data_size: int) -> int:
    """Bytes that the hash tree of *data_size* bytes takes, superblock included."""
    per_block = BLOCK // _HASH
    blocks = -(-data_size // BLOCK)
    total = 1
    while blocks > 1:
        blocks = -(-blocks // per_block)
        total += blocks
    return total * BLOCK
