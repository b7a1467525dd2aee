"""The reader of root images against what mkfs.erofs makes, and fsck.erofs finds in it."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.disk.changes import root_changes
from pipeline.disk.erofs_reader import BLOCK, Entry, ErofsReader
from pipeline.errors import BuildError, UsageError
from pipeline.files import parse_size
from tests.fakes.small_erofs import Node, build, file, link

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="devices and owners need root"),
    pytest.mark.skipif(shutil.which("mkfs.erofs") is None, reason="no mkfs.erofs"),
]

KINDS = {
    "as recast makes them": ["-E", "noinline_data"],
    "ends beside inodes": [],
    "long inodes": ["-E", "force-inode-extended"],
    "short inodes": ["-E", "force-inode-compact,noinline_data"],
}
OURS = sorted((Path(__file__).parents[2] / "artifacts" / "images").glob("*/*/*.root.erofs"))


def run(*words: object) -> str:
    argv = [str(word) for word in words]
    done = subprocess.run(argv, check=True, capture_output=True, text=True, errors="replace")
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree with all that a root has: many names, large files, links, devices, owners."""
    root = tmp_path_factory.mktemp("tree") / "root"
    chance = random.Random(1)
    for size in (0, 1, 100, 4000, 4095, 4096, 4097, 8192, 3 * BLOCK + 5, 3 << 20):
        path = root / "sizes" / str(size)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(chance.randbytes(size))
    (root / "many").mkdir()
    for number in range(700):
        (root / "many" / f"a-rather-long-name-{number:04d}").write_text(str(number))
    (root / "deep" / "er" / "still").mkdir(parents=True)
    (root / "deep/er/still/ümlaut").write_text("x")
    os.close(os.open(os.fsencode(root / "deep") + b"/\xff", os.O_CREAT))
    (root / "link").symlink_to("sizes/100")
    (root / "long").symlink_to("x" * 4000)
    os.link(root / "sizes/4097", root / "deep/same")
    os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(root / "disk", stat.S_IFBLK | 0o660, os.makedev(259, 70000))
    os.mkfifo(root / "pipe")
    os.chown(root / "sizes/100", 70000, 1234)
    (root / "sizes/100").chmod(0o4750)
    os.setxattr(root / "sizes/4000", "trusted.note", b"a" * 100)
    os.setxattr(root / "sizes/4097", "trusted.note", b"b")
    return root


def make(folder: Path, image: Path, *options: str) -> Path:
    run("mkfs.erofs", "-T", "1577836800", *options, image, folder)
    return image


def walk(root: Path) -> Iterator[Path]:
    yield root
    for parent, folders, files in os.walk(root):
        for name in (*folders, *files):
            yield Path(parent) / name


@pytest.mark.parametrize("kind", KINDS)
def test_what_mkfs_writes_is_what_is_read(folder: Path, tmp_path: Path, kind: str) -> None:
    if kind == "short inodes":
        folder = Path(shutil.copytree(folder / "sizes", tmp_path / "tree"))
    image = make(folder, tmp_path / "a.erofs", *KINDS[kind])
    there = {f"/{path.relative_to(folder)}".replace("/.", "/"): path for path in walk(folder)}
    inodes: dict[int, set[int]] = {}
    with ErofsReader(image) as reader:
        found = {entry.path: entry for entry in reader.entries()}
        assert found.keys() == there.keys()
        for path, entry in found.items():
            check(reader, entry, there[path])
            inodes.setdefault(entry.inode, set()).add(there[path].lstat().st_ino)
    assert all(len(each) == 1 for each in inodes.values())
    count = re.search(r"inode count:\s+(\d+)", run("dump.erofs", image))
    assert count is not None
    assert len(inodes) == int(count[1])


def check(reader: ErofsReader, entry: Entry, path: Path) -> None:
    info = path.lstat()
    assert (entry.mode, entry.uid, entry.gid) == (info.st_mode, info.st_uid, info.st_gid), path
    if stat.S_ISREG(info.st_mode):
        assert entry.size == info.st_size
        assert b"".join(reader.stream(entry)) == path.read_bytes(), path
    if stat.S_ISLNK(info.st_mode):
        assert reader.target(entry) == os.fsencode(os.readlink(path))
    if stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode):
        assert entry.device == (os.major(info.st_rdev), os.minor(info.st_rdev))


@pytest.mark.parametrize("options", [["-zlz4"], ["--chunksize=4096"]])
def test_what_is_compressed_or_in_chunks_is_said_to_be(
    folder: Path, tmp_path: Path, options: list[str]
) -> None:
    text = tmp_path / "tree"
    text.mkdir()
    (text / "text").write_text("to be compressed " * 9000)
    image = make(text, tmp_path / "a.erofs", *options)
    with pytest.raises(UsageError, match=r"is compressed|in chunks"), ErofsReader(image) as reader:
        list(reader.entries())


@pytest.mark.parametrize("kind", ["as recast makes them", "ends beside inodes"])
def test_a_change_of_a_tree_is_found_in_its_images(folder: Path, tmp_path: Path, kind: str) -> None:
    old = make(folder, tmp_path / "old.erofs", *KINDS[kind])
    tree = tmp_path / "tree"
    run("cp", "-a", folder, tree)
    assert root_changes(old, make(tree, tmp_path / "same.erofs", *KINDS[kind])).files == ()
    large = bytearray((tree / f"sizes/{3 << 20}").read_bytes())
    large[BLOCK * 9 + 5] ^= 1
    (tree / f"sizes/{3 << 20}").write_bytes(large)
    (tree / "sizes/8192").rename(tree / "deep/moved")
    (tree / "many/a-rather-long-name-0000").unlink()
    found = root_changes(old, make(tree, tmp_path / "new.erofs", *KINDS[kind]))
    assert [(each.path, each.cost, each.why) for each in found.files] == [
        (f"/sizes/{3 << 20}", BLOCK, "changed 1 of 768 blocks"),
        ("/deep/moved", 0, "moved: costs nothing"),
        ("/many/a-rather-long-name-0000", 0, "removed: costs nothing"),
        ("/sizes/8192", 0, "removed: costs nothing"),
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_no_chance_damage_ends_in_anything_but_a_sentence(
    folder: Path, tmp_path: Path, kind: str
) -> None:
    small = folder / "deep"
    whole = make(small, tmp_path / "a.erofs", *KINDS[kind]).read_bytes()
    chance = random.Random(kind)
    used = [at for at, byte in enumerate(whole) if byte]
    for _ in range(200):
        image = bytearray(whole)
        for _ in range(chance.choice((1, 2, 8))):
            image[chance.choice(used)] = chance.randrange(256)
        image[1024 + 8] = 0  # no checksum: it would find it all
        (tmp_path / "bad").write_bytes(image)
        with (
            contextlib.suppress(BuildError, UsageError),
            ErofsReader(tmp_path / "bad") as reader,
        ):
            assert all(len(b"".join(reader.stream(e))) == e.size for e in reader.entries())


def test_a_superblock_that_was_changed_is_noticed(folder: Path, tmp_path: Path) -> None:
    image = make(folder / "deep", tmp_path / "a.erofs")
    data = bytearray(image.read_bytes())
    data[1024 + 64] ^= 1  # the volume's name
    image.write_bytes(data)
    with pytest.raises(BuildError, match="checksum"):
        ErofsReader(image)


def test_the_fake_images_of_other_tests_are_real_ones(tmp_path: Path) -> None:
    files: dict[str, Node | bytes] = {
        "a/b": b"x" * 5000,
        "c": link("a/b"),
        "d": file(b"y" * 4100, inline=True),
    }
    image = build(tmp_path / "a.erofs", files)
    run("fsck.erofs", f"--extract={tmp_path / 'out'}", image)
    assert (tmp_path / "out/a/b").read_bytes() == b"x" * 5000
    assert (tmp_path / "out/d").read_bytes() == b"y" * 4100
    assert os.readlink(tmp_path / "out/c") == "a/b"


@pytest.mark.skipif(not OURS, reason="no image was built here yet")
def test_our_own_roots_are_read_whole() -> None:
    image = OURS[-1]
    with ErofsReader(image) as reader:
        entries = list(reader.entries())
    count = re.search(r"inode count:\s+(\d+)", run("dump.erofs", image))
    assert count is not None
    assert len({entry.inode for entry in entries}) == int(count[1])
    held = {entry.inode: entry.blocks for entry in entries}
    assert sum(held.values()) * BLOCK <= image.stat().st_size < parse_size("16GiB")
    assert {"/usr/bin", "/etc/os-release"} <= {entry.path for entry in entries}
