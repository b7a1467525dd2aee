"""If these fail, a person hunts for bytes in a file that costs none."""

from __future__ import annotations

import contextlib
import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.disk import changes as module
from pipeline.disk.changes import Changes, FileChange, kind_of, root_changes, uki_changes
from pipeline.disk.erofs_reader import BLOCK
from pipeline.disk.uki import make_uki
from pipeline.errors import BuildError, HostError, UsageError
from tests.fakes.efi_stub import make_stub
from tests.fakes.small_erofs import Node, build, file, link

CHANCE = random.Random(3)


def blocks(count: int, rest: int = 0) -> bytes:
    return CHANCE.randbytes(count * BLOCK + rest)


KEPT, MOVED, GONE, NEW = blocks(5, 7), blocks(3), blocks(2), blocks(4, 1)
TEXT, SHORT = blocks(40), blocks(3)
OLD: dict[str, Node | bytes] = {
    "kept": KEPT,
    "old/place": MOVED,
    "gone": GONE,
    "text": TEXT,
    "mode": file(b"x" * 10),
    "short": SHORT,
    "kind": link("kept"),
    "link": link("kept"),
    "small": file(b"one", inline=True),
}
EDITED = TEXT[: 7 * BLOCK] + blocks(3) + TEXT[10 * BLOCK :]


def compare(tmp_path: Path, new: dict[str, Node | bytes], first: int = 2) -> Changes:
    return root_changes(build(tmp_path / "old", OLD), build(tmp_path / "new", new, first=first))


def told(found: Changes) -> dict[str, tuple[int, str]]:
    return {each.path: (each.cost // BLOCK, each.why) for each in found.files}


def test_what_each_file_costs_and_why(tmp_path: Path) -> None:
    new: dict[str, Node | bytes] = {
        **OLD,
        "new": NEW,
        "again": NEW,
        "place": MOVED,
        "text": EDITED,
        "mode": file(b"x" * 10, 0o600),
        "kind": b"a file now",
        "link": link("text"),
        "small": file(b"two", inline=True),
        "mixed": KEPT[: 2 * BLOCK] + blocks(1),
        "short": SHORT[:BLOCK],
    }
    del new["gone"], new["old/place"]
    found = compare(tmp_path, new)
    assert told(found) == {
        "/again": (5, "new"),
        "/new": (0, "as another: costs nothing"),
        "/text": (3, "changed 3 of 40 blocks"),
        "/mixed": (1, "new: 1 of 3 blocks"),
        "/kind": (1, "new, was a symbolic link"),
        "/place": (0, "moved: costs nothing"),
        "/gone": (0, "removed: costs nothing"),
        "/old/place": (0, "removed: costs nothing"),
        "/mode": (0, "metadata: mode"),
        "/link": (0, "metadata: target"),
        "/small": (0, "changed, within the metadata"),
        "/short": (0, "changed: costs nothing"),
    }
    assert list(told(found))[:2] == ["/again", "/text"], "the dearest first"
    assert found.files[1] == FileChange(
        "/text", len(TEXT), len(EDITED), 3 * BLOCK, "changed 3 of 40 blocks"
    )
    assert found.total == found.metadata + sum(each.cost for each in found.files)


def test_an_image_that_was_only_laid_out_anew_costs_its_metadata(tmp_path: Path) -> None:
    found = compare(tmp_path, OLD, first=9)
    assert found.files == ()
    assert 0 < found.metadata == found.total


def test_equal_images_cost_nothing(tmp_path: Path) -> None:
    found = compare(tmp_path, OLD, first=0)
    assert (found.files, found.metadata, found.total) == ((), 0, 0)
    assert found.size == (tmp_path / "new").stat().st_size


def test_a_file_with_two_names_is_counted_once(tmp_path: Path) -> None:
    shared = file(NEW)
    found = told(compare(tmp_path, {**OLD, "a": shared, "b": shared}))
    assert found == {"/a": (5, "new"), "/b": (0, "a link: costs nothing")}


def test_a_file_whose_end_is_beside_its_inode_is_compared_to_its_end(tmp_path: Path) -> None:
    old = build(tmp_path / "old", {"a": file(KEPT + b"1", inline=True)})
    new = build(tmp_path / "new", {"a": file(KEPT + b"2", inline=True)})
    assert told(root_changes(old, new)) == {"/a": (0, "changed, within the metadata")}


CONTENT = st.lists(st.integers(0, 9), max_size=5).map(
    lambda numbers: b"".join(bytes([65 + n]) * BLOCK for n in numbers)
)
TREES = st.dictionaries(st.sampled_from(["a", "b", "c/d", "c/e"]), CONTENT, min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(TREES, TREES, st.integers(0, 3))
def test_every_new_block_is_counted_once(
    old: dict[str, Node | bytes], new: dict[str, Node | bytes], first: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        left = build(Path(folder) / "old", old)
        right = build(Path(folder) / "new", new, first=first)
        found = root_changes(left, right)
        data, known = right.read_bytes(), left.read_bytes()
    pieces = [
        {image[at : at + BLOCK] for at in range(0, len(image), BLOCK)} for image in (known, data)
    ]
    assert found.total == len(pieces[1] - pieces[0] - {bytes(BLOCK)}) * BLOCK
    assert found.total == found.metadata + sum(each.cost for each in found.files)
    same = {f"/{path}" for path in old if old[path] == new.get(path)}
    assert not same & {each.path for each in found.files}
    assert {f"/{path}" for path in old.keys() ^ new.keys()} <= {e.path for e in found.files}


# --- boot files


def member(name: str, content: bytes) -> bytes:
    fields = [0, 0o100644, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0]
    head = b"070701" + b"".join(b"%08x" % value for value in fields) + name.encode() + b"\0"
    padded = head + bytes(-len(head) % 4)
    return padded + content + bytes(-len(content) % 4)


def initrd(**files: bytes) -> bytes:
    return b"".join(member(name, content) for name, content in files.items()) + member(
        "TRAILER!!!", b""
    )


def uki(path: Path, name: str, linux: bytes, ramdisk: bytes) -> Path:
    stub = path.with_name("stub")
    stub.write_bytes(make_stub())
    sections = {".cmdline": b"quiet", ".osrel": name.encode(), ".initrd": ramdisk, ".linux": linux}
    path.write_bytes(make_uki(stub, sections))
    return path


def test_a_boot_file_is_told_by_sections_and_by_files_of_its_initrd(tmp_path: Path) -> None:
    linux, one, two = blocks(9), blocks(6), blocks(5)
    old = uki(tmp_path / "a.efi", "1", linux, initrd(one=one, two=two, gone=b"x"))
    same = uki_changes(old, old)
    assert (same.files, same.total) == ((), 0)
    edited = one[:BLOCK] + bytes(10) + one[BLOCK + 10 :]
    new = uki(tmp_path / "b.efi", "2", linux, initrd(one=edited, two=two, gone=b"x"))
    found = told(uki_changes(old, new))
    assert found.pop(".osrel")[1].startswith("changed")
    assert found == {"initrd:/one": (1, "changed 1 of 7 blocks")}
    longer = uki(tmp_path / "c.efi", "1", linux, initrd(one=b"1234" + one, two=two, gone=b"x"))
    shifted = uki_changes(old, longer)
    costs = told(shifted)
    assert costs["initrd:/one"][1] == "changed 7 of 7 blocks"
    assert costs["initrd:/two"][1].startswith("shifted: ")
    assert shifted.total == shifted.metadata + sum(each.cost for each in shifted.files)
    gone = told(uki_changes(old, uki(tmp_path / "d.efi", "1", linux, initrd(one=one, two=two))))
    assert gone["initrd:/gone"] == (0, "removed: costs nothing")


def test_files_that_are_neither_are_refused(tmp_path: Path) -> None:
    image = build(tmp_path / "root", OLD)
    assert kind_of(image) == "root"
    assert kind_of(uki(tmp_path / "a.efi", "1", b"x", b"y")) == "uki"
    (tmp_path / "text").write_text("hello")
    with pytest.raises(UsageError, match="neither a root image nor a boot file"):
        kind_of(tmp_path / "text")
    with pytest.raises(HostError, match="No such file"):
        kind_of(tmp_path / "nowhere")


def test_boot_files_that_are_damaged_or_far_too_large_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = uki(tmp_path / "a.efi", "1", blocks(2), b"y")
    data = good.read_bytes()
    chance = random.Random(2)
    for _ in range(300):
        bad = bytearray(data)
        for _ in range(3):
            bad[chance.randrange(600)] = chance.randrange(256)
        (tmp_path / "bad.efi").write_bytes(bad)
        with contextlib.suppress(BuildError):
            uki_changes(good, tmp_path / "bad.efi")
    monkeypatch.setattr(module, "LARGEST_UKI", 100)
    with pytest.raises(UsageError, match="no boot file is as large"):
        uki_changes(good, good)
