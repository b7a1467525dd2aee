"""Recast's own way to bring a release to a machine, for :mod:`tests.bench.bench_transfer`.

The engine is measured through one :class:`tests.bench.ways.Way` named ``recast``, on pairs whose
flavour is ``ours``. Until there is one, the bench measures the peers alone.
"""

from __future__ import annotations

from pathlib import Path

from tests.bench.ways import Way


def our_way(place: Path) -> Way | None:
    """The engine's; None as long as there is none.

    Args:
        place: ``artifacts/bench``, for scratch and a log.
    """
    return None
