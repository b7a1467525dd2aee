"""What a new release costs on the wire, against the tools that others use for it.

Pairs of releases come from the distribution's archive, as it is on the day; see
:mod:`tests.bench.trees` for what is in them, :mod:`tests.bench.peers` for whom we meet. Peers are
measured on the images that a distribution would ship, and on ours: the first says what a site
saves, the second how much of it is not just the images' merit. All numbers go to
``artifacts/bench/transfer.md``, ``.png``, ``.svg`` and ``.json``. With ``RECAST_BENCH_KEEP`` set,
what was measured of peers before, on the same images, is not measured again;
``RECAST_BENCH_WORKERS`` says how many peers are measured at once (2).
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from pipeline import digest
from pipeline.files import write_atomically
from tests.bench.harness import Record, compare, within
from tests.bench.images import ORDINARY, OURS
from tests.bench.ours import NAME, idle_memory, our_ways
from tests.bench.pairs import Pair, make_pairs
from tests.bench.peers import all_peers
from tests.bench.plots import report
from tests.bench.ways import Row, Way

_REPOSITORY = Path(__file__).resolve().parents[2]
_AT_ONCE = int(os.environ.get("RECAST_BENCH_WORKERS") or 2)  # peers with one thread each
_DELTAS = ("xdelta3", "patch-from", "ostree")
_GOALS = {"kernel+security": 0.7, "library": 0.5, "package": 1.0}
_SAME_IMAGES = {"kernel+security": 0.7, "library": 0.7, "package": 1.0}
_TWO_BACK = 0.5  # of casync's bytes
_REQUESTS = 64.0
_MEMORY = 32.0  # MiB above an interpreter that has the libraries and does nothing
_CPU = 2.0  # times zstd's, for unpacking the whole image
_PUBLISH = 60.0  # seconds of a processor for 400 MB of root


def bench_transfer() -> Iterator[Record]:
    """Every way on every pair; then ours against the best of the others."""
    place = Path(os.environ.get("RECAST_ARTIFACTS") or _REPOSITORY / "artifacts") / "bench"
    place.mkdir(parents=True, exist_ok=True)
    with (place / "pairs.log").open("w") as log:
        pairs = [pair for both in make_pairs(place, log) for pair in both]
    # First, and alone: nothing disturbs it.
    rows = [_measured(way, p) for way in our_ways(place) for p in pairs if _is_for(way, p)]
    rows += _Peers(place).measure(pairs)
    order = {way: number for number, way in enumerate([*_names(place), NAME])}
    rows.sort(key=lambda row: (_place_of(row, pairs), order.get(row.way, 99)))
    print(report(rows, place), flush=True)
    print("rauc is left out: what it does beyond a whole image needs a running machine's slots")
    for row in rows:
        if row.failed:
            print(f"FAILED: {row.pair}, {row.flavour}, {row.way}: {row.failed}", file=sys.stderr)
    yield from _against_peers(rows, NAME)
    yield from _limits(rows, NAME, {p.name: p for p in pairs if p.new.flavour == OURS})


class _Peers:
    """Measures peers, some at once, and remembers what came out."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._file = place / "transfer.json"
        self._lock = threading.Lock()
        known = json.loads(self._file.read_text()) if self._file.exists() else {}
        self._known: dict[str, Row] = {key: Row(**row) for key, row in known.items()}
        if not os.environ.get("RECAST_BENCH_KEEP"):
            self._known = {}

    def measure(self, pairs: Sequence[Pair]) -> list[Row]:
        """Every peer on every pair. A peer does one after the other, as some of that is shared."""
        peers = all_peers(self._place)
        peers.sort(key=lambda peer: peer.name != "patch-from")  # takes as long as all the others
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return [row for rows in pool.map(lambda p: self._of(p, pairs), peers) for row in rows]

    def _of(self, peer: Way, pairs: Sequence[Pair]) -> list[Row]:
        return [self._one(peer, pair) for pair in pairs if _is_for(peer, pair)]

    def _one(self, peer: Way, pair: Pair) -> Row:
        images = (pair.old, pair.between, pair.new)
        key = digest.of_data([peer.name, pair.name, *(each and each.digest for each in images)])
        with self._lock:
            row = self._known.get(key)
        if row is None or row.failed:
            row = _measured(peer, pair)
        with self._lock:
            self._known[key] = row
            kept = {key: asdict(row) for key, row in self._known.items()}
            write_atomically(self._file, json.dumps(kept, indent=1))
        return row


def _is_for(way: Way, pair: Pair) -> bool:
    return way.serves(pair)


def _measured(way: Way, pair: Pair) -> Row:
    """What *way* takes; one that breaks is told about, and is no reason to lose the others."""
    try:
        row = way.measure(pair)
    except Exception as error:
        row = Row(pair.name, pair.new.flavour, way.name, failed=f"{type(error).__name__}: {error}")
    what = row.failed[:300] if row.failed else f"{row.size} bytes, {row.requests} requests"
    print(f"  {row.pair}, {row.flavour}, {row.way}: {what}", flush=True)
    return row


def _names(place: Path) -> list[str]:
    return [peer.name for peer in all_peers(place)]


def _place_of(row: Row, pairs: Sequence[Pair]) -> int:
    found = [(pair.name, pair.new.flavour) for pair in pairs]
    return found.index((row.pair, row.flavour))


def _against_peers(rows: Sequence[Row], name: str) -> Iterator[Record]:
    """Our bytes against the best of those who make deltas, or who fetch chunks."""
    ours = {row.pair: row for row in rows if row.way == name and not row.failed}
    for pair, goal in _GOALS.items():
        if pair in ours:
            best = _best(rows, pair, _DELTAS, ORDINARY)
            size = ours[pair].size
            yield compare(f"transfer.{pair}.bytes", size, best, unit="bytes", goal=goal)
            best = _best(rows, pair, ("xdelta3", "patch-from"), OURS)
            goal = _SAME_IMAGES[pair]
            yield compare(f"transfer.{pair}.same-images", size, best, unit="bytes", goal=goal)
    if "two-back" in ours:
        best = min(_best(rows, "two-back", ("casync",), each) for each in (ORDINARY, OURS))
        size = ours["two-back"].size
        yield compare("transfer.two-back.bytes", size, best, unit="bytes", goal=_TWO_BACK)


def _best(rows: Iterable[Row], pair: str, ways: Sequence[str], flavour: str) -> int:
    """The fewest bytes of those *ways* that gave some.

    Raises:
        ValueError: none did; better no ratio than one against nothing.
    """
    sizes = [
        row.size
        for row in rows
        if (row.pair, row.flavour) == (pair, flavour) and row.way in ways and not row.failed
    ]
    if not sizes:
        raise ValueError(f"none of {', '.join(ways)} gave a result for {pair}")
    return min(sizes)


def _limits(rows: Sequence[Row], name: str, pairs: dict[str, Pair]) -> Iterator[Record]:
    """What we may take of a machine and of a publisher, for each pair."""
    idle = idle_memory()
    whole = {row.pair: row for row in rows if (row.way, row.flavour) == ("whole", OURS)}
    for row in rows:
        if row.way != name:
            continue
        if row.failed:
            raise RuntimeError(f"{row.pair}: {row.failed}")
        what = f"transfer.{row.pair}"
        yield within(f"{what}.requests", row.requests, _REQUESTS, unit="")
        yield within(f"{what}.memory", row.apply_memory - idle, _MEMORY, unit="MiB")
        unpacking = whole[row.pair].apply_cpu
        yield compare(f"{what}.cpu", row.apply_cpu, unpacking, unit="s", goal=_CPU)
        limit = _PUBLISH * pairs[row.pair].new.files["root"].stat().st_size / 400e6
        if pairs[row.pair].adjacent:
            yield within(f"{what}.publish", row.publish_cpu, limit, unit="s")
