"""A part of a release by the cheapest way: what this machine has already, and the rest.

What is right in the target, left there by a try that was cut or by an older release, is found by
reading it: no journal is needed, and none is believed. For the rest each way tells its cost by
its index alone (:mod:`pipeline.transfer.ways`), and the cheapest brings it. A way that is
missing, damaged or does not fit is left, with what is right kept, and the next one goes on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from pipeline.errors import DigestError, HostError, NetworkError, RecastError, UsageError
from pipeline.files import format_size
from pipeline.store.base import MissingError, object_key
from pipeline.transfer.base import Filled
from pipeline.transfer.packed import WrongError
from pipeline.transfer.ranged import Link
from pipeline.transfer.segments import DIGEST, SEGMENT, Segment, digest_of, read_table
from pipeline.transfer.ways import Brought, ChunkWay, DeltaWay, Way, WholeWay

if TYPE_CHECKING:
    from pipeline.command import Stop
    from pipeline.models.pointer import PublishedPart, PublishedRelease, StoredObject
    from pipeline.store.base import Reader
    from pipeline.transfer.base import Progress, Seed, Target

_TRIES = 3  # for one segment, by one way
_BLOCK = 64 << 10  # what is compared before it is written
_PIECE = 1 << 20
_UNSYNCED = 64 << 20  # bytes that a power cut may cost
_MOST_TABLE = 8 << 20  # bytes; enough for a part of 400 GB
_WORTH = 4  # an index is fetched if it is smaller than this share of what is to come without it
_PROBES = 16  # segments that are looked at before the whole target is
_PAGES = (b"<!doctype", b"<html", b"<head", b"<?xml")


class StoreSource:
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
        """See :meth:`pipeline.transfer.base.Source.fill`."""
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
        link = Link(self.store, stop)
        return _Filling(link, name, part, part.stored, target, seeds, progress).run()


@dataclass
class _Filling:
    """One part on its way to its place."""

    link: Link
    name: str
    part: PublishedPart
    stored: StoredObject
    target: Target
    seeds: Sequence[Seed]
    progress: Progress | None
    segments: tuple[Segment, ...] = ()
    right: int = 0
    reused: int = 0
    written: int = 0
    unsynced: int = 0
    how: list[str] = field(default_factory=list)
    troubles: dict[str, Exception] = field(default_factory=dict)

    def run(self) -> Filled:
        """Do it."""
        try:
            self.segments = self._segments()
            self._fill(self._missing())
        except RecastError as error:
            with suppress(HostError):  # a power cut must not cost what is right
                self.target.sync()
            if isinstance(error, MissingError) and not error.hint:
                error.hint = (
                    f"The store has no whole copy of {self.name}: perhaps it is still being "
                    "copied there. What came already is kept."
                )
            raise
        self.target.sync()
        return Filled(
            downloaded=self.link.received,
            reused=self.reused,
            written=self.written,
            how="; ".join(self.how) or "all of it was there",
        )

    # --- what it must be --------------------------------------------------------------------------

    def _segments(self) -> tuple[Segment, ...]:
        size = self.part.size
        if size == 0:
            return ()
        if self.part.segments is None:
            if size > SEGMENT:
                raise DigestError(
                    f"{self.name} was published without a table of its segments",
                    hint="Publish the release again, from where it was built.",
                )
            digest = bytes.fromhex(self.part.digest)[:DIGEST]
            return (Segment(0, size, 0, self.stored.size, digest),)
        key = object_key(self.part.segments.digest)
        try:
            return read_table(
                self.link.get(self.part.segments, _MOST_TABLE), size, self.stored.size
            )
        except WrongError as error:
            raise self._refused(key, str(error)) from error
        except ValueError as error:
            raise DigestError(
                f"{key} in {self.link.store.url} is no table of {self.name}: {error}",
                hint="Publish the release again, from where it was built.",
            ) from error

    def _missing(self) -> list[int]:
        """The segments that are not right in the target."""
        numbers = range(len(self.segments))
        probes = {*numbers[:2], *numbers[:: max(1, len(numbers) // _PROBES)]}
        # Whoever fills a place goes from its start to its end: one that has nothing right at any
        # of these has nothing that would be worth reading all of it.
        if not any(self._is_right(number) for number in probes):
            return list(numbers)
        missing = []
        for number in numbers:
            if self._is_right(number):
                size = self.segments[number].size
                self.reused += size
                self._heard(size)
            else:
                missing.append(number)
        return missing

    def _is_right(self, number: int) -> bool:
        self.link.check()
        segment = self.segments[number]
        held = self._held(segment.offset, segment.size)
        return held is not None and digest_of(held) == segment.digest

    def _held(self, offset: int, size: int) -> bytes | None:
        """What the target has there; None if it cannot be read: writing may mend that."""
        try:
            return self.target.read(offset, size)
        except HostError:
            return None

    # --- by which way -----------------------------------------------------------------------------

    def _fill(self, missing: Sequence[int]) -> None:
        """Bring *missing*: by the cheapest way, and when that fails by the next one."""
        left = list(missing)
        tried: set[str] = set()
        while left:
            way, costs = self._choose(left, tried)
            if way is None:
                raise self._final()
            tried.add(way.name)
            before = self.link.received
            trouble = ""
            try:
                way.plan(left)
                self._bring(way, left)
            except (WrongError, MissingError) as error:
                self.troubles[way.name] = error
                trouble = f", and then: {error}"
            finally:
                way.close()
                came = format_size(self.link.received - before)
                self.how.append(f"{way.name}: {came}{costs}{trouble}")

    def _choose(self, missing: Sequence[int], tried: set[str]) -> tuple[Way | None, str]:
        """The cheapest way that was not tried; what the others would have cost."""
        whole = WholeWay(self.link, self.stored, self.segments)
        costs: list[tuple[int, Way]] = []
        if whole.name not in tried:
            costs.append((whole.plan(missing), whole))
        for way, index in self._others(whole, missing):
            least = min((cost for cost, _ in costs), default=0)
            # What a delta leaves to be fetched, chunks never undercut.
            fits = isinstance(way, ChunkWay) and any(isinstance(w, DeltaWay) for _, w in costs)
            if way.name in tried or fits or (costs and index * _WORTH > least):
                continue
            try:
                way.open()
            except (WrongError, MissingError) as error:
                tried.add(way.name)
                self.how.append(f"{way.name}: {error}")
            else:
                costs.append((way.plan(missing), way))
        if not costs:
            return None, ""
        costs.sort(key=lambda each: each[0])  # of two that cost the same, the simpler one
        others = ", ".join(f"{way.name} {format_size(cost)}" for cost, way in costs[1:])
        return costs[0][1], f" (instead of {others})" if others else ""

    def _others(self, whole: WholeWay, missing: Sequence[int]) -> Iterator[tuple[Way, int]]:
        """The other ways, and the bytes of the index of each."""
        for delta in sorted(self.part.deltas, key=lambda each: each.size):
            seed = self._named.get(delta.base)
            if seed is not None:
                way = DeltaWay(self.link, delta, seed, self.target, self.segments)
                yield way, delta.index.size
        listed = self.part.chunks
        if listed is not None and (self.seeds or len(missing) < len(self.segments)):
            chunky = ChunkWay(
                self.link, listed, whole, self.seeds, self.target, self.segments, missing
            )
            yield chunky, listed.index.size

    @cached_property
    def _named(self) -> Mapping[str, Seed]:
        """Seeds by their identities; it may take reading all of one to tell that."""
        return {seed.identity(): seed for seed in reversed(self.seeds)}

    def _final(self) -> RecastError:
        """What a person is told when no way is left: of the whole, which would be enough."""
        trouble = self.troubles[WholeWay.name]
        if isinstance(trouble, RecastError):
            return trouble
        return self._refused(object_key(self.stored.digest), str(trouble))

    # --- one segment ------------------------------------------------------------------------------

    def _bring(self, way: Way, left: list[int]) -> None:
        """Have the segments *left* in their places; takes out each that is."""
        tries = 0
        while left:
            self.link.check()
            number = left[0]
            segment = self.segments[number]
            try:
                brought = way.bring(number)
                if digest_of(brought.data) != segment.digest:
                    raise WrongError("its bytes have another digest")
            except WrongError as error:
                tries += 1
                if tries == _TRIES:
                    which = f"segment {number + 1} of {len(self.segments)}"
                    raise WrongError(f"{which}: {error}") from error
                way.plan(left)  # the link may have changed what passed
                continue
            tries = 0
            self._place(segment, brought)
            del left[0]

    def _place(self, segment: Segment, brought: Brought) -> None:
        held = self._held(segment.offset, segment.size)
        for start, end in _differing(held, brought.data):
            self.target.write(segment.offset + start, brought.data[start:end])
            self.written += end - start
            self.unsynced += end - start
        self.reused += brought.reused
        self._heard(segment.size)
        if self.unsynced >= _UNSYNCED:
            self.target.sync()
            self.unsynced = 0

    def _heard(self, size: int) -> None:
        self.right += size
        if self.progress is not None:
            self.progress(self.right, self.link.received)

    # --- what a person is told --------------------------------------------------------------------

    def _refused(self, key: str, why: str) -> RecastError:
        """The error for bytes that are not those that were signed, however often they came."""
        return self._page(key) or DigestError(
            f"{key} in {self.link.store.url} is damaged, and {self.name} needs it: {why}",
            hint="Something between this machine and the store changes what passes, or the "
            "store's copy is damaged: then remove it there, and `recast publish` the release "
            "again. What came right is kept.",
        )

    def _page(self, key: str) -> NetworkError | None:
        """The error for a web page in the place of an object; None if that is not it."""
        begin = b""
        with suppress(RecastError):
            stream = self.link.store.stream(key, size=1024)
            begin = next(iter(stream), b"").lstrip().lower()
        if not begin.startswith(_PAGES):
            return None
        return NetworkError(
            f"a web page came in the place of {key} from {self.link.store.url}",
            hint="Something between this machine and the store answers for it: a network that "
            "wants somebody to sign in, or a proxy. Let the store through there. What came right "
            "is kept.",
        )


def _differing(held: bytes | None, data: bytes) -> Iterator[tuple[int, int]]:
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
