"""A part of a release as a whole: what this machine has already, and the rest in frames.

What is right in the target, left there by a try that was cut or by an older release, is found by
reading it: no journal is needed, and none is believed. Frames that no place here holds are asked
for in as few requests as their places allow, and written once they have their digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline.errors import (
    DigestError,
    HostError,
    NetworkError,
    RecastError,
    TrustError,
    UsageError,
)
from pipeline.files import format_size
from pipeline.store.base import ChangedError, MissingError, object_key
from pipeline.transfer.base import Filled
from pipeline.transfer.fetch import read_object
from pipeline.transfer.frames import FRAME, Frame, read_index
from pipeline.transfer.ranged import RangedObject, WrongError

if TYPE_CHECKING:
    from pipeline.command import Stop
    from pipeline.models.pointer import PublishedPart, PublishedRelease, StoredObject
    from pipeline.store.base import Reader
    from pipeline.transfer.base import Progress, Seed, Target

_TRIES = 3  # for one frame, and for the index
_PIECE = 1 << 20
_BLOCK = 64 << 10  # what is compared before it is written
_UNSYNCED = 64 << 20  # bytes that a power cut may cost
_MOST_INDEX = 8 << 20  # bytes; enough for a file of 1.8 TB
_PAGES = (b"<!doctype", b"<html", b"<head", b"<?xml")


class WholeSource:
    """Fetches parts out of a store; see :class:`pipeline.transfer.base.Source`.

    Args:
        store: where releases are; several mirrors are one
            :class:`pipeline.store.mirrors.FirstOf`.

    Attributes:
        store: the same.
    """

    def __init__(self, store: Reader) -> None:
        self.store = store

    def fill(
        self,
        release: PublishedRelease,
        role: str,
        target: Target,
        seeds: Sequence[Seed],
        *,
        progress: Progress | None = None,
        stop: Stop | None = None,
    ) -> Filled:
        """See :meth:`pipeline.transfer.base.Source.fill`.

        A release that was published without an index of its frames is fetched in one piece each
        time, and is known to be right at its end only: whoever calls verifies its root hash.
        """
        part = release.parts.get(role)
        if part is None or part.stored is None:
            stored = [name for name, each in release.parts.items() if each.stored is not None]
            raise UsageError(
                f"{release.name} has no {role} to fetch", hint=f"It has {', '.join(stored)}."
            )
        if target.size < part.size:
            raise HostError(
                f"there is room for {format_size(target.size)}, and the {role} of {release.name} "
                f"has {format_size(part.size)}",
                hint="Nothing was written. This machine needs a larger slot, or a smaller image.",
            )
        name = f"the {role} of {release.name}"
        source = RangedObject(self.store, object_key(part.stored.digest), stop)
        return _Filling(source, name, part, part.stored, target, seeds, progress).run()


@dataclass
class _Filling:
    """One part on its way to its place."""

    source: RangedObject
    name: str
    part: PublishedPart
    stored: StoredObject
    target: Target
    seeds: Sequence[Seed]
    progress: Progress | None
    right: int = 0
    fetched: int = 0
    written: int = 0
    unsynced: int = 0
    extra: int = 0  # bytes that came besides the object's
    poor: list[Seed] = field(default_factory=list)  # seeds that cannot be read

    def run(self) -> Filled:
        """Do it."""
        try:
            self._fill()
        except MissingError as error:
            error.hint = error.hint or (
                f"The store has no whole copy of {self.name}: perhaps it is still being copied "
                "there. What came already is kept."
            )
            raise
        except RecastError:
            with suppress(HostError):  # a power cut must not cost what is right
                self.target.sync()
            raise
        finally:
            self.source.close()
        self.target.sync()
        return Filled(
            downloaded=self.source.received + self.extra,
            reused=self.right - self.fetched,
            written=self.written,
        )

    def _fill(self) -> None:
        frames = self._frames()
        if frames is None:
            self._fill_unframed()
            return
        for number, frame in enumerate(frames):
            self.source.check()
            self._place(frame, f"frame {number + 1} of {len(frames)}")
            if self.unsynced >= _UNSYNCED:
                self.target.sync()
                self.unsynced = 0

    def _frames(self) -> tuple[Frame, ...] | None:
        """What the part consists of; None if nobody says."""
        if self.part.size == 0:
            return ()
        if self.part.frames is None:
            if self.part.size > FRAME:
                return None
            digest = bytes.fromhex(self.part.digest)
            return (Frame(0, self.part.size, 0, self.stored.size, digest),)
        try:
            return read_index(self._index(self.part.frames), self.part.size, self.stored.size)
        except ValueError as error:
            key = object_key(self.part.frames.digest)
            raise DigestError(
                f"{key} in {self.source.store.url} is no index of {self.name}: {error}",
                hint="Publish the release again, from where it was built.",
            ) from error

    def _index(self, stored: StoredObject) -> bytes:
        key = object_key(stored.digest)
        if stored.size > _MOST_INDEX:
            raise ValueError(f"it has {stored.size} bytes")
        why = ""
        for _ in range(_TRIES):
            self.source.check()
            try:
                data = self.source.store.get(key, limit=stored.size)
            except TrustError:
                why = f"it has more than {stored.size} bytes"
                continue
            self.extra += len(data)
            if hashlib.sha256(data).hexdigest() == stored.digest:
                return data
            why = "its bytes have another digest"
        raise self._refused(key, why)

    # --- one frame --------------------------------------------------------------------------------

    def _place(self, frame: Frame, what: str) -> None:
        """Have *frame* in its place."""
        held = self._held(frame.offset, frame.size)
        if held is not None and _is(held, frame):
            self.source.close()  # nothing of it is wanted now: let no more of it come
        else:
            data: bytes | bytearray | None = self._from_seeds(frame)
            if data is None:
                data = self._download(frame, what)
                self.fetched += frame.size
            else:
                self.source.close()
            self._write(frame.offset, held, data)
        self._heard(frame.size)

    def _held(self, offset: int, size: int) -> bytes | None:
        """What the target has there; None if it cannot be read: writing may mend that."""
        try:
            return self.target.read(offset, size)
        except HostError:
            return None

    def _from_seeds(self, frame: Frame) -> bytes | None:
        for seed in self.seeds:
            if seed in self.poor or seed.size < frame.offset + frame.size:
                continue
            try:
                data = seed.read(frame.offset, frame.size)
            except HostError:  # then it comes over the link
                self.poor.append(seed)
                continue
            if _is(data, frame):
                return data
        return None

    def _download(self, frame: Frame, what: str) -> bytearray:
        """The bytes of *frame*, as they must be."""
        why = ""
        for _ in range(_TRIES):
            try:
                data = self.source.read_frame(frame, self.stored.encoding == "zstd")
            except WrongError as error:
                why = str(error)
            except ChangedError:
                why = "it changes while it is read"
            else:
                if _is(data, frame):
                    return data
                why = "its bytes have another digest"
            self.source.close()
        raise self._refused(self.source.key, f"{what}: {why}")

    def _write(self, offset: int, held: bytes | None, data: bytes | bytearray) -> None:
        """Write of *data* what *held* has not; None: all of it."""
        for start, end in _differing(held, data):
            self.target.write(offset + start, bytes(data[start:end]))
            self.written += end - start
            self.unsynced += end - start

    def _heard(self, size: int) -> None:
        self.right += size
        if self.progress is not None:
            self.progress(self.right, self.fetched)

    # --- without an index -------------------------------------------------------------------------

    def _fill_unframed(self) -> None:
        """Fetch it in one piece, unless the target holds it."""
        size = self.part.size
        if self._target_digest() == self.part.digest:
            self._heard(size)
            return
        hasher = hashlib.sha256()
        at = 0
        try:
            for piece in read_object(self.source.store, self.stored, size, self.source.stop):
                hasher.update(piece)
                self._write(at, self._held(at, len(piece)), piece)
                at += len(piece)
                self.fetched = at
                self._heard(len(piece))
        except DigestError as error:
            raise self._page(self.source.key) or error from error
        self.extra += self.stored.size
        if hasher.hexdigest() != self.part.digest:
            raise DigestError(
                f"{self.name} in {self.source.store.url} is not what was published",
                hint="Its description was changed: publish the release again.",
            )

    def _target_digest(self) -> str:
        hasher = hashlib.sha256()
        for at in range(0, self.part.size, _PIECE):
            self.source.check()
            held = self._held(at, min(_PIECE, self.part.size - at))
            if held is None:
                return ""
            hasher.update(held)
        return hasher.hexdigest()

    # --- what a person is told --------------------------------------------------------------------

    def _refused(self, key: str, why: str) -> RecastError:
        """The error for bytes that are not those that were signed, however often they came."""
        return self._page(key) or DigestError(
            f"{key} in {self.source.store.url} is damaged, and {self.name} needs it: {why}",
            hint="Something between this machine and the store changes what passes, or the "
            "store's copy is damaged: then remove it there, and `recast publish` the release "
            "again. What came right is kept.",
        )

    def _page(self, key: str) -> NetworkError | None:
        """The error for a web page in the place of an object; None if that is not it."""
        begin = b""
        with suppress(RecastError):
            begin = next(iter(self.source.store.stream(key)), b"")[:1024].lstrip().lower()
        if not begin.startswith(_PAGES):
            return None
        return NetworkError(
            f"a web page came in the place of {key} from {self.source.store.url}",
            hint="Something between this machine and the store answers for it: a network that "
            "wants somebody to sign in, or a proxy. Let the store through there. What came right "
            "is kept.",
        )


def _is(data: bytes | bytearray, frame: Frame) -> bool:
    return len(data) == frame.size and hashlib.sha256(data).digest() == frame.digest


def _differing(held: bytes | None, data: bytes | bytearray) -> Iterator[tuple[int, int]]:
    """Where *data* differs from *held*, in whole blocks, put together to at most a piece."""
    begin = end = 0
    for at in range(0, len(data), _BLOCK):
        stop = min(at + _BLOCK, len(data))
        if held is not None and held[at:stop] == data[at:stop]:
            continue
        if at != end or stop - begin > _PIECE:
            if end > begin:
                yield begin, end
            begin = at
        end = stop
    if end > begin:
        yield begin, end
