"""An aligned initrd unpacks to the same tree, and an unchanged file in it is unchanged blocks."""

from __future__ import annotations

import random
import shutil
import subprocess
import zlib
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.disk.initrd import align
from pipeline.errors import BuildError
from tests.fakes import newc
from tests.fakes.newc import archive, member

BLOCK = 4096
FOLDER, LINK, FIFO, NODE = 0o040755, 0o120777, 0o010600, 0o020600
ZSTD = b"\x28\xb5\x2f\xfd" + b"compressed" * 50
MICROCODE = archive(
    member("early_cpio", b"1\n"),
    member("kernel/x86/microcode/GenuineIntel.bin", b"\x01" * 10_000, time=7, number=9),
    step=512,
)

names = st.text("abc/.é", min_size=1, max_size=60).filter(lambda name: name != newc.TRAILER)
sizes = st.one_of(st.integers(0, 300), st.integers(4000, 4200), st.integers(8000, 20_000))


@st.composite
def members(draw: st.DrawFn, name: str) -> bytes:
    mode = draw(st.sampled_from([0o100644, 0o100755, 0o104755, FOLDER, LINK, FIFO, NODE]))
    data = b""
    if mode == LINK:
        data = b"target"
    elif mode & 0o170000 == 0o100000:
        data = draw(st.binary(min_size=1, max_size=4)) * draw(sizes)
    return member(
        name,
        data,
        mode,
        number=draw(st.integers(0, 4)),
        links=draw(st.integers(1, 3)),
        time=draw(st.integers(0, 0xFFFFFFFF)),
        owner=(draw(st.integers(0, 1000)), 0),
        device=(5, draw(st.integers(0, 9))) if mode == NODE else (0, 0),
        checked=draw(st.booleans()),
        zeros=draw(st.sampled_from([1, 2, 5, 3000])),
    )


@st.composite
def archives(draw: st.DrawFn, most: int = 3) -> bytes:
    initrd = b""
    for _ in range(draw(st.integers(1, most))):
        paths = draw(st.lists(names, max_size=12, unique=True))
        inside = [draw(members(path)) + bytes(draw(st.sampled_from([0, 0, 4]))) for path in paths]
        initrd += archive(*inside, step=draw(st.sampled_from([4, 512, 4096])))
    return initrd


def large(initrd: bytes) -> list[newc.Piece]:
    """The files whose content is to begin on a block."""
    return [
        piece
        for piece in newc.pieces(initrd)
        if piece.mode & 0o170000 == 0o100000 and len(piece.data) >= BLOCK
    ]


def blocks(initrd: bytes) -> set[bytes]:
    return {initrd[at : at + BLOCK] for at in range(0, len(initrd), BLOCK)}


@settings(max_examples=200)
@given(
    initrd=archives(), early=st.sampled_from([b"", MICROCODE]), rest=st.sampled_from([b"", ZSTD])
)
def test_a_kernel_unpacks_the_same_tree_and_its_files_begin_on_blocks(
    initrd: bytes, early: bytes, rest: bytes
) -> None:
    aligned = align(early + initrd + rest)
    assert newc.unpacked(aligned) == newc.unpacked(early + initrd)
    assert list(newc.unpacked(aligned)) == list(newc.unpacked(early + initrd))
    assert aligned.startswith(early)
    assert aligned.endswith(rest)
    for piece in large(aligned[len(early) :]):
        over = (piece.data_at + len(early)) % BLOCK
        # Zeros behind the name would go beyond the longest name that a kernel takes.
        assert over <= len(piece.name) + 4
    assert align(aligned) == aligned
    assert align(early + initrd + rest) == aligned


@given(st.integers(0, BLOCK // 4 - 1), st.integers(1, 200))
def test_a_file_begins_on_a_block_wherever_it_stands(position: int, length: int) -> None:
    # Behind a file that ends at each multiple of four.
    before = member("before", b"x" * (BLOCK + 4 * position))
    aligned = align(archive(before, member("n" * length, b"y" * BLOCK)))
    first, second = large(aligned)
    assert first.data_at % BLOCK == 0
    header = -(-(first.data_at + len(first.data)) // 4) * 4
    assert second.at == header
    needed = -(header + newc.HEADER) % BLOCK  # bytes of the name up to the next block
    if needed > length:
        assert second.data_at % BLOCK == 0
    else:
        assert second.fields[11] == length + 1  # not padded in vain


def test_a_file_that_grows_changes_its_own_blocks_alone() -> None:
    chance = random.Random(1)
    contents = [chance.randbytes(chance.randrange(1, 60_000)) for _ in range(40)]

    def initrd(contents: list[bytes], *, first: int = 0) -> bytes:
        return archive(
            member("a", b"", FOLDER, number=first, time=first),
            *(
                member(f"usr/lib/lib{n}.so", data, number=first + n, time=first)
                for n, data in enumerate(contents)
            ),
            step=512,
        )

    old = initrd(contents)
    contents[3] = contents[3][:100] + b"more" * 60 + contents[3][100:]
    new = initrd(contents, first=100)
    assert len(blocks(new) - blocks(old)) > 200
    own = len(contents[3]) // BLOCK + 1
    assert len(blocks(align(new)) - blocks(align(old))) <= own + 2


def test_a_member_more_changes_only_the_blocks_around_it() -> None:
    libraries = [member(f"usr/lib/lib{n}.so", b"%04d" % n * 5000, number=n) for n in range(50)]
    linked = [
        member(f"usr/bin/{name}", data, number=77, links=2)
        for name, data in (("one", b""), ("two", b"program" * 2000))
    ]
    more = [
        member("etc/a", b"", number=900, links=2, time=900),
        member("etc/b", b"text", number=900, links=2, time=900),
    ]
    old, new = archive(*libraries, *linked), archive(*more, *libraries, *linked)
    assert len(blocks(align(new)) - blocks(align(old))) == 1


def test_hard_links_stay_together_and_the_others_get_none() -> None:
    aligned = align(
        archive(
            member("a", number=5, links=2),
            member("folder", mode=FOLDER, number=6, links=3),
            member("b", b"data", number=5, links=2),
            member("alone", b"data", number=7, links=2),
            member("c", b"other", number=5, links=1),
            member("node", mode=FIFO, number=5, links=2),
            member("pipe", mode=FIFO, number=5, links=2),
        )
    )
    tree = newc.unpacked(aligned)
    assert tree[b"a"] == tree[b"b"]
    assert tree[b"a"].names == (b"a", b"b")
    assert tree[b"a"].data == b"data"
    assert tree[b"node"].names == (b"node", b"pipe")
    counts = {piece.name.decode(): piece.fields[4] for piece in newc.pieces(aligned)}
    ones = ("folder", "alone", "c", newc.TRAILER)
    assert counts == {"a": 2, "b": 2, "node": 2, "pipe": 2} | dict.fromkeys(ones, 1)
    numbers = {piece.fields[0] for piece in newc.pieces(aligned) if piece.fields[4] > 1}
    assert len(numbers) == 2


def test_links_whose_names_have_one_checksum_stay_apart() -> None:
    assert zlib.crc32(b"plumless") == zlib.crc32(b"buckeroo")
    aligned = align(
        archive(
            *(member(name, number=1, links=2) for name in ("plumless", "other")),
            *(member(name, number=2, links=2) for name in ("buckeroo", "more")),
        )
    )
    tree = newc.unpacked(aligned)
    assert tree[b"plumless"].names == (b"plumless", b"other")
    assert tree[b"buckeroo"].names == (b"buckeroo", b"more")


def test_a_compressed_initrd_is_kept() -> None:
    assert align(ZSTD) == ZSTD
    assert align(MICROCODE + ZSTD) == MICROCODE + ZSTD


@pytest.mark.parametrize(
    ("initrd", "message"),
    [
        (b"", "is empty"),
        (bytes(512), "is empty"),
        (b"roothash=00", "at byte 0 is neither the header of a cpio member nor compressed"),
        (b"0707" + b"0" * 200, "at byte 0 is neither"),
        (member("init") + bytes(512), "no end .*cut off"),
        (member("init") + ZSTD, "at byte 116 is neither"),
        (archive(member("init")) + b"junk", "at byte 240 is neither"),
        (archive(member("init")) + b"\0" + archive(), "at byte 241, which is no multiple of four"),
        (member("init", zeros=4093), "the name of the member at byte 0 has 4097 bytes"),
        (member("", zeros=0), "has 0 bytes"),
        (member("init", zeros=0), "at byte 0 has no end"),
        (member("init", b"x" * 9000)[:-1], "cut off: the member at byte 0 goes on to byte 9116"),
    ],
)
def test_what_no_kernel_would_unpack_is_refused(initrd: bytes, message: str) -> None:
    with pytest.raises(BuildError, match=message):
        align(initrd)


def test_an_initrd_that_is_cut_off_anywhere_is_refused() -> None:
    whole = archive(member("init", b"#!/bin/sh"), member("a", b"x" * BLOCK), step=512)
    end = -(-(len(whole.rstrip(b"\0")) + 1) // 4) * 4
    for length in range(len(whole)):
        if length < end:
            with pytest.raises(BuildError):
                align(whole[:length])
        else:
            assert align(whole[:length]) == align(whole)


@settings(max_examples=300)
@given(
    initrd=archives(most=2),
    changes=st.lists(
        st.tuples(st.integers(0, 3000), st.sampled_from(b"\0\x01012afgz\xff")), max_size=6
    ),
)
@example(initrd=archive(member("a", number=1, links=2)), changes=[(6, 0x2B)])
def test_a_damaged_initrd_is_refused_or_unpacks_as_before(
    initrd: bytes, changes: list[tuple[int, int]]
) -> None:
    damaged = bytearray(initrd)
    for at, value in changes:
        damaged[at % len(damaged)] = value
    try:
        aligned = align(bytes(damaged))
    except BuildError:
        return
    assert newc.unpacked(aligned) == newc.unpacked(bytes(damaged))


@pytest.mark.parametrize(
    "reader", [["cpio", "-idm", "--quiet"], ["bsdtar", "-xf", "-"]], ids=["cpio", "libarchive"]
)
def test_the_tools_of_others_read_it(reader: list[str], tmp_path: Path) -> None:
    if shutil.which(reader[0]) is None:
        pytest.skip(f"this machine has no {reader[0]}")
    chance = random.Random(2)
    files = {f"lib/{'n' * n}.so": chance.randbytes(9000 + 412 * n) for n in range(1, 80)}
    initrd = archive(
        member("lib", mode=FOLDER, links=2),
        *(member(name, data, number=n) for n, (name, data) in enumerate(files.items())),
        member("one", number=500, links=2),
        member("two", b"linked" * 1000, number=500, links=2),
        step=512,
    )
    told = subprocess.run(reader, cwd=tmp_path, input=align(initrd), capture_output=True)
    assert (told.returncode, told.stdout, told.stderr) == (0, b"", b"")
    for name, data in files.items():
        assert (tmp_path / name).read_bytes() == data
    assert (tmp_path / "one").samefile(tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == b"linked" * 1000
