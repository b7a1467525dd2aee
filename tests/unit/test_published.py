"""The releases in a store: what is there, what a person means, and what is not believed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline import digest
from pipeline.channels.publish import publish
from pipeline.channels.published import PublishedReleases, read_manifest
from pipeline.command import Stop
from pipeline.errors import DigestError, Interrupted, TrustError, UsageError
from pipeline.models.pointer import Extent, PublishedRelease, StoredObject
from pipeline.store.base import MissingError, object_key, release_key
from pipeline.transfer.fetch import read_object, save_part
from tests.fakes.publishing import ON_QEMU, PROVENANCE
from tests.fakes.store import FaultyStore, MemoryStore
from tests.fakes.stored import MOMENT, store_whole


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def whole(tmp_path: Path, store: MemoryStore) -> PublishedRelease:
    local = store_whole(tmp_path / "artifacts")
    return publish(store, local, [PROVENANCE, ON_QEMU], scratch=tmp_path).release


def put(store: MemoryStore, release: PublishedRelease) -> PublishedRelease:
    """Put a description into the store, and nothing besides."""
    key = release_key(release.image, release.version)
    store.create(key, release.model_dump_json().encode())
    return release


def more(store: MemoryStore, release: PublishedRelease, **changes: Any) -> PublishedRelease:
    """Another description, like *release*."""
    return put(store, release.model_copy(update=changes))


# --- what is there ----------------------------------------------------------------------------


def test_releases_are_in_the_order_of_their_commits_and_then_of_building(
    store: MemoryStore, whole: PublishedRelease
) -> None:
    day, hour = timedelta(days=1), timedelta(hours=1)
    older = more(store, whole, version="20260228.x", created=MOMENT - day, built=MOMENT + day)
    dirty = more(store, whole, version="20260301.dirty.b", built=MOMENT + hour)
    last = more(store, whole, version="20260301.dirty.a", built=MOMENT + 2 * hour)
    more(store, whole, image="edge-base")
    published = PublishedReleases(store)
    assert published.images() == ["edge-base", "edge-web"]
    assert published.of("edge-web") == [older, whole, dirty, last]
    assert published.latest("edge-web") == last
    assert published.latest("edge-db") is None


def test_what_was_uploaded_by_half_is_not_there(tmp_path: Path) -> None:
    local = store_whole(tmp_path / "artifacts")
    inner = MemoryStore()
    broken = FaultyStore(inner, "5xx", only=["create"])
    with pytest.raises(Exception, match="503"):
        publish(broken, local, scratch=tmp_path)
    assert list(inner.list("objects/"))
    published = PublishedReleases(inner)
    assert published.images() == []
    assert published.of("edge-web") == []
    assert published.find("edge-web", local.release.version) is None


def test_other_objects_beside_descriptions_are_passed_over(
    store: MemoryStore, whole: PublishedRelease
) -> None:
    for key in ("releases/edge-web/notes.txt", "releases/x.json", "releases/edge-web/a/b.json"):
        store.create(key, b"?")
    published = PublishedReleases(store)
    assert published.images() == ["edge-web"]
    assert published.of("edge-web") == [whole]
    assert published.problems == []


def test_a_broken_description_is_passed_over_in_lists_and_named_when_asked_for(
    store: MemoryStore, whole: PublishedRelease
) -> None:
    store.create("releases/edge-web/1.json", b"{")
    published = PublishedReleases(store)
    assert published.of("edge-web") == [whole]
    published.of("edge-web")
    assert len(published.problems) == 1
    assert "releases/edge-web/1.json" in published.problems[0]
    with pytest.raises(TrustError, match=r"releases/edge-web/1\.json"):
        published.find("edge-web", "1")


def test_a_description_under_another_name_is_refused(
    store: MemoryStore, whole: PublishedRelease
) -> None:
    store.create("releases/edge-db/1.json", whole.model_dump_json().encode())
    with pytest.raises(TrustError, match="describes edge-web_"):
        PublishedReleases(store).find("edge-db", "1")


def test_a_huge_description_is_not_read(store: MemoryStore, whole: PublishedRelease) -> None:
    store.create("releases/edge-web/1.json", b" " * 300_000)
    published = PublishedReleases(store)
    assert published.of("edge-web") == [whole]
    assert "larger than" in published.problems[0]


# --- what a person means ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    ["edge-web", "edge-web@latest", "edge-web@2026", "edge-web@g0123456", "edge-web@012345"],
)
def test_a_published_release_is_called_as_a_local_one_is(
    store: MemoryStore, whole: PublishedRelease, words: str
) -> None:
    assert PublishedReleases(store).resolve(words) == whole
    assert PublishedReleases(store).resolve(whole.name) == whole
    assert PublishedReleases(store).resolve(f"edge-web@{whole.root_hash[:12]}") == whole


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        ("edge-wbe", "there is no image `edge-wbe`", "Did you mean edge-web"),
        ("edge-db", "edge-db has no release in memory://fake yet", "`recast publish edge-db`"),
        ("edge-web@2025", "edge-web has no release `2025`", "There is 2026"),
        ("../edge-web", "there is no image `../edge-web`", "Did you mean edge-web"),
        ("edge web@1", "there is no image `edge web`", "Did you mean edge-web"),
        ("edge-web@a b", "edge-web has no release `a b`", "There is 2026"),
        ("", "there is no image ``", "There are"),
    ],
)
def test_a_name_that_means_none_is_answered_with_what_is_near(
    store: MemoryStore, whole: PublishedRelease, words: str, message: str, hint: str
) -> None:
    with pytest.raises(UsageError) as caught:
        PublishedReleases(store).resolve(words, known=["edge-db"])
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_an_image_whose_every_release_is_broken_is_not_called_unknown(store: MemoryStore) -> None:
    store.create("releases/edge-web/1.json", b"{")
    with pytest.raises(UsageError, match=r"no release of edge-web in .* can be read"):
        PublishedReleases(store).resolve("edge-web")


# --- what is not believed ---------------------------------------------------------------------


def test_a_damaged_manifest_is_named_by_its_key(
    store: MemoryStore, whole: PublishedRelease
) -> None:
    key = object_key(whole.manifest.digest)
    store.corrupt(key, b" " * whole.manifest.size)
    with pytest.raises(DigestError) as caught:
        PublishedReleases(store).manifest(whole)
    assert key in caught.value.message
    assert key in caught.value.hint


def test_a_damaged_attestation_is_named_by_its_key(
    store: MemoryStore, whole: PublishedRelease
) -> None:
    key = object_key(whole.evidence[0].stored.digest)
    store.corrupt(key, b"x" * whole.evidence[0].stored.size)
    with pytest.raises(DigestError, match=key):
        PublishedReleases(store).envelope(whole.evidence[0])
    store.corrupt(key, b"x" * 1_000_000)
    with pytest.raises(TrustError):
        PublishedReleases(store).envelope(whole.evidence[0])
    store.delete(key)
    with pytest.raises(MissingError):
        PublishedReleases(store).envelope(whole.evidence[0])


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"commit": "f" * 40}, "commit"),
        ({"dirty": True}, "dirty"),
        ({"root_hash": "d" * 64}, "root hash"),
        ({"boot_digest": "d"}, "boot digest"),
        ({"created": MOMENT + timedelta(days=1)}, "created"),
        ({"version": "1"}, "version"),
    ],
)
def test_a_description_must_agree_with_its_manifest(
    store: MemoryStore, whole: PublishedRelease, change: dict[str, Any], field: str
) -> None:
    with pytest.raises(TrustError, match=f"differ in: {field}"):
        read_manifest(store, whole.model_copy(update=change))


def test_a_part_that_the_manifest_does_not_know_is_refused(
    store: MemoryStore, whole: PublishedRelease
) -> None:
    parts = {**whole.parts, "extra": whole.parts["uki"]}
    with pytest.raises(TrustError, match="differ in: extra"):
        read_manifest(store, whole.model_copy(update={"parts": parts}))


def test_bytes_that_are_no_manifest_are_refused_though_their_digest_fits(
    store: MemoryStore, whole: PublishedRelease
) -> None:
    data = b'{"image": "edge-web"}'
    stored = StoredObject(digest=digest.of_bytes(data), size=len(data))
    store.create(object_key(stored.digest), data)
    with pytest.raises(TrustError, match="cannot be read: version"):
        read_manifest(store, whole.model_copy(update={"manifest": stored}))


# --- reading parts back -----------------------------------------------------------------------


def stored_of(release: PublishedRelease, role: str) -> StoredObject:
    stored = release.parts[role].stored
    assert stored is not None
    return stored


@pytest.mark.parametrize("role", ["root", "uki"])  # compressed, and as it is
@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[:-100],
        lambda data: data + b"x",
        lambda data: b"\0" * len(data),
        lambda data: data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1])
        + data[len(data) // 2 + 1 :],
        lambda data: b"",
    ],
    ids=["cut", "longer", "zeros", "one bit", "empty"],
)  # fmt: skip
def test_a_damaged_object_is_named_and_leaves_no_file(
    store: MemoryStore,
    whole: PublishedRelease,
    tmp_path: Path,
    role: str,
    spoil: Callable[[bytes], bytes],
) -> None:
    key = object_key(stored_of(whole, role).digest)
    store.corrupt(key, spoil(store.snapshot()[key]))
    folder = tmp_path / "back"
    folder.mkdir()
    with pytest.raises(DigestError) as caught:
        save_part(store, whole, role, folder / role)
    assert key in caught.value.message
    assert list(folder.iterdir()) == []


def test_an_old_file_stays_until_the_new_one_is_right(
    store: MemoryStore, whole: PublishedRelease, tmp_path: Path
) -> None:
    target = tmp_path / "root"
    target.write_bytes(b"the old one")
    broken = FaultyStore(store, "wrong bytes", only=["stream"])
    with pytest.raises(DigestError):
        save_part(broken, whole, "root", target)
    assert target.read_bytes() == b"the old one"
    save_part(store, whole, "root", target)
    assert digest.of_file(target) == whole.parts["root"].digest


def test_few_bytes_that_stand_for_very_many_are_not_unpacked(store: MemoryStore) -> None:
    import zstandard

    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 26))
    assert len(bomb) < 100_000
    stored = StoredObject(digest=digest.of_bytes(bomb), size=len(bomb), encoding="zstd")
    store.create(object_key(stored.digest), bomb)
    pieces: list[bytes] = []
    with pytest.raises(DigestError, match="stands for more than 4096 bytes"):
        pieces.extend(read_object(store, stored, 4096))
    assert pieces == []


def test_an_endless_object_is_left_where_it_must_end(
    store: MemoryStore, whole: PublishedRelease
) -> None:
    stored = stored_of(whole, "uki")
    store.corrupt(object_key(stored.digest), bytes(stored.size * 20))
    watched = FaultyStore(store)
    with pytest.raises(DigestError, match=f"more than {stored.size} bytes"):
        list(read_object(watched, stored, stored.size))
    assert watched.received <= stored.size + (1 << 20)


@pytest.mark.parametrize(
    "extents",
    [
        (Extent(offset=0, size=100, part="root"),),  # not the whole of it
        (Extent(offset=0, size=100, part="nothing"),),
        (Extent(offset=0, size=100, part="disk"),),
        (Extent(offset=0, size=100),),
        (Extent(offset=1 << 50, size=3 << 20, part="root"),),
        (Extent(offset=0, size=3 << 20, part="root"),) * 2,
        (),  # nothing but zeros
    ],
    ids=["part of a part", "no such part", "itself", "nothing", "far out", "twice", "too little"],
)
def test_a_disk_whose_description_was_changed_is_refused(
    store: MemoryStore, whole: PublishedRelease, tmp_path: Path, extents: tuple[Extent, ...]
) -> None:
    disk = whole.parts["disk"].model_copy(update={"extents": extents})
    changed = whole.model_copy(update={"parts": {**whole.parts, "disk": disk}})
    with pytest.raises(DigestError, match=r"rightly what is at|is not what was"):
        save_part(store, changed, "disk", tmp_path / "disk")
    assert not (tmp_path / "disk").exists()


def test_a_disk_comes_back_sparse(
    store: MemoryStore, whole: PublishedRelease, tmp_path: Path
) -> None:
    save_part(store, whole, "disk", tmp_path / "disk")
    info = (tmp_path / "disk").stat()
    assert info.st_size == whole.parts["disk"].size
    assert info.st_blocks * 512 < info.st_size / 2


def test_a_part_that_there_is_not_is_told(
    store: MemoryStore, whole: PublishedRelease, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        save_part(store, whole, "qcow2", tmp_path / "x")
    assert "It has root" in caught.value.hint


def test_a_stop_ends_reading(store: MemoryStore, whole: PublishedRelease, tmp_path: Path) -> None:
    stop = Stop()
    stop.set()
    with pytest.raises(Interrupted):
        save_part(store, whole, "root", tmp_path / "root", stop)
    assert not (tmp_path / "root").exists()
