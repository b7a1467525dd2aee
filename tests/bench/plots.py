"""The rows of the transfer bench for a person: a table, and a picture of the bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.files import write_atomically
from tests.bench.images import ORDINARY, OURS
from tests.bench.ways import Row

if TYPE_CHECKING:
    from collections.abc import Mapping

COLUMNS = ("pair", "images", "way", "MB", "requests", "publish s", "MiB", "apply s", "MiB")
WIDTH = 120
_TITLES = {
    ORDINARY: "images as a distribution ships them",
    OURS: "Recast's images: plain modules and initrd, aligned files",
}
# Okabe and Ito's colours, which the colour-blind can tell apart; ours is the dark one.
_COLOURS = ("#999999", "#56b4e9", "#0072b2", "#009e73", "#e69f00", "#cc79a7", "#d55e00")


def as_markdown(rows: Iterable[Row]) -> str:
    """A table that fits a terminal of 120 columns; what failed says why below it."""
    rows = list(rows)
    cells = [COLUMNS, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(COLUMNS))]
    lines = [_line(cells[0], widths), _rule(widths), *(_line(each, widths) for each in cells[1:])]
    assert all(len(line) <= WIDTH for line in lines)
    told = []
    for row in rows:
        what = f"failed: {row.failed}" if row.failed else row.note
        if what:
            told.append(f"- {row.pair}, {row.flavour}, {row.way}: {' '.join(what.split())}")
    return "\n".join([*lines, *(["", *told] if told else [])]) + "\n"


def _cells(row: Row) -> tuple[str, ...]:
    head = (row.pair, row.flavour, row.way)
    if row.failed:
        return (*head, "failed", "", "", "", "", "")
    return (
        *head,
        f"{row.size / 1e6:.2f}",
        str(row.requests),
        f"{row.publish_cpu:.1f}",
        f"{row.publish_memory:.0f}",
        f"{row.apply_cpu:.1f}",
        f"{row.apply_memory:.0f}",
    )


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [
        cell.ljust(width) if column < 3 else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return f"| {' | '.join(padded)} |"


def _rule(widths: Sequence[int]) -> str:
    marks = [
        "-" * width if column < 3 else "-" * (width - 1) + ":"
        for column, width in enumerate(widths)
    ]
    return f"| {' | '.join(marks)} |"


def draw(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Bars of bytes by pair and way, to ``transfer.png`` and ``transfer.svg`` in *folder*.

    Raises:
        ImportError: matplotlib is not installed; it is in the extra ``dev``.
    """
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "transfer"  # the same rows give the same file
    from matplotlib import pyplot

    flavours = [each for each in _TITLES if any(row.flavour == each for row in rows)]
    figure, axes = pyplot.subplots(
        len(flavours), 1, figsize=(13, 5 * len(flavours)), squeeze=False, layout="constrained"
    )
    ways = list(dict.fromkeys(row.way for row in rows))
    colours = dict(zip(ways, _COLOURS, strict=False))
    sizes = [row.size for row in rows if row.size]
    for flavour, axis in zip(flavours, axes[:, 0], strict=True):
        shown = [row for row in rows if row.flavour == flavour]
        _bars(axis, shown, ways, colours)
        axis.set_ylim(min(sizes) / 1e6 / 2, max(sizes) / 1e6 * 3)
        axis.set_title(_TITLES[flavour], loc="left")
    axes[0, 0].legend(ncols=len(ways), loc="upper right", fontsize=9, frameon=False)
    figure.suptitle("Megabytes to download for a new release (logarithmic; less is better)")
    written = []
    for kind, metadata in (("png", None), ("svg", {"Date": None})):
        path = folder / f"transfer.{kind}"
        figure.savefig(path, dpi=110, metadata=metadata)
        written.append(path)
    pyplot.close(figure)
    return written


def _bars(axis: Any, rows: Sequence[Row], ways: Sequence[str], colours: Mapping[str, str]) -> None:
    """One group for each pair, one bar for each way, each with its number."""
    pairs = list(dict.fromkeys(row.pair for row in rows))
    shown = [way for way in ways if any(row.way == way for row in rows)]
    width = 0.86 / len(shown)
    for number, way in enumerate(shown):
        at, heights, texts = [], [], []
        for place, pair in enumerate(pairs):
            row = next((row for row in rows if (row.pair, row.way) == (pair, way)), None)
            if row is None:
                continue
            at.append(place + (number - (len(shown) - 1) / 2) * width)
            heights.append(row.size / 1e6)
            texts.append("failed" if row.failed else f"{row.size / 1e6:.3g}")
        bars = axis.bar(at, heights, width * 0.94, label=way, color=colours[way])
        axis.bar_label(bars, texts, fontsize=8, padding=2)
    axis.set_yscale("log")
    axis.set_ylabel("MB")
    axis.set_xticks(range(len(pairs)), pairs)
    axis.grid(axis="y", alpha=0.3)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def report(rows: Sequence[Row], folder: Path) -> str:
    """Write the table and the picture to *folder*; returns the table."""
    table = as_markdown(rows)
    write_atomically(folder / "transfer.md", table)
    draw(rows, folder)
    return table
