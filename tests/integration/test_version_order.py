"""Debian's version order here is dpkg's own."""

from __future__ import annotations

import random

import pytest

from pipeline import command
from pipeline.packages import compare_versions


def random_version(source: random.Random) -> str:
    upstream = source.choice("0123") + "".join(source.choices("012abz.+~", k=source.randint(0, 5)))
    revision = source.choice("012") + "".join(source.choices("01ab.+~", k=source.randint(0, 3)))
    return source.choice(["", "", "1:", "2:"]) + upstream + source.choice(["", f"-{revision}"])


def dpkg_order(left: str, right: str) -> int:
    for relation, order in (("lt", -1), ("eq", 0), ("gt", 1)):
        try:
            command.run(["dpkg", "--compare-versions", left, relation, right])
        except command.CommandError:
            continue
        return order
    raise AssertionError(f"dpkg cannot compare {left} and {right}")


@pytest.mark.parametrize("seed", range(60))
def test_order_agrees_with_dpkg(seed: int) -> None:
    source = random.Random(seed)
    left, right = random_version(source), random_version(source)
    assert compare_versions(left, right) == dpkg_order(left, right), (left, right)
