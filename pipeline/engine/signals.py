"""The signals that ask for an end: Ctrl-C, SIGTERM, a closed terminal."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def caught(handler: Callable[[int], None]) -> Iterator[None]:
    """Call *handler* for each signal that asks for an end, while the block runs.

    It is called in the middle of anything, so it may do little: putting something into a
    ``queue.SimpleQueue`` is safe, taking a lock is not. A signal that is ignored (``nohup``) stays
    so, and outside the main thread nothing is caught, for Python allows no more.
    """

    def call(number: int, _frame: FrameType | None) -> None:
        handler(number)

    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in ENDING:
            if signal.getsignal(number) != signal.SIG_IGN:
                before[number] = signal.signal(number, call)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
