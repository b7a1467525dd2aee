"""A disk that is really full: the old file stays, and nothing else does."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import command, files
from pipeline.channels.publish import publish
from pipeline.channels.published import PublishedReleases
from pipeline.errors import DiskFullError
from pipeline.store.local import LocalStore
from tests.fakes.stored import store_whole


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    command.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)])
    try:
        yield disk
    finally:
        command.run(["umount", str(disk)])


def test_a_write_that_does_not_fit_keeps_the_old_file_and_leaves_nothing(
    small_disk: Path,
) -> None:
    path = small_disk / "records.json"
    files.write_atomically(path, "old")
    with pytest.raises(DiskFullError, match=r"records\.json") as caught:
        files.write_atomically(path, b"x" * (1 << 20))
    assert "Free some space" in caught.value.hint
    assert path.read_text() == "old"
    assert os.listdir(small_disk) == ["records.json"]


def test_a_log_that_no_longer_fits_is_told_as_that(small_disk: Path) -> None:
    log = (small_disk / "build.log").open("w", buffering=1)
    try:
        with pytest.raises(DiskFullError, match=r"build\.log"):
            command.run(["seq", "300000"], log=log, timeout=60)
    finally:
        with pytest.raises(OSError, match="No space left"):
            log.close()


def test_what_cannot_fit_is_refused_before_it_starts(small_disk: Path) -> None:
    with pytest.raises(DiskFullError, match=r"1\.0 MiB are needed"):
        files.require_space(small_disk / "images" / "edge-base", 1 << 20)


def test_a_release_is_published_whole_or_not_at_all(small_disk: Path, tmp_path: Path) -> None:
    """First no room to compress into, then none in the store; what got there is used later."""
    local = store_whole(tmp_path / "artifacts")
    store = LocalStore(tmp_path / "store")
    with pytest.raises(DiskFullError, match=r"publish-"):
        publish(store, local, scratch=small_disk)
    assert os.listdir(small_disk) == []
    full = LocalStore(small_disk)
    with pytest.raises(DiskFullError, match=str(small_disk)):
        publish(full, local, scratch=tmp_path)
    assert PublishedReleases(full).images() == []
    done = publish(store, local, scratch=tmp_path)
    assert PublishedReleases(store).of("edge-web") == [done.release]
