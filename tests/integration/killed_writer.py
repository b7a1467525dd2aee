"""Writes to a local store in children, each killed a system call later than the one before.

``python killed_writer.py FOLDER OPERATION`` makes a store in FOLDER/1, FOLDER/2, … until a child
lives to the end of its write, and prints how many children that took.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.store.local import LocalStore

TIMESTAMP = "metadata/timestamp.json"
OLD, NEW = b"old state", b"new state, a longer one"
LARGE = hashlib.shake_128(b"large").digest(3 << 20)
CALLS = (
    "open", "fsync", "link", "replace", "rename", "unlink", "fchmod", "utime", "mkdir", "chmod",
    "close",
)  # fmt: skip


def prepare(store: LocalStore) -> None:
    """What is there before."""
    store.create("metadata/1.root.json", OLD)
    store.replace(TIMESTAMP, OLD, etag="")


def write(store: LocalStore, operation: str, progress: Callable[[int], None]) -> None:
    """The write that is cut."""
    if operation == "put":
        digest = hashlib.sha256(LARGE).hexdigest()
        store.put("objects/ab/large", LARGE, sha256=digest, progress=progress)
    elif operation == "create":
        store.create("metadata/2.root.json", NEW)
    else:
        found = store.find(TIMESTAMP)
        assert found is not None
        store.replace(TIMESTAMP, NEW, etag=found.etag)


def die_at(number: int) -> Callable[[int], None]:
    """Be killed before this system call, of those that count; returns one more that does."""
    left = itertools.count(number - 1, -1)

    def count(_: int = 0) -> None:
        if next(left) == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def counting(real: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(real)
        def call(*args: Any, **kwargs: Any) -> Any:
            count()
            return real(*args, **kwargs)

        return call

    for name in CALLS:
        setattr(os, name, counting(getattr(os, name)))
    return count


def main(folder: Path, operation: str) -> None:
    """Kill children until one lives."""
    for number in itertools.count(1):
        store = LocalStore(folder / str(number))
        prepare(store)
        child = os.fork()
        if child == 0:
            write(LocalStore(store.folder), operation, die_at(number))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            assert os.waitstatus_to_exitcode(status) == 0
            print(number)
            return


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
