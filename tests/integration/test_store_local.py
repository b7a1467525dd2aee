"""If these fail, a killed writer, a full disk or a missing right leaves half a store."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline import command
from pipeline.errors import DiskFullError, HostError
from pipeline.store.base import ExistsError
from pipeline.store.local import LocalStore
from tests.contract.store_suite import LIMIT, MEBIBYTE, noise, put
from tests.integration.killed_writer import LARGE, NEW, OLD, TIMESTAMP

NOBODY = 65534
ROOT_ALONE = pytest.mark.skipif(os.geteuid() != 0, reason="mounting and other users need root")


@pytest.mark.soak
@pytest.mark.parametrize("operation", ["put", "create", "replace"])
def test_a_writer_that_is_killed_anywhere_leaves_whole_objects(
    tmp_path: Path, operation: str
) -> None:
    driver = [sys.executable, "-m", "tests.integration.killed_writer", str(tmp_path), operation]
    done = subprocess.run(driver, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    rounds = int(done.stdout)
    assert rounds > 5
    before = {"metadata/1.root.json": OLD, TIMESTAMP: OLD}
    key, data = {
        "put": ("objects/ab/large", LARGE),
        "create": ("metadata/2.root.json", NEW),
        "replace": (TIMESTAMP, NEW),
    }[operation]
    after = before | {key: data}
    seen: list[bool] = []
    for number in range(1, rounds + 1):
        store = LocalStore(tmp_path / str(number))
        found = {info.key: b"".join(store.stream(info.key)) for info in store.list()}
        assert found in (before, after), number
        seen.append(found == after)
        go_on(store)
        assert store.tidy(older=-60) <= 1
        assert not any((store.folder / ".tmp").iterdir())
    assert seen == sorted(seen), "once there, it stays"
    assert not seen[0]
    assert seen[-1]


def go_on(store: LocalStore) -> None:
    """What the next writer does finds no obstacle."""
    put(store, "objects/ab/large", LARGE)
    try:
        store.create("metadata/2.root.json", NEW)
    except ExistsError:
        assert store.get("metadata/2.root.json", limit=LIMIT) == NEW
    found = store.find(TIMESTAMP)
    assert found is not None
    store.replace(TIMESTAMP, b"newest", etag=found.etag)


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    folder.mkdir()
    command.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)])
    try:
        yield folder
    finally:
        command.run(["umount", str(folder)])


@ROOT_ALONE
def test_a_full_disk_keeps_what_there_was(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "size=1m") as disk:
        store = LocalStore(disk / "store")
        etag = store.replace(TIMESTAMP, b"old", etag="")
        large = noise(2 * MEBIBYTE)
        for write in (
            lambda: put(store, "objects/x", large),
            lambda: store.create("objects/x", large),
            lambda: store.replace(TIMESTAMP, large, etag=etag),
        ):
            with pytest.raises(DiskFullError, match="no space is left") as caught:
                write()
            assert "Free some space" in caught.value.hint
        assert {i.key: store.get(i.key, limit=9) for i in store.list()} == {TIMESTAMP: b"old"}
        put(store, "objects/x", large[:1000])


@ROOT_ALONE
def test_a_disk_for_reading_alone(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "size=1m") as disk:
        store = LocalStore(disk / "store")
        etag = store.replace(TIMESTAMP, b"old", etag="")
        command.run(["mount", "-o", "remount,ro", str(disk)])
        for write in (
            lambda: put(store, "objects/x", b"x"),
            lambda: store.create("objects/x", b"x"),
            lambda: store.replace(TIMESTAMP, b"new", etag=etag),
            lambda: store.touch(TIMESTAMP),
            lambda: store.delete(TIMESTAMP),
        ):
            with pytest.raises(HostError, match="Read-only file system") as caught:
                write()
            assert "mounted read-only" in caught.value.hint
        assert store.get(TIMESTAMP, limit=9) == b"old"


@pytest.fixture
def nobodys_way() -> Iterator[Path]:
    """A folder that others can come to."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@contextmanager
def somebody_else() -> Iterator[None]:
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@ROOT_ALONE
def test_who_may_not_write_can_read(nobodys_way: Path) -> None:
    store = LocalStore(nobodys_way / "store")
    etag = store.replace(TIMESTAMP, b"old", etag="")
    with somebody_else():
        assert store.get(TIMESTAMP, limit=9) == b"old"
        assert [info.key for info in store.list()] == [TIMESTAMP]
        for write in (
            lambda: put(store, "objects/x", b"x"),
            lambda: put(store, "metadata/x", b"x"),
            lambda: store.create("metadata/x", b"x"),
            lambda: store.replace(TIMESTAMP, b"new", etag=etag),
            lambda: store.touch(TIMESTAMP),
            lambda: store.delete(TIMESTAMP),
            lambda: put(LocalStore(nobodys_way / "other"), "x", b"x"),
        ):
            with pytest.raises(HostError, match="Permission denied") as caught:
                write()
            assert "sudo" in caught.value.hint
    assert store.get(TIMESTAMP, limit=9) == b"old"


@ROOT_ALONE
def test_who_may_not_read_is_told(nobodys_way: Path) -> None:
    store = LocalStore(nobodys_way / "store")
    store.create("metadata/1.root.json", b"x")
    store.create("objects/x", b"x")
    (store.folder / "objects" / "x").chmod(0o600)
    (store.folder / "metadata").chmod(0o700)
    with somebody_else():
        for read in (
            lambda: store.get("objects/x", limit=9),
            lambda: list(store.stream("objects/x")),
            lambda: store.get_changed("objects/x", "", limit=9),
            lambda: store.get("metadata/1.root.json", limit=9),
            lambda: store.find("metadata/1.root.json"),
            lambda: list(store.list()),
        ):
            with pytest.raises(HostError, match="cannot be read: Permission denied"):
                read()
