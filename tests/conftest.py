"""What every tier shares: soak tests repeat, and property tests do not depend on the machine."""

from __future__ import annotations

import os
import signal

import hypothesis
import pytest

from pipeline.engine.signals import ENDING

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


def pytest_configure() -> None:
    """Start with the signals that a shell in front of us would have.

    Under nohup, or in the background of a script, some are ignored, and so would be by what the
    tests start: a test that asks for an end by one of them would then wait for ever.
    """
    for number in ENDING:
        if signal.getsignal(number) is signal.SIG_IGN:
            usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, usual)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where there are several workers, begin with what takes longest, or it would end last.

    A worker is given two files at the start: the third is behind the first, so it is a short one.
    """
    if not hasattr(config, "workerinput"):
        return
    first = ["tests/e2e/test_site.py", "tests/e2e/test_site_fallback.py"]
    # The file that runs it: a test of a contract's suite has its location in the suite's.
    files = list(dict.fromkeys(item.nodeid.partition("::")[0] for item in items))
    short = [name for name in files if name.startswith("tests/unit/")][:2]
    long = [name for name in files if name.startswith("tests/e2e/")]
    order = list(dict.fromkeys([*first, *short, *long, *files]))
    items.sort(key=lambda item: order.index(item.nodeid.partition("::")[0]))
