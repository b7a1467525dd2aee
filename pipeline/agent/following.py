"""Reading back and hashing what is written, while the rest still comes.

A machine waits for its link, or for its disk; meanwhile it can do what has to be done anyway:
bring what is there to the medium, read it back from there, and hash it.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from pipeline.agent.verity import PIECE, Builder, block_hashes
from pipeline.errors import RecastError

if TYPE_CHECKING:
    from pipeline.agent.blocks import Part
    from pipeline.agent.verity import Recipe
    from pipeline.command import Stop

_STRIDE = 32 << 20
"""Bytes that are brought to the medium, and read back, at a time."""
_AHEAD = 8 << 20
"""Bytes after which the medium is given something to do."""


class Follower:
    """A target that passes everything on, and hashes what lies behind its user.

    It supposes that its user goes from the start to the end, and writes nothing behind the place
    that it has come to. A write to what was hashed already makes it give up: then all is read
    again by whoever asks for the hash.

    Args:
        recipe: of the hash tree.
        data: what is written.
        tree: gets the hash tree.
        stop: ends it when set.
        active: hash at all?
    """

    def __init__(
        self, recipe: Recipe, data: Part, tree: Part, *, stop: Stop | None, active: bool
    ) -> None:
        self._recipe = recipe
        self._data = data
        self._builder = Builder(recipe, tree.write)
        self._stop = stop
        self._changed = threading.Condition()
        self._behind = 0  # where its user has come to
        self._begun = 0  # what is before this is on its way to the medium
        self._claimed = 0  # what is before this is hashed, or being hashed
        self._hashed = 0
        self._broken = not active
        self._ended = False
        self._thread = threading.Thread(target=self._follow, name="read back", daemon=True)
        if active:
            self._thread.start()

    @property
    def size(self) -> int:
        """Bytes."""
        return self._data.size

    def read(self, offset: int, size: int) -> bytes:
        """Exactly *size* bytes."""
        return self._data.read(offset, size)

    def write(self, offset: int, data: bytes) -> None:
        """Pass it on."""
        with self._changed:
            if offset < self._claimed:
                self._broken = True
        self._data.write(offset, data)
        if offset - self._begun >= _AHEAD:
            self._data.forget(self._begun, offset - self._begun)
            self._begun = offset
        self._moved(offset)

    def sync(self) -> None:
        """Pass it on."""
        self._data.sync()

    def finish(self) -> str | None:
        """Hash what is left; the root hash, or None if all must be read again.

        Everything must have been synced.
        """
        if not self._broken:
            self._moved(self._recipe.size)
        self.close(wait=True)
        if self._broken or self._hashed < self._recipe.size:
            return None
        return self._builder.finish()

    def close(self, *, wait: bool = False) -> None:
        """End it; with *wait*, when it has come to the end of what is written."""
        with self._changed:
            self._ended = True
            self._broken = self._broken or not wait
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def _moved(self, offset: int) -> None:
        with self._changed:
            if offset > self._behind:
                self._behind = offset
                if offset - self._claimed >= _STRIDE:
                    self._changed.notify()

    def _follow(self) -> None:
        try:
            while self._claim():
                self._hash(self._hashed, self._claimed)
        except RecastError:
            self._broken = True  # read again, it fails again, and is told

    def _claim(self) -> bool:
        """Wait for more to hash; False at the end."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._ended or self._broken or self._behind - self._claimed >= _STRIDE
            )
            end = min(self._behind, self._recipe.size)
            if self._broken or end == self._claimed:
                return False
            self._claimed = end if end == self._recipe.size else end // PIECE * PIECE
            return self._claimed > self._hashed

    def _hash(self, start: int, end: int) -> None:
        self._data.sync()
        self._data.forget(start, end - start)
        for at in range(start, end, PIECE):
            if self._broken or (self._stop is not None and self._stop.is_set()):
                self._broken = True
                return
            piece = self._data.read(at, min(PIECE, end - at))
            self._builder.add(block_hashes(self._recipe.salt, piece))
        self._hashed = end
