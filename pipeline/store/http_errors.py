"""What went wrong with a request, in words, and whether and when to try it again."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from dataclasses import dataclass


class Again(Exception):
    """A request failed in a way that may not last.

    Attributes:
        after: seconds that the server asks to wait; 0 if it does not.
    """

    def __init__(self, text: str, after: float = 0.0) -> None:
        super().__init__(text)
        self.after = after


@dataclass(frozen=True)
class Patience:
    """How often a failed request is repeated, and when.

    Attributes:
        attempts: requests in all.
        first: seconds before the first repetition; twice that before the second, and so on.
        longest: the most seconds of one pause; a server that asks for more is given up.
    """

    attempts: int = 5
    first: float = 0.5
    longest: float = 30.0

    def pause(self, again: Again, failures: int) -> float | None:
        """Seconds to wait after so many failures in a row; None when it is time to give up."""
        if failures >= self.attempts or again.after > self.longest:
            return None
        seconds = min(self.longest, self.first * 2.0 ** (failures - 1))
        # Many machines that lost one server must not come back in step. No secret here.
        return max(again.after, seconds * random.uniform(0.5, 1.0))  # noqa: S311


def reason(error: BaseException) -> str:
    """Why a request failed, in a few words: the libraries' own texts are walls of brackets."""
    last = ""
    for each in _chain(error):
        if isinstance(each, TimeoutError | socket.timeout) or "Timeout" in type(each).__name__:
            last = last or "no answer came in time"
        elif isinstance(each, OSError) and each.strerror and isinstance(each.errno, int):
            return each.strerror
        elif type(each).__name__ == "IncompleteRead":
            last = last or "the connection was cut"
    return last or type(error).__name__


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and all that caused it, each once."""
    seen: list[BaseException] = []
    waiting: list[object] = [error]
    while waiting:
        each = waiting.pop(0)
        if isinstance(each, BaseException) and not any(each is other for other in seen):
            seen.append(each)
            yield each
            waiting += [*each.args, getattr(each, "reason", None), each.__cause__, each.__context__]
