"""If these fail, a folder as a store gives away, hides or loses what it should not."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipeline.errors import HostError
from pipeline.store.base import ChangedError, ExistsError, MissingError
from pipeline.store.local import LocalStore
from tests.contract.store_suite import MEBIBYTE, noise, put

TIMESTAMP = "metadata/timestamp.json"


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def narrow_umask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_web_server_may_read_everything(store: LocalStore, narrow_umask: None) -> None:
    put(store, "objects/ab/x", b"x")
    store.create("metadata/1.root.json", b"x")
    etag = store.replace(TIMESTAMP, b"x", etag="")
    store.replace(TIMESTAMP, b"y", etag=etag)
    assert mode(store.folder) == mode(store.folder / "objects" / "ab") == 0o755
    for info in store.list():
        assert mode(store.folder / info.key) == 0o644, info.key


def test_looking_makes_no_folder(store: LocalStore) -> None:
    assert list(store.list()) == []
    assert store.find("a") is None
    with pytest.raises(MissingError):
        store.get("a", limit=1)
    store.delete("a")
    assert not store.folder.exists()


def test_an_upload_shows_when_it_is_whole(store: LocalStore, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(noise(3 * MEBIBYTE))
    seen: list[int] = []

    def look(_: int) -> None:
        seen.append(len(list(store.list())))

    import hashlib

    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    store.put("objects/x", source, sha256=digest, progress=look)
    assert seen == [0, 0, 0]
    assert [info.key for info in store.list()] == ["objects/x"]


def test_holes_stay_holes(store: LocalStore, tmp_path: Path) -> None:
    import hashlib

    source = tmp_path / "source"
    with source.open("wb") as file:
        file.truncate(64 * MEBIBYTE)
    store.put("x", source, sha256=hashlib.sha256(bytes(64 * MEBIBYTE)).hexdigest())
    found = (store.folder / "x").stat()
    assert found.st_size == 64 * MEBIBYTE
    assert found.st_blocks * 512 < MEBIBYTE


def test_what_is_no_object_is_not_listed(store: LocalStore) -> None:
    store.create("a/x", b"x")
    (store.folder / "a" / ".hidden").write_text("x")
    (store.folder / "a" / "two words").write_text("x")
    (store.folder / "a" / "link").symlink_to("x")
    (store.folder / "link").symlink_to("a")
    (store.folder / "broken").symlink_to("nothing")
    os.mkfifo(store.folder / "pipe")
    (store.folder / "empty").mkdir()
    assert [info.key for info in store.list()] == ["a/x"]


@pytest.mark.parametrize("target", ["outside", "inside"])
def test_symbolic_links_are_not_followed(store: LocalStore, tmp_path: Path, target: str) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "x").write_text("secret")
    store.create("inside/x", b"x")
    place = tmp_path / "outside" if target == "outside" else store.folder / "inside"
    (store.folder / "file").symlink_to(place / "x")
    (store.folder / "folder").symlink_to(place)
    before = (place / "x").read_bytes()
    for key in ("file", "folder/x"):
        assert store.find(key) is None
        with pytest.raises(MissingError):
            store.get(key, limit=100)
        with pytest.raises(MissingError):
            list(store.stream(key))
        with pytest.raises(MissingError):
            store.touch(key)
    with pytest.raises(HostError, match="symbolic link"):
        put(store, "folder/new", b"x")
    with pytest.raises(ExistsError):
        store.create("file", b"x")
    put(store, "file", b"mine")
    store.delete("folder/x")
    assert (place / "x").read_bytes() == before
    assert not (place / "new").exists()
    assert store.get("file", limit=100) == b"mine"


def test_the_folder_itself_may_be_a_link(store: LocalStore, tmp_path: Path) -> None:
    store.create("a/x", b"x")
    (tmp_path / "link").symlink_to(store.folder)
    assert LocalStore(tmp_path / "link").get("a/x", limit=1) == b"x"


def test_states_are_told_apart_by_whole_seconds(store: LocalStore) -> None:
    """nginx makes its ETag of size and seconds; two states in one second would be one to it."""
    etag = ""
    times: list[int] = []
    for number in range(3):
        etag = store.replace(TIMESTAMP, b"%d" % number, etag=etag)
        times.append(int((store.folder / TIMESTAMP).stat().st_mtime))
    assert times == sorted(set(times))
    assert times[-1] - times[0] < 60


def test_a_clock_that_went_back_makes_no_two_states_one(store: LocalStore) -> None:
    first = store.replace(TIMESTAMP, b"1", etag="")
    later = time.time() + 3600
    os.utime(store.folder / TIMESTAMP, (later, later))
    found = store.find(TIMESTAMP)
    assert found is not None
    assert found.etag != first
    store.replace(TIMESTAMP, b"2", etag=found.etag)
    assert (store.folder / TIMESTAMP).stat().st_mtime > later
    with pytest.raises(ChangedError):
        store.replace(TIMESTAMP, b"3", etag=found.etag)


def test_what_killed_writers_left_goes_after_a_day(store: LocalStore) -> None:
    put(store, "objects/x", b"x")
    folder = store.folder / ".tmp"
    assert list(folder.iterdir()) == []
    (folder / "old").write_bytes(b"x")
    (folder / "young").write_bytes(b"x")
    long_ago = time.time() - 90_000
    os.utime(folder / "old", (long_ago, long_ago))
    put(store, "objects/y", b"x")
    assert (folder / "old").exists(), "once for each opened store is enough"
    put(LocalStore(store.folder), "objects/y", b"x")
    assert [path.name for path in folder.iterdir()] == ["young"]
    assert store.tidy() == 0
    assert store.tidy(older=-1) == 1
    assert LocalStore(store.folder / "none").tidy() == 0


def test_a_failed_write_leaves_nothing(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    etag = store.replace(TIMESTAMP, b"old", etag="")

    def refuse(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", refuse)
    for write in (
        lambda: put(store, "objects/x", b"x"),
        lambda: store.create("objects/x", b"x"),
        lambda: store.replace(TIMESTAMP, b"new", etag=etag),
    ):
        with pytest.raises(HostError, match="cannot be written: Input/output error"):
            write()
    assert [info.key for info in store.list()] == [TIMESTAMP]
    assert store.get(TIMESTAMP, limit=9) == b"old"
    assert list((store.folder / ".tmp").iterdir()) == []


def test_touching_tells_the_time(store: LocalStore) -> None:
    put(store, "objects/x", b"x")
    os.utime(store.folder / "objects" / "x", (1, 1))
    store.touch("objects/x")
    found = store.find("objects/x")
    assert found is not None
    assert datetime.now(UTC) - found.modified < timedelta(minutes=10)


def test_a_file_where_a_folder_should_be(store: LocalStore) -> None:
    store.create("a", b"x")
    assert store.find("a/b") is None
    with pytest.raises(MissingError):
        store.get("a/b", limit=1)
    with pytest.raises(HostError, match="cannot be written"):
        store.create("a/b", b"x")
    store.delete("a/b")
    assert LocalStore(store.folder / "a").find("b") is None
