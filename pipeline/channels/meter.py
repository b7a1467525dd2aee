"""How far a transfer is, how fast it goes, and how long it will take yet."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.clock import duration
from pipeline.files import format_size

_WINDOW = 10.0  # seconds over which the rate is taken: it follows a link that changes
_FIRST = 1.0  # seconds before a rate means anything
_STEP = 0.2  # seconds between two reports


@dataclass(frozen=True)
class Progress:
    """A moment of a transfer.

    Attributes:
        what: ``reading``, ``uploading``.
        done, total: bytes.
        rate: bytes per second of late; None while nothing is known yet.
    """

    what: str
    done: int
    total: int
    rate: float | None = None

    @property
    def left(self) -> float | None:
        """Seconds that it will take yet; None if nothing can be said."""
        return (self.total - self.done) / self.rate if self.rate else None

    def __str__(self) -> str:
        share = 100 * self.done // self.total if self.total else 100
        text = f"{self.what} {format_size(self.done)} of {format_size(self.total)}, {share}%"
        if self.rate and self.left is not None:
            text += f", {format_size(int(self.rate))}/s, {duration(self.left)} left"
        return text


class Meter:
    """Adds up what several threads have done of one thing.

    Args:
        what: see :class:`Progress`.
        total: bytes to do.
        hear: is told, a few times a second and at the end.
        clock: seconds that only go on.
    """

    def __init__(
        self,
        what: str,
        total: int,
        hear: Callable[[Progress], None] | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._what = what
        self._total = total
        self._hear = hear
        self._clock = clock
        self._lock = threading.Lock()
        self._done = 0
        self._spoke = self._began = clock()
        self._marks: deque[tuple[float, int]] = deque([(self._began, 0)])

    def add(self, count: int) -> None:
        """Note that *count* bytes more are done."""
        with self._lock:
            self._done += count
            now = self._clock()
            if self._hear is None or (now - self._spoke < _STEP and self._done < self._total):
                return
            self._spoke = now
            self._marks.append((now, self._done))
            while now - self._marks[0][0] > _WINDOW and len(self._marks) > 2:
                self._marks.popleft()
            # Told under the lock: what is told never goes back.
            self._hear(Progress(self._what, self._done, self._total, self._rate(now)))

    def _rate(self, now: float) -> float | None:
        since, before = self._marks[0]
        if now - self._began < _FIRST or now <= since or self._done <= before:
            return None
        return (self._done - before) / (now - since)
