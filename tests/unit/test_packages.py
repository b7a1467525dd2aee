"""Package lists: read whole or not at all; differences that say what happened."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import BuildError
from pipeline.models.release import Package
from pipeline.packages import (
    Library,
    PackageDiff,
    compare_versions,
    diff,
    from_tree,
    inspect,
    read_dpkg,
)
from tests.fakes.trees import make_tree

STATUS = """\
Package: openssl
Status: install ok installed
Priority: optional
Section: utils
Installed-Size: 2493
Maintainer: Debian OpenSSL Team <pkg-openssl-devel@alioth-lists.debian.net>
Architecture: amd64
Multi-Arch: foreign
Version: 3.5.1-1+deb13u1
Depends: libc6 (>= 2.34), libssl3t64 (>= 3.5.1)
Conffiles:
 /etc/ssl/openssl.cnf 5dd2eea1abf3c3c4fdf3a0e0a8f0a2b4
 /etc/ssl/old.cnf 0123 obsolete
Description: Secure Sockets Layer toolkit: the program
 Status: install ok installed
 .
 Package: not-a-package

Package: libgcc-s1
Status: install ok installed
Source: gcc-14 (14.2.0-19)
Architecture: amd64
Version: 14.2.0-19

Package: nano
Status: deinstall ok config-files
Architecture: amd64
Version: 8.4-1

Package: half
Status: install reinstreq half-installed
Architecture: amd64
Version: 1

Package: wanted
Status: purge ok not-installed

Package: held
Status: hold ok installed
Architecture: all
Version: 2:1.0~rc1-1


Package: libc6
Status: install ok installed
Source: glibc
Architecture: i386
Version: 2.41-12

Package: libc6
Status: install ok installed
Source: glibc
Architecture: amd64
Version: 2.41-12
"""


def test_only_what_is_installed_is_listed_sorted_and_whole() -> None:
    assert read_dpkg(STATUS) == (
        Package(name="held", version="2:1.0~rc1-1", architecture="all"),
        Package(name="libc6", version="2.41-12", architecture="amd64", source="glibc"),
        Package(name="libc6", version="2.41-12", architecture="i386", source="glibc"),
        Package(
            name="libgcc-s1",
            version="14.2.0-19",
            architecture="amd64",
            source="gcc-14 (14.2.0-19)",
        ),
        Package(name="openssl", version="3.5.1-1+deb13u1", architecture="amd64"),
    )


def test_an_empty_database_lists_nothing() -> None:
    assert read_dpkg("") == ()
    assert read_dpkg("\n\n") == ()


def test_a_stanza_that_cannot_be_read_is_no_hole_in_the_list() -> None:
    with pytest.raises(BuildError, match="entry that cannot be read, beginning with 'Package: x"):
        read_dpkg("Package: x\nthis line has no field\nVersion: 2\nStatus: install ok installed\n")


def test_an_installed_package_without_a_version_is_refused_by_name() -> None:
    with pytest.raises(BuildError, match="lacks the version and architecture of the package x"):
        read_dpkg("Package: x\nStatus: install ok installed\n")


def test_a_trees_packages_and_distribution_are_read_out_of_its_tar(tmp_path: Path) -> None:
    tar = make_tree(
        tmp_path / "tree.tar",
        {
            "./usr/lib/os-release": 'ID=debian\nVERSION_ID="13"\nNAME="Debian = good"\n',
            "./var/lib/dpkg/status": STATUS,
            "./var/lib/dpkg/status-old": "Package: gone\n",
        },
    )
    found = inspect(tar)
    assert found.packages == read_dpkg(STATUS)
    assert (found.distribution, found.distribution_version) == ("debian", "13")
    assert from_tree(tar) == found.packages


def test_libraries_that_no_package_brought_are_found(tmp_path: Path) -> None:
    folder, debians = "usr/lib/recast/agent", "usr/lib/python3/dist-packages"
    tar = make_tree(
        tmp_path / "tree.tar",
        {
            "./var/lib/dpkg/status": STATUS,
            f"./{folder}/a-1.dist-info/METADATA": "Name: Zope.Inter_face\nVersion: 1.0\n\nName: x",
            "./opt/venv/lib/a-1.dist-info/METADATA": "Name: zope-inter-face\nVersion: 1.0\n",
            "./opt/other/a-2.dist-info/METADATA": "Name: zope-inter-face\nVersion: 2.0\n",
            "./opt/other/b-1.dist-info/METADATA": "no metadata\n",
            f"./{debians}/c-1.dist-info/METADATA": "Name: c\nVersion: 1.0\n",
        },
    )
    expected = tuple(Library(name="zope-inter-face", version=each) for each in ("1.0", "2.0"))
    assert inspect(tar).libraries == expected
    assert inspect(tar).libraries == expected, "the second time, from what is kept beside it"


def test_packages_described_in_files_of_their_own_are_found(tmp_path: Path) -> None:
    stanza = "Package: tzdata\nVersion: 2025b-4\nArchitecture: all\n"
    tar = make_tree(
        tmp_path / "tree.tar",
        {"var/lib/dpkg/status.d/tzdata": stanza, "var/lib/dpkg/status.d/tzdata.md5sums": "0  x\n"},
    )
    assert from_tree(tar) == (Package(name="tzdata", version="2025b-4", architecture="all"),)


def test_a_tree_without_a_package_database_is_not_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="holds no dpkg database"):
        from_tree(make_tree(tmp_path / "tree.tar", {"./etc/hostname": "x"}))


@pytest.mark.parametrize("content", [None, b"", b"not a tar at all" * 99])
def test_a_broken_tree_is_named(tmp_path: Path, content: bytes | None) -> None:
    tar = tmp_path / "tree.tar"
    if content is not None:
        tar.write_bytes(content)
    with pytest.raises(BuildError, match=r"the tree .*tree\.tar cannot be read"):
        from_tree(tar)


@pytest.mark.parametrize(
    ("smaller", "larger"),
    [
        ("3.5.1-1", "3.5.1-2"),
        ("1.0~rc1-1", "1.0-1"),
        ("1.9-1", "1.10-1"),
        ("9.9-1", "1:0.1-1"),
        ("1.0-1", "1.0-1+deb13u1"),
        ("1.0-1~bpo12+1", "1.0-1"),
        ("1.0", "1.0-1"),
        ("1.0a", "1.0+b1"),
        ("1.0~", "1.0"),
        ("2.1+", "2.1+b1"),
    ],
)
def test_versions_are_in_debians_order(smaller: str, larger: str) -> None:
    assert compare_versions(smaller, larger) == -1
    assert compare_versions(larger, smaller) == 1
    assert compare_versions(smaller, smaller) == 0


def package(name: str, version: str, architecture: str = "amd64") -> Package:
    return Package(name=name, version=version, architecture=architecture)


def test_a_difference_says_what_happened_to_each_package() -> None:
    old = [package("a", "1-1"), package("b", "2-1"), package("c", "1"), package("gone", "1")]
    new = [package("a", "1-2"), package("b", "1-1"), package("c", "1"), package("new", "1")]
    found = diff(old, new)
    assert found.summary() == "1 upgraded, 1 downgraded, 1 added, 1 removed"
    assert found.lines() == [
        "downgraded b 2-1 → 1-1",
        "upgraded   a 1-1 → 1-2",
        "added      new 1",
        "removed    gone 1",
    ]


def test_a_package_that_became_architecture_independent_is_the_same_package() -> None:
    found = diff([package("doc", "1", "amd64")], [package("doc", "2", "all")])
    assert [(c.name, c.old, c.new, c.direction) for c in found.changed] == [
        ("doc", "1", "2", "upgraded")
    ]
    assert not found.added
    assert not found.removed


def test_a_second_architecture_is_an_addition_not_a_change() -> None:
    both = [package("libc6", "2"), package("libc6", "2", "i386")]
    assert diff([package("libc6", "1")], both).summary() == "1 upgraded, 1 added"


def test_a_version_that_only_reads_differently_is_neither_up_nor_down() -> None:
    found = diff([package("a", "1.0-1")], [package("a", "0:1.0-1")])
    assert found.summary() == "1 changed"


NAMES = st.sampled_from(["a", "b", "libc6", "libstdc++6"])
VERSIONS = st.from_regex(r"([0-2]:)?[0-9][0-9a-c.+~]{0,4}(-[0-9a-c+~.]{1,3})?", fullmatch=True)
LISTS = st.lists(
    st.builds(package, NAMES, VERSIONS, st.sampled_from(["amd64", "i386", "all"])),
    unique_by=lambda p: (p.name, p.architecture),
)


@given(LISTS)
def test_nothing_differs_from_itself(packages: list[Package]) -> None:
    assert diff(packages, packages[::-1]) == PackageDiff()


@given(LISTS, LISTS)
def test_the_way_back_is_the_way_there_mirrored(old: list[Package], new: list[Package]) -> None:
    there, back = diff(old, new), diff(new, old)
    mirrored = {"upgraded": "downgraded", "downgraded": "upgraded", "changed": "changed"}
    assert there.added == back.removed
    assert there.removed == back.added
    assert [(c.name, c.old, c.new, c.direction) for c in there.changed] == [
        (c.name, c.new, c.old, mirrored[c.direction]) for c in back.changed
    ]


@given(LISTS, LISTS)
def test_every_package_is_accounted_for(old: list[Package], new: list[Package]) -> None:
    found = diff(old, new)
    assert len(new) - len(old) == len(found.added) - len(found.removed)
    assert bool(found) == (
        {(p.name, p.version, p.architecture) for p in old}
        != {(p.name, p.version, p.architecture) for p in new}
    )


@given(VERSIONS, VERSIONS, VERSIONS)
def test_version_order_is_an_order(a: str, b: str, c: str) -> None:
    assert compare_versions(a, b) == -compare_versions(b, a)
    if compare_versions(a, b) <= 0 and compare_versions(b, c) <= 0:
        assert compare_versions(a, c) <= 0
