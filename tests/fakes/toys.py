"""Fixtures of toy projects, for the tests that build them (see :mod:`tests.fakes.toy`)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fakes.toy import ToyProject, can_assemble, make_toy_tree

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="a build needs root")
needs_tools = pytest.mark.skipif(
    not can_assemble(), reason="no mkfs.erofs or veritysetup here to put into the tree"
)


@pytest.fixture(scope="session")
def toy_tar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree of the toy distribution."""
    return make_toy_tree(tmp_path_factory.mktemp("toy"))


@pytest.fixture
def toys(tmp_path: Path, toy_tar: Path) -> Iterator[ToyProject]:
    """A project without images."""
    project = ToyProject(tmp_path.resolve(), toy_tar)
    yield project
    project.close()


def wait_for(what: Callable[[], object], seconds: float = 90.0) -> None:
    """Wait until *what* answers with something true."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.05)
