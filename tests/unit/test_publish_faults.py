"""Publishing cut at any write, beside others, and with bad files, disks, links and stores."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from pipeline import releases
from pipeline.channels import uploads
from pipeline.channels.meter import Progress
from pipeline.channels.publish import Attestation, publish
from pipeline.command import Stop
from pipeline.errors import (
    BuildError,
    BusyError,
    DiskFullError,
    HostError,
    Interrupted,
    NetworkError,
)
from pipeline.releases import Stored, manifest_path
from pipeline.store.base import Store, object_key, release_key
from tests.fakes.publishing import ON_AWS, ON_QEMU, PROVENANCE, described, require_whole, writes
from tests.fakes.store import Cut, FaultyStore, MemoryStore
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


# --- cuts -------------------------------------------------------------------------------------


def operations_of(local: Stored, scratch: Path) -> int:
    store = FaultyStore(MemoryStore())
    publish(store, local, [PROVENANCE, ON_QEMU], scratch=scratch)
    return store.writes


@pytest.mark.parametrize("cut", ["before", "after"])
def test_whatever_write_it_is_cut_at_the_next_one_does_the_rest(
    local: Stored, scratch: Path, tmp_path: Path, cut: Literal["before", "after"]
) -> None:
    count = operations_of(local, scratch)
    # 4 parts and the chunks of 2, 2 runs of the disk, manifest, 2 statements, description.
    assert count == 12
    for number in range(1, count + 1):
        inner = MemoryStore()
        dying = FaultyStore(inner, cut_at=number, cut=cut)
        with pytest.raises(Cut):
            publish(dying, local, [PROVENANCE, ON_QEMU], scratch=scratch, jobs=1)
        there = set(inner.snapshot())
        last = release_key(local.release.image, local.release.version)
        assert (last in there) == (number == count and cut == "after")
        again = FaultyStore(inner)
        done = publish(again, local, [PROVENANCE, ON_QEMU], scratch=scratch)
        assert not there & set(writes(again)), "what had arrived was sent again"
        assert done.reused == sum(len(inner.snapshot()[key]) for key in there - {last})
        require_whole(inner, local, tmp_path)


def test_half_an_object_under_its_final_name_is_replaced(
    local: Stored, scratch: Path, tmp_path: Path
) -> None:
    inner = MemoryStore()
    torn = FaultyStore(inner, "torn write", only=["put"], times=1)
    with pytest.raises(NetworkError):
        publish(torn, local, scratch=scratch, jobs=1)
    assert described(inner, local) is None
    publish(inner, local, scratch=scratch)
    require_whole(inner, local, tmp_path)


def test_a_lost_answer_to_the_last_write_is_no_conflict(
    local: Stored, scratch: Path, tmp_path: Path
) -> None:
    inner = MemoryStore()
    with pytest.raises(NetworkError):
        publish(FaultyStore(inner, "timeout", only=["create"]), local, scratch=scratch)
    done = publish(inner, local, scratch=scratch)
    assert (done.uploaded, done.changed) == (0, False)
    require_whole(inner, local, tmp_path)


def test_two_at_once_publish_one_release_with_the_evidence_of_both(
    local: Stored, scratch: Path, tmp_path: Path
) -> None:
    store = MemoryStore()
    begin = threading.Barrier(2)
    failures: list[BaseException] = []

    def work(attestation: Attestation) -> None:
        try:
            begin.wait(30)
            publish(store, local, [attestation], scratch=scratch)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(each,)) for each in (ON_QEMU, ON_AWS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    release = require_whole(store, local, tmp_path)
    assert {each.provider for each in release.evidence} == {"qemu", "aws"}


def test_what_a_collector_took_meanwhile_is_uploaded_again(
    local: Stored, scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had looked before we touched what was there, and we wait until it has ended."""
    store = MemoryStore()
    root = publish(store, local, scratch=scratch).release.parts["root"].stored
    assert root is not None
    store.delete(release_key(local.release.image, local.release.version))
    collecting = [True]

    def ends_now(_store: Store, _stop: Stop) -> bool:
        if collecting:
            store.delete(object_key(root.digest))
            collecting.pop()
            return True
        return False

    monkeypatch.setattr(uploads, "wait_for_collectors", ends_now)
    done = publish(store, local, scratch=scratch)
    assert done.uploaded == root.size
    require_whole(store, local, tmp_path)


def test_objects_that_vanish_again_and_again_end_in_an_error(local: Stored, scratch: Path) -> None:
    class Leaking(MemoryStore):
        def put(self, key: str, source: object, **_options: object) -> None:
            pass

    store = Leaking()
    with pytest.raises(BusyError, match="was uploaded just now") as caught:
        publish(store, local, scratch=scratch)
    assert "publish again" in caught.value.hint
    assert described(store, local) is None


# --- bad luck here and there ------------------------------------------------------------------


@pytest.mark.parametrize("role", ["root", "verity", "uki", "sbom", "disk"])
@pytest.mark.parametrize("damage", ["one bit", "cut", "longer", "gone"])
def test_a_damaged_local_file_is_named_and_nothing_is_published(
    local: Stored, scratch: Path, role: str, damage: str
) -> None:
    path = local.folder / local.release.parts[role].file
    data = path.read_bytes()
    spoilt = {
        "one bit": data[:-1] + bytes([data[-1] ^ 1]),
        "cut": data[: len(data) // 2],
        "longer": data + b"x",
    }
    path.unlink()
    if damage != "gone":
        path.write_bytes(spoilt[damage])
    store = FaultyStore(MemoryStore())
    with pytest.raises(BuildError) as caught:
        publish(store, local, scratch=scratch)
    assert str(path) in caught.value.message
    assert str(local.folder) in caught.value.hint
    assert store.writes == 0


def test_a_manifest_that_changed_since_it_was_read_is_named(local: Stored, scratch: Path) -> None:
    releases.save(local.folder, local.release.model_copy(update={"build_key": "another"}))
    with pytest.raises(BuildError) as caught:
        publish(MemoryStore(), local, scratch=scratch)
    assert str(manifest_path(local.folder, local.release.name)) in caught.value.message


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("full disk", DiskFullError),
        ("read-only", HostError),
        ("unreadable", HostError),
        ("5xx", NetworkError),
        ("timeout", NetworkError),
    ],
)
def test_a_bad_store_ends_it_clearly_and_the_next_time_goes_on(
    local: Stored, scratch: Path, tmp_path: Path, fault: str, error: type[Exception]
) -> None:
    inner = MemoryStore()
    store = FaultyStore(inner, fault)  # type: ignore[arg-type]
    with pytest.raises(error):
        publish(store, local, scratch=scratch)
    assert described(inner, local) is None
    publish(inner, local, scratch=scratch)
    require_whole(inner, local, tmp_path)


def test_the_first_failure_ends_the_other_uploads(local: Stored, scratch: Path) -> None:
    begun, ended = threading.Event(), threading.Event()

    class OneHangs(MemoryStore):
        """The root's upload goes on until it is stopped; once it has begun, others fail."""

        def put(self, key: str, source: object, **options: object) -> None:
            stop = options["stop"]
            assert isinstance(stop, Stop)
            if options["sha256"] == digest_of_root:
                begun.set()
                while not stop.wait(0.01):
                    pass
                ended.set()
                stop.check()
            assert begun.wait(30)
            raise NetworkError("the link is down")

    found = publish(MemoryStore(), local, scratch=scratch).release.parts["root"].stored
    assert found is not None
    digest_of_root = found.digest
    with pytest.raises(NetworkError, match="the link is down"):
        publish(OneHangs(), local, scratch=scratch)
    assert ended.is_set()


def test_a_stop_ends_it_and_is_nobody_elses_fault(local: Stored, scratch: Path) -> None:
    stop = Stop()

    def heard(progress: Progress) -> None:
        if progress.what == "uploading":
            stop.set()

    store = MemoryStore()
    with pytest.raises(Interrupted):
        publish(store, local, scratch=scratch, progress=heard, stop=stop, jobs=1)
    assert described(store, local) is None


def test_a_failure_here_sets_no_flag_of_others(local: Stored, scratch: Path) -> None:
    stop = Stop()
    with pytest.raises(NetworkError):
        publish(FaultyStore(MemoryStore(), "5xx"), local, scratch=scratch, stop=stop)
    assert not stop.is_set()
