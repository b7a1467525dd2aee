"""Digests name things: equal content has one name, and any change that counts has another."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import digest, files

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "element"
    (made / "install.d").mkdir(parents=True)
    (made / "install.d" / "10-go").write_text("#!/bin/sh\n")
    (made / "install.d" / "10-go").chmod(0o755)
    (made / "README").write_text("what it does\n")
    (made / "link").symlink_to("README")
    (made / "folder-link").symlink_to("install.d")
    return made


@given(st.binary())
def test_of_bytes_is_plain_sha256(data: bytes) -> None:
    assert digest.of_bytes(data) == hashlib.sha256(data).hexdigest()


@given(st.dictionaries(st.text(), JSON))
def test_the_order_of_keys_does_not_count(data: dict[str, object]) -> None:
    assert digest.of_data(data) == digest.of_data(dict(reversed(data.items())))


def test_data_that_differs_has_another_digest() -> None:
    values = [{}, [], None, "", 0, "0", {"a": 1}, {"a": "1"}, {"a": [1]}, ["a", 1], ["a1"]]
    assert len({digest.of_data(value) for value in values}) == len(values)


def test_of_file_is_the_digest_of_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(b"\0" * 100_000)
    assert digest.of_file(path) == digest.of_bytes(b"\0" * 100_000)


def test_a_fresh_copy_of_a_folder_has_its_digest(folder: Path, tmp_path: Path) -> None:
    before = digest.of_folder(folder)
    copy = tmp_path / "elsewhere" / "element"
    shutil.copytree(folder, copy, symlinks=True, copy_function=shutil.copy)
    for path in copy.rglob("*"):
        os.utime(path, (1, 1), follow_symlinks=False)
    assert digest.of_folder(copy) == before


def test_what_python_leaves_behind_does_not_count(folder: Path) -> None:
    before = digest.of_folder(folder)
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "x.cpython-311.pyc").write_bytes(b"x")
    (folder / "y.pyc").write_bytes(b"y")
    assert digest.of_folder(folder) == before


def _edit(folder: Path) -> None:
    (folder / "README").write_text("what it does now\n")


def _rename(folder: Path) -> None:
    (folder / "README").rename(folder / "README.md")


def _executable_bit(folder: Path) -> None:
    (folder / "install.d" / "10-go").chmod(0o644)


def _link_target(folder: Path) -> None:
    (folder / "link").unlink()
    (folder / "link").symlink_to("install.d/10-go")


def _folder_link_target(folder: Path) -> None:
    (folder / "folder-link").unlink()
    (folder / "folder-link").symlink_to("elsewhere")


def _link_becomes_file(folder: Path) -> None:
    (folder / "link").unlink()
    (folder / "link").write_text("what it does\n")


def _new_empty_file(folder: Path) -> None:
    (folder / "empty").touch()


@pytest.mark.parametrize(
    "change",
    [
        _edit,
        _rename,
        _executable_bit,
        _link_target,
        _folder_link_target,
        _link_becomes_file,
        _new_empty_file,
    ],
)
def test_each_change_that_counts_changes_the_digest(
    folder: Path, change: Callable[[Path], None]
) -> None:
    before = digest.of_folder(folder)
    change(folder)
    assert digest.of_folder(folder) != before


def test_content_cannot_pass_for_a_name(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    (one / "a").write_text("1")
    (one / "b").write_text("2")
    (two / "a").write_text("1")
    (two / f"a {digest.of_bytes(b'1')}\nf- b").write_text("2")
    (two / "b").write_text("2")
    assert digest.of_folder(one) != digest.of_folder(two)


@given(
    pieces=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 9000)), max_size=6),
    tail=st.integers(0, 9),
)
def test_a_file_with_holes_has_the_digest_of_its_bytes(
    pieces: list[tuple[int, int]], tail: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("sparse") / "disk.raw"
    with path.open("wb") as file:
        for gap, size in pieces:
            file.seek(gap * 65_536, os.SEEK_CUR)
            file.write(b"x" * size)
        file.truncate(file.tell() + tail * 1_000_003)
    assert digest.of_file(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_data_lies_where_a_sparse_file_says(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    with path.open("w+b") as file:
        file.truncate(8 << 20)
        file.seek(4 << 20)
        file.write(b"x" * 4096)
        file.flush()
        assert list(files.data_ranges(file.fileno())) == [(4 << 20, (4 << 20) + 4096)]
        file.truncate(0)
        assert list(files.data_ranges(file.fileno())) == []
