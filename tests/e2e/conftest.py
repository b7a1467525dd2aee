"""What the tests with real builds and real machines share.

They run the wheel, installed in an environment of its own, on a project that has nothing but
``images/``. Its store is kept in ``artifacts/e2e/store`` from one session to the next: what is
built and tested there is cached by its key, so only a clean clone, or a change, costs all of it.
Tests that change something work on copies.

``make test`` has two workers (pytest-xdist): the long story of a site is told by one of them while
the other does the rest. They share the store, and the first run; all else each has for itself.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.files import locked
from pipeline.models.release import Release
from tests.e2e import harness
from tests.e2e.harness import Bench, Ended
from tests.e2e.site import CHANNELS, Site, publish
from tests.e2e.site import site as following

collect_ignore = ["images"]  # tests of images run on a machine

_TEST_SECONDS = 3600  # the first run's, on a busy machine


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.timeout(_TEST_SECONDS))


@pytest.fixture(scope="session")
def e2e() -> Path:
    """``artifacts/e2e``, which all sessions of this checkout share."""
    return harness.ROOT / "artifacts" / "e2e"


@pytest.fixture(scope="session")
def scratch(e2e: Path) -> Iterator[Path]:
    """A folder beside the store, so that copies are links; for this worker of this session alone.

    Nothing of ours may outlive the session.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER", "only")
    folder = e2e / f"scratch-{worker}"
    with locked(e2e / f".{folder.name}.lock", what="the end-to-end tests of this checkout"):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        yield folder
        left = harness.settled(folder)
        assert left == [], "left behind:\n" + "\n".join(left)
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def bench(e2e: Path, scratch: Path) -> Bench:
    """The project with the three images, its store, and the installed wheel."""
    (scratch / "wheel").mkdir()
    (scratch / "project").mkdir()
    made = Bench(
        harness.install_wheel(scratch / "wheel"),
        harness.make_project(scratch / "project"),
        e2e / "store",
    )
    made.commit("The first images")
    return made


@pytest.fixture(scope="session")
def first_run(bench: Bench) -> Ended:
    """``recast run`` over all images: from nothing on a clean clone, else from what is there."""
    # Of two workers one does it, and the other finds it done.
    with locked(bench.store.with_suffix(".lock"), what="the first run"):
        ended = bench.run("run", code=None)
        if ended.code:
            # Later sessions would find the cause; this one has nothing to test.
            why = f"the first run failed, and nothing else can be tested\n{ended}"
            pytest.fail(why, pytrace=False)
        harness.prune(bench.store)
        left = harness.settled(bench.store)
        assert left == [], "left behind:\n" + "\n".join(left)
    return ended


@pytest.fixture
def copy(bench: Bench, first_run: Ended, scratch: Path, tmp_path: Path) -> Iterator[Bench]:
    """The project and its store after the first run, to change."""
    folder = scratch / tmp_path.name
    folder.mkdir()
    yield bench.copy(folder)
    assert harness.settled(folder) == []
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def built_disk(bench: Bench, first_run: Ended) -> Path:
    """A disk that boots: edge-base's."""
    return bench.part("edge-base", "disk")


# --- a machine at a site: for each module one, with a store of its own --------------------------


@pytest.fixture(scope="module")
def own(bench: Bench, first_run: Ended, scratch: Path) -> Iterator[Bench]:
    """The project, with a store of its own and one channel."""
    folder = scratch / "site"
    folder.mkdir()
    copy = bench.copy(folder)
    (copy.project / "images" / "channels.yaml").write_text(CHANNELS)
    copy.run("init")
    yield copy
    assert harness.settled(folder) == []
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def first(own: Bench) -> Release:
    """What the machine was installed with; the channel has it."""
    own.commit("One channel for all")
    return publish(own)


@pytest.fixture(scope="module")
def site(own: Bench, first: Release, scratch: Path) -> Iterator[Site]:
    """The machine."""
    with following(own, scratch / "site", first, tries="1") as made:
        yield made


@pytest.fixture(scope="module")
def chance() -> random.Random:
    """Told, so that what happened can be made to happen again: RECAST_SEED."""
    seed = int(os.environ.get("RECAST_SEED", time.time_ns() % 10**6))
    print(f"RECAST_SEED={seed}")
    return random.Random(seed)
