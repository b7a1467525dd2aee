"""A machine makes the hash tree of its root itself: it is not downloaded.

The bytes are those that ``veritysetup format`` writes, with the salt and the UUID that
:mod:`pipeline.disk.verity` gives it, so the root hash is the release's if and only if every byte
of the root is. Format: https://docs.kernel.org/admin-guide/device-mapper/verity.html and
https://gitlab.com/cryptsetup/cryptsetup/-/wikis/DMVerity, version 1, SHA-256, 4 KiB blocks.
"""

from __future__ import annotations

import hashlib
import struct
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline import digest
from pipeline.errors import DigestError

if TYPE_CHECKING:
    from pipeline.agent.blocks import Part
    from pipeline.command import Stop

BLOCK = 4096
_HASH = 32
_PER_BLOCK = BLOCK // _HASH
_SUPERBLOCK = struct.Struct("<8sII16s32sIIQH6x256s168x")
# As in pipeline.disk.erofs; a test holds the two together.
_NAMESPACE = uuid.UUID("b4f8a5c2-6a43-4b0e-9b55-6d2b9c1f3e70")
_FLUSH = 1 << 18
PIECE = 1 << 20
"""Bytes that are read at a time."""

Hear = Callable[[int], None]
Emit = Callable[[int, bytes], None]


@dataclass(frozen=True)
class Recipe:
    """All that a hash tree depends on, but the data.

    Attributes:
        size: bytes of the data; whole blocks.
        salt: 32 bytes.
        uuid: in the superblock.
    """

    size: int
    salt: bytes
    uuid: uuid.UUID

    @classmethod
    def of_content(cls, size: int, content: str) -> Recipe:
        """Of a root image of *size* bytes with the digest *content*.

        Raises:
            DigestError: no release has such a root.
        """
        if size <= 0 or size % BLOCK:
            raise DigestError(f"a root of {size} bytes does not consist of blocks of {BLOCK}")
        salt = bytes.fromhex(digest.of_bytes(f"recast verity salt {content}".encode()))
        return cls(size, salt, uuid.uuid5(_NAMESPACE, f"verity\0{content}"))

    @property
    def blocks(self) -> int:
        """How many blocks of data there are."""
        return self.size // BLOCK

    @property
    def levels(self) -> tuple[tuple[int, int], ...]:
        """Offset and number of blocks of each level in the tree's file, the lowest first."""
        counts, count = [], self.blocks
        while count > 1:
            count = -(-count // _PER_BLOCK)
            counts.append(count)
        found, at = [], BLOCK
        for count in reversed(counts):
            found.append((at, count))
            at += count * BLOCK
        return tuple(reversed(found))

    @property
    def tree_size(self) -> int:
        """Bytes of the tree, superblock included."""
        return (1 + sum(count for _, count in self.levels)) * BLOCK

    def superblock(self) -> bytes:
        """The first block of the tree's file."""
        names = b"verity\0\0", 1, 1, self.uuid.bytes, b"sha256"
        sizes = BLOCK, BLOCK, self.blocks, len(self.salt), self.salt
        return _SUPERBLOCK.pack(*names, *sizes).ljust(BLOCK, b"\0")


def block_hashes(salt: bytes, data: bytes) -> bytes:
    """The digests of *data*'s blocks, one after the other."""
    view = memoryview(data)
    copy = hashlib.sha256(salt).copy
    found = []
    for at in range(0, len(view), BLOCK):
        hasher = copy()
        hasher.update(view[at : at + BLOCK])
        found.append(hasher.digest())
    return b"".join(found)


class Builder:
    """Makes a hash tree from the digests of the data's blocks, in their order.

    Needs some hundred KiB, for any size.
    """

    def __init__(self, recipe: Recipe, emit: Emit) -> None:
        self._recipe = recipe
        self._emit = emit
        self._pending = [bytearray() for _ in recipe.levels]
        self._at = [offset for offset, _ in recipe.levels]
        self._root = b""

    def add(self, hashes: bytes) -> None:
        """Take the digests of the next blocks of data."""
        self._add(0, hashes, flush=False)

    def finish(self) -> str:
        """Write what is left; return the root hash."""
        for level in range(len(self._pending)):
            self._add(level, b"", flush=True)
        self._emit(0, self._recipe.superblock())
        return self._root.hex()

    def _add(self, level: int, hashes: bytes, *, flush: bool) -> None:
        if level == len(self._pending):
            self._root = hashes or self._root
            return
        pending = self._pending[level]
        pending += hashes
        if flush:
            pending += bytes(-len(pending) % BLOCK)
        elif len(pending) < _FLUSH:
            return
        whole = bytes(pending[: len(pending) // BLOCK * BLOCK])
        del pending[: len(whole)]
        if whole:
            self._emit(self._at[level], whole)
            self._at[level] += len(whole)
            self._add(level + 1, block_hashes(self._recipe.salt, whole), flush=False)


def check_tree(recipe: Recipe, tree: Part, root_hash: str) -> bool:
    """Does a partition hold exactly the tree that belongs to *root_hash*? Reads the medium.

    Each block is held against its digest one level up, from the root hash down.

    Raises:
        HostError: it cannot be read.
    """
    if tree.size < recipe.tree_size:
        return False
    tree.forget(0, recipe.tree_size)
    if tree.read(0, BLOCK) != recipe.superblock():
        return False
    wanted = bytes.fromhex(root_hash)
    above = -1
    for offset, count in reversed(recipe.levels):
        for first in range(0, count, _PER_BLOCK):
            blocks = min(_PER_BLOCK, count - first)
            if above >= 0:
                wanted = tree.read(above + first * _HASH, blocks * _HASH)
            data = tree.read(offset + first * BLOCK, blocks * BLOCK)
            if block_hashes(recipe.salt, data) != wanted:
                return False
        above = offset
    return True


def hash_data(
    recipe: Recipe,
    data: Part,
    emit: Emit,
    *,
    hear: Hear | None = None,
    stop: Stop | None = None,
) -> str:
    """Read the data back from the medium, and give out its tree.

    Args:
        recipe: of the tree.
        data: at least as large as the recipe says.
        emit: takes the tree's bytes and their offset, in no order.
        hear: is told of bytes that were read.
        stop: ends it when set.

    Returns:
        The root hash.

    Raises:
        HostError: it cannot be read.
        Interrupted: *stop* was set.
    """
    builder = Builder(recipe, emit)
    data.forget(0, recipe.size)
    for at in range(0, recipe.size, PIECE):
        if stop is not None:
            stop.check()
        piece = data.read(at, min(PIECE, recipe.size - at))
        builder.add(block_hashes(recipe.salt, piece))
        if hear is not None:
            hear(len(piece))
    return builder.finish()
