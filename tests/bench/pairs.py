"""Pairs of releases: what a machine has, and what it is to have.

Each is there twice: as ordinary images, and as ours. The files of the pairs that are ours lie
below ``artifacts/bench/pairs/<pair>/{old,new}``, for who wants to try something on them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tests.bench.images import OURS, Image, Studio
from tests.bench.trees import Nursery, Tree, changes


@dataclass(frozen=True)
class Pair:
    """From one release to another.

    Attributes:
        name: such as ``library``.
        old: what the machine has.
        new: what it is to have.
        between: a release that came between the two; None when they follow one another.
        adjacent: is it what happens every week? A new release of the distribution is not.
    """

    name: str
    old: Image
    new: Image
    between: Image | None = None
    adjacent: bool = True


def make_pairs(place: Path, log: IO[str]) -> Iterator[tuple[Pair, Pair]]:
    """Every pair, as ordinary images and as ours; made when they are not there yet.

    Args:
        place: ``artifacts/bench``.
        log: gets what the tools print.
    """
    nursery, studio = Nursery(place, log), Studio(place, log)
    base = nursery.base("base", "trixie")
    updated = nursery.updated("updated", base)
    library = nursery.with_library("library", base)
    package = nursery.with_package("package", base)
    before = nursery.base("bookworm", "bookworm")
    trees: list[tuple[str, Tree, Tree, Tree | None]] = [
        ("library", base, library, None),
        ("package", base, package, None),
        ("kernel+security", base, updated, None),
        ("two-back", base, updated, library),
        ("release", before, updated, None),
    ]
    for name, old, new, between in trees:
        print(f"  {name}: {changes(old, new).summary()}", flush=True)
        flavours = []
        for make in (studio.ordinary, studio.ours):
            pair = Pair(
                name,
                make(old),
                make(new),
                make(between) if between else None,
                adjacent=name not in ("release", "two-back"),
            )
            flavours.append(pair)
        _lay_out(flavours[1], place / "pairs" / name)
        yield flavours[0], flavours[1]


def _lay_out(pair: Pair, folder: Path) -> None:
    """Name the files of a pair that is ours where a person finds them."""
    assert pair.new.flavour == OURS
    shutil.rmtree(folder, ignore_errors=True)
    images = {"old": pair.old, "new": pair.new}
    if pair.between is not None:
        images["between"] = pair.between
    for what, image in images.items():
        (folder / what).mkdir(parents=True)
        for role, path in image.files.items():
            os.link(path, folder / what / role)
