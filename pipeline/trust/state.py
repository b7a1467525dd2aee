"""What a store's metadata says, verified."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class State:
    """The verified metadata of a store.

    Attributes:
        notices: sentences that a person should read.
    """

    notices: tuple[str, ...]
