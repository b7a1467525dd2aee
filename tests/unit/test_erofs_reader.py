"""If these fail, `recast diff` tells of files that are not there, or a damaged image kills it."""

from __future__ import annotations

import contextlib
import random
import stat
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.disk import erofs_reader
from pipeline.disk.erofs_reader import BLOCK, SUPER, Entry, ErofsReader
from pipeline.errors import BuildError, HostError, RecastError, UsageError
from tests.fakes.small_erofs import META, Node, build, file, inode_at, link

CHANCE = random.Random(7)
LARGE = CHANCE.randbytes(3 * BLOCK + 100)
SHARED = file(b"one file, two names")
FILES: dict[str, Node | bytes] = {
    "bin": link("usr/bin"),
    "etc/empty": b"",
    "etc/hostname": file(b"edge", inline=True, extended=False),
    "etc/exact": CHANCE.randbytes(2 * BLOCK),
    "opt/a": SHARED,
    "opt/b": SHARED,
    "usr/bin/large": LARGE,
    "usr/bin/tailed": file(LARGE, 0o4755, inline=True),
    "usr/ümlaut": b"x",
}


def read(path: Path) -> dict[str, tuple[Entry, bytes]]:
    with ErofsReader(path) as image:
        return {
            entry.path: (
                entry,
                b"" if stat.S_ISDIR(entry.mode) else b"".join(image.stream(entry)),
            )
            for entry in image.entries()
        }


def spoilt(
    tmp_path: Path, spoil: Callable[[bytearray, list[Node]], None], kind: type[RecastError]
) -> str:
    path = build(tmp_path / "bad.erofs", FILES, spoil=spoil)
    with pytest.raises(kind) as caught:
        read(path)
    assert str(path) in caught.value.message
    assert caught.value.hint or kind is UsageError
    return caught.value.message


def test_everything_in_an_image_is_found_as_it_is(tmp_path: Path) -> None:
    found = read(build(tmp_path / "a.erofs", FILES))
    for path, what in FILES.items():
        entry, content = found[f"/{path}"]
        node = file(what) if isinstance(what, bytes) else what
        assert (entry.mode, content) == (node.mode, node.content)
    assert set(found) - {f"/{path}" for path in FILES} == {"/", "/etc", "/opt", "/usr", "/usr/bin"}
    assert found["/opt/a"][0].inode == found["/opt/b"][0].inode
    tailed = found["/usr/bin/tailed"][0]
    assert (tailed.blocks, tailed.tail_size) == (3, 100)
    assert found["/usr/bin/large"][0].blocks == 4
    with ErofsReader(tmp_path / "a.erofs") as image:
        assert image.target(found["/bin"][0]) == b"usr/bin"


def test_a_folder_comes_before_what_is_in_it(tmp_path: Path) -> None:
    paths = list(read(build(tmp_path / "a.erofs", FILES)))
    assert paths[0] == "/"
    for place, path in enumerate(paths[1:], 1):
        assert (str(Path(path).parent)) in paths[:place]


def test_what_is_no_erofs_is_named(tmp_path: Path) -> None:
    for content in (b"", b"short", bytes(9000)):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(UsageError, match="is no EROFS image"):
            ErofsReader(tmp_path / "x")
    with pytest.raises(HostError, match="No such file"):
        ErofsReader(tmp_path / "y")


def put(at: int, form: str, value: int) -> Callable[[bytearray, list[Node]], None]:
    def spoil(image: bytearray, _nodes: list[Node]) -> None:
        struct.pack_into(form, image, at, value)

    return spoil


def root_inode(offset: int, form: str, value: int) -> Callable[[bytearray, list[Node]], None]:
    return put(META * BLOCK + offset, form, value)


FOREIGN = {
    "compressed": (put(SUPER + 80, "<I", 0x3), "compressed"),
    "chunks": (put(SUPER + 80, "<I", 0x4), "chunks"),
    "newer": (put(SUPER + 80, "<I", 0x80), "newer"),
    "other blocks": (put(SUPER + 12, "<B", 14), "blocks of another size"),
    "large folders": (put(SUPER + 90, "<B", 1), "blocks of another size"),
    "a compressed file": (root_inode(0, "<H", 3 << 1 | 1), "'/' is compressed"),
    "a file in chunks": (root_inode(0, "<H", 4 << 1 | 1), "'/' is kept in chunks"),
    "a newer inode": (root_inode(0, "<H", 0x10 | 1), "newer"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_what_is_not_read_here_is_named(tmp_path: Path, case: str) -> None:
    spoil, words = FOREIGN[case]
    assert words in spoilt(tmp_path, spoil, UsageError)


def _loop(image: bytearray, nodes: list[Node]) -> None:
    """`/etc` becomes another name of the root."""
    at = nodes[0].at * BLOCK
    etc = next(n for n in nodes if "hostname" in n.names)
    for place in range(at, at + 12 * 6, 12):
        if struct.unpack_from("<Q", image, place)[0] == etc.number:
            struct.pack_into("<Q", image, place, nodes[0].number)


def _folder(offset: int, form: str, value: int) -> Callable[[bytearray, list[Node]], None]:
    def spoil(image: bytearray, nodes: list[Node]) -> None:
        struct.pack_into(form, image, nodes[0].at * BLOCK + offset, value)

    return spoil


def _slash(image: bytearray, nodes: list[Node]) -> None:
    at = nodes[0].at * BLOCK
    place = image.index(b"bin", at)
    image[place : place + 3] = b"b/n"


def _tail(image: bytearray, nodes: list[Node]) -> None:
    """An inode whose end would be longer than what is left of its block."""
    node = next(n for n in nodes if n.content == b"edge")
    struct.pack_into("<I", image, inode_at(node) + 8, BLOCK - 1)


DAMAGED = {
    "cut off": (put(SUPER + 36, "<I", 10**6), "cut off: of 3.8 GiB"),
    "a checksum": (put(SUPER + 8, "<I", 1), "checksum"),
    "inodes beyond": (put(SUPER + 40, "<I", 0xFFFFFFFF), "an inode lies beyond"),
    "a root beyond": (put(SUPER + 14, "<H", 0xFFFF), "an inode lies beyond"),
    "a root that is a file": (root_inode(4, "<H", stat.S_IFREG), "its root is no folder"),
    "no known kind": (root_inode(4, "<H", 0o755), "of no known kind"),
    "a size": (root_inode(8, "<Q", 1 << 62), "the content of '/' lies beyond"),
    "a place": (root_inode(16, "<I", 0xFFFFFFF0), "the content of '/' lies beyond"),
    "a tail": (_tail, "lies beyond its block"),
    "a loop": (_loop, "a folder in two places"),
    "an entry beyond": (_folder(24, "<Q", 1 << 60), "an inode lies beyond"),
    "no entries": (_folder(8, "<H", 0), "entries that cannot be"),
    "half an entry": (_folder(8, "<H", 13), "entries that cannot be"),
    "entries beyond": (_folder(8, "<H", 12 * 300), "entries that cannot be"),
    "a name beyond": (_folder(20, "<H", 0xFFFF), "names that lie beyond"),
    "names that go back": (_folder(20, "<H", 1), "names that lie beyond"),
    "a name with a slash": (_slash, "a name that cannot be"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damage_is_told_in_a_sentence(tmp_path: Path, case: str) -> None:
    spoil, words = DAMAGED[case]
    message = spoilt(tmp_path, spoil, BuildError)
    assert "is damaged" in message
    assert words in message


def test_an_image_that_would_have_no_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = build(tmp_path / "a.erofs", FILES)
    monkeypatch.setattr(erofs_reader, "MOST_ENTRIES", 5)
    with pytest.raises(BuildError, match="more names"):
        read(path)
    monkeypatch.undo()

    def share(image: bytearray, nodes: list[Node]) -> None:
        """Every file has the whole image as its content."""
        for node in nodes[1:]:
            if node.extended and stat.S_ISREG(node.mode):
                struct.pack_into(
                    "<HHHHQI", image, inode_at(node), 1, 0, node.mode, 0, len(image), 0
                )

    many: dict[str, Node | bytes] = {f"f{number}": b"x" for number in range(40)}
    path = build(tmp_path / "b.erofs", many, spoil=share)
    with pytest.raises(BuildError, match="many times larger"):
        read(path)


def test_a_cut_image_is_damaged_wherever_it_was_cut(tmp_path: Path) -> None:
    whole = build(tmp_path / "a.erofs", FILES).read_bytes()
    for size in range(SUPER + 128, len(whole) - BLOCK, 1500):
        (tmp_path / "cut").write_bytes(whole[:size])
        with pytest.raises(BuildError, match="damaged"):
            read(tmp_path / "cut")


def test_no_chance_damage_ends_in_anything_but_a_sentence(tmp_path: Path) -> None:
    whole = build(tmp_path / "a.erofs", FILES).read_bytes()
    chance = random.Random(5)
    structures = [SUPER + n for n in range(128)]
    structures += [at for at in range(META * BLOCK, len(whole)) if whole[at]]
    for _ in range(500):
        image = bytearray(whole)
        for _ in range(chance.choice((1, 1, 2, 8))):
            image[chance.choice(structures)] = chance.choice((0, 1, 0x7F, 0x80, 0xFF))
        (tmp_path / "bad").write_bytes(image)
        with contextlib.suppress(BuildError, UsageError):
            read(tmp_path / "bad")
