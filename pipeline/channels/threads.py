"""Several things at once, of which the first failure ends the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import TypeVar

from pipeline.command import Stop

_STEP = 0.1  # seconds between two looks at the other flag
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class LinkedStop(Stop):
    """Set when *outer* is, or by itself, which *outer* does not hear of."""

    def __init__(self, outer: Stop | None) -> None:
        super().__init__()
        self._outer = outer

    def is_set(self) -> bool:
        """Has a stop been asked for, here or there?"""
        return super().is_set() or (self._outer is not None and self._outer.is_set())

    def wait(self, seconds: float) -> bool:
        """Wait at most *seconds* for a stop; say whether it came."""
        while seconds > 0 and not self.is_set():
            super().wait(min(_STEP, seconds))
            seconds -= _STEP
        return self.is_set()


def do_all(
    work: Callable[[_Item], _Result], items: Sequence[_Item], at_once: int, stop: LinkedStop
) -> list[_Result]:
    """Do *work* on all *items*, and return what came of them, in order.

    Args:
        work: obeys *stop*.
        items: what to do it on; those at the front are begun first.
        at_once: threads.
        stop: is set when one fails.

    Raises:
        BaseException: the first failure, once all others have ended.
    """
    if not items:
        return []
    with ThreadPoolExecutor(max_workers=min(at_once, len(items))) as pool:
        futures: list[Future[_Result]] = [pool.submit(work, item) for item in items]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
            return [future.result() for future in futures]
        except BaseException:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
