"""What the transfer bench says of its rows: no failure is hidden, no ratio is against nothing."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tests.bench import bench_transfer
from tests.bench.images import OURS, Image
from tests.bench.pairs import Pair
from tests.bench.plots import WIDTH, as_markdown, draw
from tests.bench.ways import Costs, Row, WrongResult, require_equal

ROWS = [
    Row("kernel+security", "ordinary", "xdelta3", size=143_016_936, requests=1, publish_cpu=61.0),
    Row("kernel+security", "ordinary", "ostree", failed="RuntimeError: no room\nat all"),
    Row("kernel+security", "ours", "recast", size=26_000_000, requests=9, apply_memory=20.0),
    Row("kernel+security", "ours", "patch-from", size=40_000_000, requests=2, apply_cpu=3.0),
    Row("kernel+security", "ours", "whole", size=200_000_000, requests=2, apply_cpu=2.0),
]


def test_a_table_fits_a_terminal_and_says_what_failed_and_why() -> None:
    table = as_markdown(ROWS)
    assert max(map(len, table.split("\n\n")[0].splitlines())) <= WIDTH
    assert "| 143.02 |" in table
    assert "failed" in table.split("\n\n")[0]
    assert "ostree: failed: RuntimeError: no room at all" in table


def test_ours_is_held_against_the_best_of_those_that_gave_a_result() -> None:
    records = {r.bench: r for r in bench_transfer._against_peers(ROWS, "recast")}
    best = records["transfer.kernel+security.bytes"]
    assert best.peer == 143_016_936
    assert best.met
    assert records["transfer.kernel+security.same-images"].ratio == 0.65


def test_no_ratio_is_given_when_every_peer_failed() -> None:
    rows = [row for row in ROWS if row.way in ("ostree", "recast")]
    with pytest.raises(ValueError, match="none of xdelta3, patch-from, ostree"):
        list(bench_transfer._against_peers(rows, "recast"))


def test_two_steps_add_up_and_their_memory_does_not() -> None:
    both = Row("a", "ours", "w", size=1, requests=1, publish_memory=9, apply_memory=2).then(
        Row("b", "ours", "w", size=2, requests=1, publish_memory=3, apply_memory=5)
    )
    assert (both.pair, both.size, both.requests) == ("a", 3, 2)
    assert (both.publish_memory, both.apply_memory) == (9, 5)


def test_a_way_that_breaks_is_a_row_that_says_so(tmp_path: Path) -> None:
    class Breaks:
        name = "breaks"

        def serves(self, pair: Pair) -> bool:
            return True

        def measure(self, pair: Pair) -> Row:
            costs = Costs(tmp_path / "log", tmp_path)
            costs.apply(["false"])
            return costs.row(pair, self.name, size=1, requests=1)

    image = Image(OURS, "base", {"root": tmp_path}, None, tmp_path, "digest")
    row = bench_transfer._measured(Breaks(), Pair("library", image, image))
    assert row.failed.startswith("RuntimeError: false ended with code 1")
    assert (row.pair, row.flavour, row.way) == ("library", OURS, "breaks")


def test_what_is_not_the_new_release_is_no_result(tmp_path: Path) -> None:
    (tmp_path / "made").write_bytes(b"new!")
    (tmp_path / "wanted").write_bytes(b"new.")
    with pytest.raises(WrongResult, match="made is not"):
        require_equal(tmp_path / "made", tmp_path / "wanted")
    (tmp_path / "made").write_bytes(b"new.")
    require_equal(tmp_path / "made", tmp_path / "wanted")


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="needs matplotlib")
def test_the_picture_is_drawn_even_when_something_failed(tmp_path: Path) -> None:
    written = draw(ROWS, tmp_path)
    assert [path.name for path in written] == ["transfer.png", "transfer.svg"]
    assert all(path.stat().st_size > 10_000 for path in written)
