"""What every tier shares: soak tests repeat, and property tests do not depend on the machine."""

from __future__ import annotations

import os

import hypothesis
import pytest

# A busy machine is no failure, and a root-owned example database is a nuisance.
hypothesis.settings.register_profile("recast", deadline=None, database=None)
hypothesis.settings.load_profile("recast")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test marked ``soak`` as often as ``make soak N=...`` says; else once."""
    rounds = int(os.environ.get("RECAST_SOAK", "1"))
    marked = metafunc.definition.get_closest_marker("soak") is not None
    if marked and rounds > 1:
        metafunc.fixturenames.append("soak_round")
        metafunc.parametrize("soak_round", range(1, rounds + 1))
