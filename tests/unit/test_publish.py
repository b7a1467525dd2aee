"""Publishing: what the store lacks and no more, whole or not at all, whatever goes wrong."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from pipeline import digest, releases
from pipeline.channels import packing
from pipeline.channels.meter import Progress
from pipeline.channels.publish import Attestation, Published, publish
from pipeline.channels.published import PublishedReleases
from pipeline.errors import (
    ConflictError,
    TrustError,
)
from pipeline.models.release import Part
from pipeline.releases import Stored
from pipeline.store.base import object_key, release_key
from tests.fakes.publishing import ON_AWS, ON_QEMU, PROVENANCE, described, require_whole, writes
from tests.fakes.store import FaultyStore, MemoryStore
from tests.fakes.stored import store_whole


@pytest.fixture
def local(tmp_path: Path) -> Stored:
    return store_whole(tmp_path / "artifacts")


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "scratch"
    folder.mkdir()
    yield folder
    assert list(folder.iterdir()) == [], "what was made in the scratch folder stays there"


# --- what is published ------------------------------------------------------------------------


def test_a_release_comes_back_byte_for_byte(local: Stored, scratch: Path, tmp_path: Path) -> None:
    store = MemoryStore()
    done = publish(store, local, [PROVENANCE, ON_QEMU], scratch=scratch)
    release = require_whole(store, local, tmp_path)
    assert done == Published(release, done.uploaded, 0, changed=True)
    assert done.uploaded == sum(each.size for each in release.objects)
    assert [(e.kind, e.provider) for e in release.evidence] == [
        ("provenance", ""),
        ("test", "qemu"),
    ]
    assert PublishedReleases(store).envelope(release.evidence[0]) == PROVENANCE.envelope
    assert (release.created, release.built) == (local.release.created, local.built)


def test_the_disk_is_stored_as_what_it_adds_to_the_other_parts(
    local: Stored, scratch: Path
) -> None:
    store = MemoryStore()
    disk = publish(store, local, scratch=scratch).release.parts["disk"]
    assert disk.stored is None
    assert disk.extents is not None
    assert [extent.part for extent in disk.extents if extent.part] == ["uki", "root", "verity"]
    own = sum(extent.stored.size for extent in disk.extents if extent.stored)
    assert own < 1000, "tables of repeated bytes compress to next to nothing"
    ends = [extent.offset + extent.size for extent in disk.extents]
    assert all(end <= extent.offset for end, extent in zip(ends, disk.extents[1:], strict=False))


def test_what_compresses_is_compressed_and_what_does_not_goes_as_it_is(
    local: Stored, scratch: Path
) -> None:
    parts = publish(MemoryStore(), local, scratch=scratch).release.parts
    assert parts["root"].stored is not None
    assert parts["uki"].stored is not None
    assert parts["root"].stored.encoding == "zstd"
    assert parts["root"].stored.size < 0.6 * parts["root"].size
    assert parts["uki"].stored.encoding == "plain"
    assert parts["uki"].stored.digest == parts["uki"].digest


def test_a_container_around_the_disk_is_not_published(local: Stored, scratch: Path) -> None:
    name = f"{local.release.name}.qcow2"
    (local.folder / name).write_bytes(b"QFI")
    part = Part(file=name, digest=digest.of_bytes(b"QFI"), size=3)
    release = local.release.model_copy(update={"parts": {**local.release.parts, "qcow2": part}})
    releases.save(local.folder, release)
    with_qcow2 = Stored(release, local.folder, local.verdicts, local.built)
    found = publish(MemoryStore(), with_qcow2, scratch=scratch).release
    assert "qcow2" not in found.parts


def test_the_description_is_written_last(local: Stored, scratch: Path) -> None:
    store = FaultyStore(MemoryStore())
    publish(store, local, [ON_QEMU], scratch=scratch)
    changing = [pair for pair in store.operations if pair[0] in ("put", "create", "replace")]
    key = release_key(local.release.image, local.release.version)
    assert changing[-1] == ("create", key)
    assert {name for name, _ in changing[:-1]} == {"put"}


# --- once and no more -------------------------------------------------------------------------


def test_the_second_time_nothing_is_read_or_written(
    local: Stored, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FaultyStore(MemoryStore())
    first = publish(store, local, [ON_QEMU], scratch=scratch)
    before = store.writes
    monkeypatch.setattr("pipeline.channels.publish.pack", None)  # nothing is compressed again
    again = publish(store, local, [ON_QEMU], scratch=scratch)
    assert again == Published(first.release, 0, first.uploaded, changed=False)
    assert store.writes == before


def test_only_what_the_store_lacks_is_uploaded(tmp_path: Path, scratch: Path) -> None:
    store = FaultyStore(MemoryStore())
    old = store_whole(tmp_path / "artifacts")
    publish(store, old, scratch=scratch)
    new = store_whole(tmp_path / "artifacts", dirty="00c0ffee")  # same root, other names
    store.operations.clear()
    done = publish(store, new, scratch=scratch)
    root = done.release.parts["root"].stored
    assert root is not None
    assert object_key(root.digest) not in writes(store)
    assert done.reused >= root.size
    assert done.uploaded < 10_000
    require_whole(store, new, tmp_path)


def test_old_objects_that_are_found_are_made_young_again(local: Stored, scratch: Path) -> None:
    """Nothing refers to them until the description does, and somebody may be clearing up."""
    inner = MemoryStore()
    release = publish(inner, local, scratch=scratch).release
    inner.delete(release_key(release.image, release.version))
    old, young = release.parts["root"].stored, release.parts["uki"].stored
    assert old is not None
    assert young is not None
    inner.age(object_key(old.digest), timedelta(seconds=51))
    store = FaultyStore(inner)
    publish(store, local, scratch=scratch, grace=100.0)
    assert writes(store, "touch") == [object_key(old.digest)]
    assert writes(store) == []


def test_an_old_description_that_stays_as_it_is_is_made_young_too(
    local: Stored, scratch: Path
) -> None:
    store = MemoryStore()
    release = publish(store, local, scratch=scratch).release
    key = release_key(release.image, release.version)
    store.age(key, timedelta(seconds=51))
    before = store.find(key)
    publish(store, local, scratch=scratch, grace=100.0)
    after = store.find(key)
    assert before is not None
    assert after is not None
    assert after.modified > before.modified
    assert after.etag == before.etag


# --- evidence ---------------------------------------------------------------------------------


def test_tests_on_another_provider_are_added_later(local: Stored, scratch: Path) -> None:
    store = MemoryStore()
    publish(store, local, [PROVENANCE, ON_QEMU], scratch=scratch)
    done = publish(store, local, [ON_AWS], scratch=scratch)
    assert done.changed
    assert done.uploaded == len(ON_AWS.envelope)
    assert described(store, local) == done.release
    found = {(e.kind, e.provider): e.stored.digest for e in done.release.evidence}
    assert found == {
        (a.kind, a.provider): digest.of_bytes(a.envelope) for a in (PROVENANCE, ON_QEMU, ON_AWS)
    }


def test_a_newer_result_takes_the_place_of_the_older_one(local: Stored, scratch: Path) -> None:
    store = MemoryStore()
    publish(store, local, [ON_QEMU], scratch=scratch)
    newer = Attestation("test", b"failed on qemu", "qemu")
    release = publish(store, local, [newer], scratch=scratch).release
    assert [e.stored.digest for e in release.evidence] == [digest.of_bytes(newer.envelope)]


def test_evidence_that_somebody_else_adds_meanwhile_is_kept(local: Stored, scratch: Path) -> None:
    class Contested(MemoryStore):
        """Somebody else is faster, once."""

        faster = False

        def replace(self, key: str, data: bytes, *, etag: str) -> str:
            if self.faster:
                self.faster = False
                publish(self, local, [ON_AWS], scratch=scratch)
            return super().replace(key, data, etag=etag)

    inner = Contested()
    publish(inner, local, [PROVENANCE], scratch=scratch)
    inner.faster = True
    release = publish(inner, local, [ON_QEMU], scratch=scratch).release
    assert len(release.evidence) == 3
    assert described(inner, local) == release


# --- another release under the same name ------------------------------------------------------


def test_another_release_under_the_same_version_is_refused(tmp_path: Path, scratch: Path) -> None:
    store = MemoryStore()
    publish(store, store_whole(tmp_path / "here"), scratch=scratch)
    before = store.snapshot()
    other = store_whole(tmp_path / "there", size=2 << 20)
    with pytest.raises(ConflictError) as caught:
        publish(store, other, scratch=scratch)
    assert f"edge-web@{other.release.version} already" in caught.value.message
    assert store.url in caught.value.message
    assert "make a new commit" in caught.value.hint
    assert store.snapshot() == before


def test_a_description_that_was_changed_is_put_right(
    local: Stored, scratch: Path, tmp_path: Path
) -> None:
    store = MemoryStore()
    good = publish(store, local, [ON_QEMU], scratch=scratch).release
    parts = {**good.parts, "root": good.parts["root"].model_copy(update={"digest": "d" * 64})}
    bad = good.model_copy(update={"parts": parts})
    store.corrupt(release_key(good.image, good.version), bad.model_dump_json().encode())
    assert publish(store, local, scratch=scratch).release == good
    require_whole(store, local, tmp_path)


@pytest.mark.parametrize("data", [b"", b"{", b'{"image": "edge-web"}'])
def test_a_description_that_cannot_be_read_is_named(
    local: Stored, scratch: Path, data: bytes
) -> None:
    store = MemoryStore()
    key = release_key(local.release.image, local.release.version)
    store.corrupt(key, data)
    with pytest.raises(TrustError) as caught:
        publish(store, local, scratch=scratch)
    assert key in caught.value.message
    assert key in caught.value.hint


# --- packing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_the_same_bytes_give_the_same_object_on_any_machine(
    local: Stored, scratch: Path, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = publish(MemoryStore(), local, scratch=scratch).release
    monkeypatch.setattr(packing, "_THREADS", threads)
    assert publish(MemoryStore(), local, scratch=scratch).release == expected


def test_progress_only_goes_on_and_ends_at_the_end(local: Stored, scratch: Path) -> None:
    heard: list[Progress] = []
    store = MemoryStore()
    done = publish(store, local, scratch=scratch, progress=heard.append)
    for what in ("reading", "uploading"):
        each = [p for p in heard if p.what == what]
        assert each
        assert [p.done for p in each] == sorted(p.done for p in each)
        assert each[-1].done == each[-1].total
    assert heard[-1].total == done.uploaded
