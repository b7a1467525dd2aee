"""Recast itself, as ways beside the peers', for :mod:`tests.bench.bench_transfer`."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.bench.harness import timed
from tests.bench.images import OURS
from tests.bench.pairs import Pair
from tests.bench.peers import serving
from tests.bench.ways import MIB, Costs, Row, require_equal

NAME = "recast"
"""What a machine does by itself, whose release is one of those that a channel held before."""

_REPOSITORY = Path(__file__).resolve().parents[2]
_ROLES = ("root", "uki")


class Recast:
    """Publishes with deltas from the releases before, and fetches as a machine does.

    Args:
        place: ``artifacts/bench``; has the log, and scratch while something is measured.
        unnamed: does nobody know what the machine has? Then no delta fits, and chunks come.
    """

    def __init__(self, place: Path, *, unnamed: bool = False) -> None:
        self.name = f"{NAME}-chunks" if unnamed else NAME
        self._place = place
        self._log = place / f"transfer-{self.name}.log"
        self._options = ["--unnamed"] if unnamed else []

    def serves(self, pair: Pair) -> bool:
        """Images that are ours."""
        return pair.new.flavour == OURS

    def measure(self, pair: Pair) -> Row:
        """Publish the releases in order; the last of them is measured, and fetched."""
        with tempfile.TemporaryDirectory(prefix=f"{self.name}-", dir=self._place) as scratch:
            folder = Path(scratch)
            costs = Costs(self._log, _REPOSITORY)
            store, slot = folder / "store", folder / "slot"
            for each in (store, slot):
                each.mkdir()
            old = next(iter(pair.old.files.values())).parent
            new = next(iter(pair.new.files.values())).parent
            bases = [old]
            costs.aside(_engine("publish", store, old))
            if pair.between is not None:
                between = next(iter(pair.between.files.values())).parent
                costs.aside(_engine("publish", store, between, *bases))
                bases.insert(0, between)
            costs.publish(_engine("publish", store, new, *bases))
            with serving(store, folder / "nginx") as server:
                costs.apply(_engine("apply", *self._options, server.url, store, new, slot, old))
                size, requests = server.sent()
            for role in _ROLES:
                require_equal(slot / role, pair.new.files[role])
        return costs.row(pair, self.name, size=size, requests=requests)


def our_ways(place: Path) -> list[Recast]:
    """What a machine does by itself; and what it does when nobody knows what it has.

    Args:
        place: ``artifacts/bench``, for scratch and logs.
    """
    return [Recast(place), Recast(place, unnamed=True)]


def idle_memory() -> float:
    """MiB of an interpreter that has our libraries, and does nothing with them."""
    return timed(_engine("nothing"), cwd=_REPOSITORY).peak_rss / MIB


def _engine(*words: str | Path) -> Sequence[str | Path]:
    return [sys.executable, "-m", "tests.bench.engine", *words]
