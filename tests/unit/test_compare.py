"""When two builds are not equal, every file that differs is named, with why."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.disk import compare, initrd
from tests.fakes import newc


def make_tree(root: Path) -> Path:
    (root / "etc").mkdir(parents=True)
    (root / "etc/conf").write_text("one")
    (root / "etc/other").write_text("two")
    (root / "etc/link").symlink_to("conf")
    os.link(root / "etc/other", root / "etc/same")
    return root


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return make_tree(tmp_path / "left"), make_tree(tmp_path / "right")


def test_equal_trees_have_no_difference_whatever_their_times(pair: tuple[Path, Path]) -> None:
    os.utime(pair[1] / "etc/conf", (1, 1))
    assert compare.trees(*pair) == []


def retarget(root: Path) -> None:
    (root / "etc/link").unlink()
    (root / "etc/link").symlink_to("other")


def to_folder(root: Path) -> None:
    (root / "etc/conf").unlink()
    (root / "etc/conf").mkdir()


def unlink_pair(root: Path) -> None:
    (root / "etc/same").unlink()
    shutil.copy2(root / "etc/other", root / "etc/same")


def to_broken_link(root: Path) -> None:
    (root / "etc/conf").unlink()
    (root / "etc/conf").symlink_to("/nowhere")


CHANGES: list[tuple[str, Callable[[Path], object], list[str]]] = [
    ("content", lambda r: (r / "etc/conf").write_text("eno"), ["etc/conf: content"]),
    ("size", lambda r: (r / "etc/conf").write_text("longer"), ["etc/conf: content"]),
    ("mode", lambda r: (r / "etc/conf").chmod(0o4755), ["etc/conf: mode"]),
    ("folder's mode", lambda r: (r / "etc").chmod(0o700), ["etc: mode"]),
    ("the root's mode", lambda r: r.chmod(0o700), [".: mode"]),
    ("target", retarget, ["etc/link: target"]),
    ("kind", to_folder, ["etc/conf: kind"]),
    ("broken link", to_broken_link, ["etc/conf: kind"]),
    ("hard links", unlink_pair, ["etc/other: hard links", "etc/same: hard links"]),
    ("new", lambda r: (r / "new").mkdir(), ["new: only in the second build"]),
    ("gone", lambda r: (r / "etc/conf").unlink(), ["etc/conf: only in the first build"]),
    ("new link", lambda r: (r / "l").symlink_to("etc"), ["l: only in the second build"]),
]


@pytest.mark.parametrize(
    ("change", "expected"), [each[1:] for each in CHANGES], ids=[each[0] for each in CHANGES]
)
def test_each_kind_of_difference_is_named(
    pair: tuple[Path, Path], change: Callable[[Path], object], expected: list[str]
) -> None:
    change(pair[1])
    assert compare.trees(*pair) == expected


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_owners_of_files_and_links_are_compared(pair: tuple[Path, Path]) -> None:
    os.chown(pair[1] / "etc/conf", 1, 2)
    os.chown(pair[1] / "etc/link", 3, -1, follow_symlinks=False)
    assert compare.trees(*pair) == ["etc/conf: owner, group", "etc/link: owner"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices")
def test_devices_are_compared_by_number(pair: tuple[Path, Path]) -> None:
    for root, minor in zip(pair, (3, 5), strict=True):
        os.mknod(root / "null", 0o20600, os.makedev(1, minor))
    assert compare.trees(*pair) == ["null: device"]


def test_extended_attributes_are_compared(pair: tuple[Path, Path]) -> None:
    try:
        os.setxattr(pair[1] / "etc/conf", "user.test", b"1")
    except OSError:
        pytest.skip("this filesystem has no user attributes")
    assert compare.trees(*pair) == ["etc/conf: extended attributes"]


def test_hard_links_of_as_many_names_but_other_files_are_told_apart(tmp_path: Path) -> None:
    roots = []
    for name, pairs in (("left", ("a b", "c d")), ("right", ("a c", "b d"))):
        root = tmp_path / name
        root.mkdir()
        for first, second in (names.split() for names in pairs):
            (root / first).write_text("equal")
            os.link(root / first, root / second)
        roots.append(root)
    assert compare.trees(*roots) == [f"{name}: hard links" for name in "abcd"]


# --- initrds: cpio(5), "newc" -------------------------------------------------------------------

Member = tuple[str, bytes, int]  # name, content, mode


def archive(*members: Member) -> bytes:
    return newc.archive(*(newc.member(*each) for each in members))


INIT: Member = ("init", b"#!/bin/sh\n", 0o100755)
CONF: Member = ("etc/conf", b"a=1", 0o100644)
MODULE: Member = ("lib/erofs.ko", b"\x7fELF-module", 0o100644)


def test_equal_initrds_have_no_difference() -> None:
    assert compare.initrds(archive(INIT, CONF), archive(INIT, CONF)) == []


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (archive(INIT, ("etc/conf", b"a=2", 0o100644)), ["initrd:etc/conf: content"]),
        (archive(INIT, ("etc/conf", b"longer", 0o100644)), ["initrd:etc/conf: content"]),
        (
            archive(INIT, ("etc/conf", b"a=1", 0o100600)),
            ["initrd:etc/conf: mode, owner, time or number"],
        ),
        (archive(INIT), ["initrd:etc/conf: only in one build"]),
        (archive(INIT, CONF, MODULE), ["initrd:lib/erofs.ko: only in one build"]),
        (archive(CONF, INIT), ["initrd: order of its members, or padding"]),
        (archive(INIT, CONF) + bytes(512), ["initrd: order of its members, or padding"]),
    ],
)
def test_each_difference_of_an_initrd_is_named(other: bytes, expected: list[str]) -> None:
    assert compare.initrds(archive(INIT, CONF), other) == expected


def test_what_comes_after_the_first_archive_is_compared_too() -> None:
    microcode = archive(("kernel/x86/microcode/GenuineIntel.bin", b"early", 0o100644)) + bytes(512)
    left, right = archive(INIT, CONF), archive(INIT, ("etc/conf", b"a=2", 0o100644))
    assert compare.initrds(microcode + left, microcode + right) == ["initrd:etc/conf: content"]


def test_what_only_moved_in_an_aligned_initrd_is_no_difference() -> None:
    library = ("usr/lib/libc.so", bytes(9_000), 0o100755)
    longer = ("etc/conf", b"a=1" * 100, 0o100644)
    left, right = (initrd.align(archive(INIT, each, library)) for each in (CONF, longer))
    assert compare.initrds(left, right) == ["initrd:etc/conf: content"]


def test_a_compressed_initrd_is_compared_as_a_whole() -> None:
    left, right = b"\x28\xb5\x2f\xfd left", b"\x28\xb5\x2f\xfd right"
    assert compare.initrds(left, right) == ["initrd: order of its members, or padding"]


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_anything_at_all_can_be_compared(left: bytes, right: bytes) -> None:
    assert bool(compare.initrds(left, right)) == (left != right)
    cut = archive(INIT, CONF)[: len(left)] + right
    assert bool(compare.initrds(cut, left)) == (cut != left)
