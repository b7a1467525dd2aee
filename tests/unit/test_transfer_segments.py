"""The table of a part's segments: what publishing writes is what machines fetch by."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import digest
from pipeline.channels import packing
from pipeline.channels.publish import publish
from pipeline.models.pointer import PublishedRelease
from pipeline.policy.retention import objects_of
from pipeline.releases import Stored
from pipeline.store.base import object_key
from pipeline.transfer.segments import SEGMENT, digest_of, read_table, table_size, write_table
from pipeline.transfer.source import StoreSource
from tests.fakes.places import Place
from tests.fakes.publishing import require_whole
from tests.fakes.store import FaultyStore, MemoryStore
from tests.fakes.stored import store_whole

SMALL = 256 << 10


@given(
    frame=st.integers(1, 64),
    data=st.binary(max_size=300),
    sizes=st.lists(st.integers(0, 90), min_size=300, max_size=300),
)
def test_what_is_written_is_read(frame: int, data: bytes, sizes: list[int]) -> None:
    blocks = [data[at : at + frame] for at in range(0, len(data), frame)]
    digests = [digest_of(block) for block in blocks]
    entries = list(zip(sizes, digests, strict=False))
    table = write_table(len(data), entries, frame)
    assert len(table) == table_size(len(data), frame)
    found = read_table(table, len(data), sum(size for size, _ in entries))
    assert [data[each.offset : each.offset + each.size] for each in found] == blocks
    assert [(each.stored, each.digest) for each in found] == entries
    assert [each.start for each in found] == [
        sum(size for size, _ in entries[:number]) for number in range(len(found))
    ]


def test_it_takes_20_bytes_a_mib() -> None:
    assert table_size(437 << 20) == 20 * 437 + 20


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "it is cut"),
        (b"x" * 100, "does not begin as one"),
        (struct.pack(">8sIQ", b"recastS1", 10, 99), "about 99 bytes"),
        (struct.pack(">8sIQ", b"recastS1", 0, 20), "segments have 0 bytes"),
        (struct.pack(">8sIQ", b"recastS1", SEGMENT + 1, 20), "segments have 1048577 bytes"),
        (struct.pack(">8sIQ", b"recastS1", 10, 20), "it has 20 bytes, not 60"),
        (write_table(20, [(5, b"a" * 16), (6, b"b" * 16)], 10), "11 bytes together, not 10"),
        (write_table(20, [(5, b"a" * 16), (1 << 30, b"b" * 16)], 10), "segment 1 has 1073741824"),
    ],
)
def test_what_is_no_table_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        read_table(data, 20, 10)


# --- publishing -------------------------------------------------------------------------------


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stored:
    """A release of more than one segment: they are smaller here."""
    monkeypatch.setattr(packing, "SEGMENT", SMALL)
    monkeypatch.setattr(packing, "_SAMPLE", 100)
    return store_whole(tmp_path / "artifacts")


def filled(store: MemoryStore, release: PublishedRelease, role: str) -> bytes:
    part = release.parts[role]
    target = Place(b"", part.size)
    StoreSource(store).fill(release, role, target, [])
    return bytes(target.data)


def test_what_machines_fetch_is_published_with_its_segments(local: Stored, tmp_path: Path) -> None:
    store = MemoryStore()
    release = publish(store, local, scratch=tmp_path).release
    for role, part in release.parts.items():
        assert (part.segments is not None) == (role in ("root", "uki")), role
    encodings = {role: release.parts[role].stored for role in ("root", "uki")}
    assert [each.encoding for each in encodings.values() if each] == ["zstd", "plain"]
    for role in ("root", "uki"):
        part = release.parts[role]
        assert part.stored is not None
        assert part.segments is not None
        table = store.get(object_key(part.segments.digest), limit=part.segments.size)
        segments = read_table(table, part.size, part.stored.size)
        assert len(segments) == -(-part.size // SMALL)
        assert filled(store, release, role) == (local.folder / part.file).read_bytes()
    require_whole(store, local, tmp_path)


def test_the_table_belongs_to_the_release_and_is_kept_with_it(
    local: Stored, tmp_path: Path
) -> None:
    store = MemoryStore()
    release = publish(store, local, scratch=tmp_path).release
    tables = {part.segments.digest for part in release.parts.values() if part.segments}
    assert len(tables) == 2
    assert tables <= {each.digest for each in release.objects}
    assert tables <= objects_of(release)
    assert release.download_size == sum(
        each.size
        for role in ("root", "uki")
        for each in (release.parts[role].stored, release.parts[role].segments)
        if each is not None
    )


def test_a_table_that_is_lost_is_published_again(local: Stored, tmp_path: Path) -> None:
    store = FaultyStore(MemoryStore())
    first = publish(store, local, scratch=tmp_path)
    table = first.release.parts["root"].segments
    assert table is not None
    store.inner.delete(object_key(table.digest))
    again = publish(store, local, scratch=tmp_path)
    assert again.release == first.release
    assert again.uploaded == table.size


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_the_table_is_the_same_on_any_machine(
    local: Stored, tmp_path: Path, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = publish(MemoryStore(), local, scratch=tmp_path).release
    monkeypatch.setattr(packing, "_THREADS", threads)
    assert publish(MemoryStore(), local, scratch=tmp_path).release == expected


def test_a_release_of_single_segments_has_no_table(tmp_path: Path) -> None:
    store = MemoryStore()
    whole = store_whole(tmp_path / "artifacts", size=SEGMENT)
    release = publish(store, whole, scratch=tmp_path).release
    assert all(part.segments is None for part in release.parts.values())
    root = release.parts["root"]
    assert filled(store, release, "root") == (whole.folder / root.file).read_bytes()


def test_segments_are_of_1_mib(tmp_path: Path) -> None:
    store = MemoryStore()
    whole = store_whole(tmp_path / "artifacts", size=20 << 20)
    release = publish(store, whole, scratch=tmp_path).release
    root = release.parts["root"]
    assert root.segments is not None
    assert root.segments.size == table_size(20 << 20) == 20 + 20 * 20
    target = Place((whole.folder / root.file).read_bytes())
    target.data[5 << 20] ^= 1
    filled = StoreSource(store).fill(release, "root", target, [])
    assert digest.of_bytes(bytes(target.data)) == root.digest
    assert filled.reused == 19 << 20
    assert filled.written == 64 << 10
