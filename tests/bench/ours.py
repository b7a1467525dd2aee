"""Recast itself, as a way beside the peers: what a machine takes by itself, and each way alone."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tests.bench.harness import timed
from tests.bench.images import OURS
from tests.bench.pairs import Pair
from tests.bench.peers import serving
from tests.bench.ways import MIB, Costs, Row, require_equal

_ROLES = ("root", "uki")


class Recast:
    """Publishes with deltas from the releases before, and fetches as a machine does.

    Args:
        place: ``artifacts/bench``; has the log, and scratch while something is measured.
        unnamed: does nobody know what the machine has? Then no delta fits, and chunks come.
    """

    def __init__(self, place: Path, *, unnamed: bool = False) -> None:
        self.name = "recast, any base" if unnamed else "recast"
        self._place = place
        self._log = place / "transfer.log"
        self._options = ["--unnamed"] if unnamed else []

    def serves(self, pair: Pair) -> bool:
        """Images that are ours."""
        return pair.new.flavour == OURS

    def measure(self, pair: Pair) -> Row:
        """Publish the releases in order; the last of them is measured, and fetched."""
        costs = Costs(self._log)
        with tempfile.TemporaryDirectory(prefix="recast-", dir=self._place) as scratch:
            folder = Path(scratch)
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
        row = costs.row(pair, self.name, size=size, requests=requests)
        idle = timed(_engine("nothing"), log=self._log).peak_rss / MIB
        return replace(row, apply_memory=row.apply_memory - idle)


def _engine(*words: str | Path) -> Sequence[str | Path]:
    return [sys.executable, "-m", "tests.bench.engine", *words]
