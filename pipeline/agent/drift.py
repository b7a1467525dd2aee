"""What differs from the image on a running machine: all of it is gone at the next boot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.models.fields import Record


class Drift(Record):
    """What differs from the image.

    Attributes:
        changed, added, removed: absolute paths, in order; at most 200 in all. A folder that was
            added or removed stands for all below it.
        more: how many others there are.
        complete: was everything looked at, or was there no time?
        trouble: why it could not be looked at; empty if it could.
    """

    changed: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    more: int = 0
    complete: bool = True
    trouble: str = ""


def drift(root: Path, image: Path, ignored: Sequence[str]) -> Drift:
    """What differs between two folders: the running root, and the image that it came from."""
    raise NotImplementedError


def find_drift() -> Drift:
    """What differs from the image on this machine; never raises: it may have trouble."""
    raise NotImplementedError
