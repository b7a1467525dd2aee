"""What clearing up removes from a store, what it leaves, and what it notices."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from pipeline import digest
from pipeline.channels.gc import collect
from pipeline.channels.look import Proposed
from pipeline.errors import TrustError
from pipeline.store.base import object_key, release_key
from pipeline.store.local import LocalStore
from tests.fakes.collecting import RETENTION, WEEK, age, filled, keys, left, run
from tests.fakes.published import (
    bodies,
    keys_of,
    pointer,
    published,
    put_release,
    view,
)
from tests.fakes.store import FaultyStore, MemoryStore

# --- what goes


def test_what_no_channel_needs_goes_and_the_rest_stays() -> None:
    store = filled(*range(10))
    stable = pointer("stable", published(6), previous=published(5), history=[published(5)])
    found = run(store, stable, pointer("dev", published(9)))
    assert left(store) == keys(5, 6, 9)
    assert {each.kind for each in found.removed} == {"release", "object"}
    assert {each.key for each in found.removed} == keys(*range(10)) - keys(5, 6, 9)
    assert sum(found.kept.values()) == len(left(store))
    assert found.removed_bytes == sum(each.size for each in found.removed) > 0
    assert found.kept["release", "held by a channel"] == 2
    assert found.kept["release", "run by machines that a rollout has not reached"] == 1
    assert not found.notices


def test_an_object_that_two_releases_share_stays_with_either() -> None:
    store = filled(4, 5)
    run(store, pointer("stable", published(4)))
    assert left(store) == keys(4)
    assert object_key(next(iter(bodies(["root 2"])))) in left(store)


def test_a_dry_run_tells_the_same_and_removes_nothing() -> None:
    store = filled(*range(6))
    before = left(store)
    stable = pointer("stable", published(3))
    told = run(store, stable, dry_run=True)
    assert left(store) == before
    done = run(store, stable)
    assert {each.key for each in told.removed} == {each.key for each in done.removed}
    assert (told.kept, told.kept_bytes) == (done.kept, done.kept_bytes)


def test_the_second_time_nothing_is_left_to_do() -> None:
    store = filled(*range(4))
    run(store, pointer("stable", published(3)))
    assert run(store, pointer("stable", published(3))).removed == []


def test_a_description_goes_before_what_it_describes() -> None:
    store = FaultyStore(filled(1))
    run(store)
    gone = [key for operation, key in store.operations if operation == "delete"]
    kinds = [key.partition("/")[0] for key in gone]
    assert kinds == ["releases", *["objects"] * 6, "gc"]


def test_what_is_young_stays_as_long_as_the_grace_period() -> None:
    store = filled(1, 2)
    young = keys_of(published(1))
    age(store, young, by=-2 * WEEK + timedelta(days=6))
    run(store)
    assert left(store) == young
    age(store, young, by=timedelta(days=1, minutes=1))
    run(store)
    assert left(store) == set()


def test_a_half_uploaded_release_goes_when_it_is_old() -> None:
    store = filled(1)
    store.delete(release_key("edge-web", published(1).version))
    found = run(store)
    assert left(store) == set()
    assert {each.reason for each in found.removed} == {"nothing refers to it"}


def test_a_clock_of_the_stores_that_is_wrong_does_not_matter() -> None:
    for days in (-400, 400):
        store = filled(1, 2, skew=timedelta(days=days))
        put_release(store, 3)
        run(store, pointer("stable", published(1)))
        assert left(store) == keys(1, 3)


def test_what_the_metadata_name_stays() -> None:
    """A new root is announced as an object before it has a file of its own."""
    store = MemoryStore()
    for sha256, data in bodies(["root", "other"]).items():
        store.put(object_key(sha256), data, sha256=sha256)
    age(store)
    (root,) = bodies(["root"])
    found = collect(store, lambda: replace(view(), objects=frozenset({root})), RETENTION)
    assert left(store) == {object_key(root)}
    assert found.kept == {("object", "named by the signed metadata"): 1}


def test_old_snapshots_go_and_the_rest_of_the_metadata_is_history() -> None:
    store = MemoryStore()
    metadata = [f"metadata/{n}.{role}.json" for n in (1, 2, 3, 4)
                for role in ("root", "targets", "stable", "snapshot")]  # fmt: skip
    for key in (*metadata, "metadata/timestamp.json", "targets/stable/aa.edge-web.json"):
        store.create(key, b"{}")
    age(store)
    store.touch("metadata/2.snapshot.json")
    found = collect(store, lambda: view(snapshot=3), RETENTION)
    assert [each.key for each in found.removed] == ["metadata/1.snapshot.json"]
    assert "metadata/4.snapshot.json" in left(store), "somebody is about to publish it"


def propose(store: MemoryStore, name: str) -> str:
    """Something like a proposal, with one signature; return its id."""
    data = f"proposal {name}".encode()
    identity = digest.of_bytes(data)[:16]
    store.create(f"proposals/stable/{identity}/proposal.json", data)
    store.create(f"proposals/stable/{identity}/k1.sig.json", b"{}")
    return identity


def test_a_proposal_goes_when_it_is_stale_and_old() -> None:
    store = MemoryStore()
    pending, stale, fresh, _done = (propose(store, n) for n in ("pending", "stale", "fresh", "x"))
    store.create("proposals/root/orphan/k1.sig.json", b"{}")
    age(store)
    store.touch(f"proposals/stable/{fresh}/k1.sig.json")
    proposals = [
        Proposed("stable", pending, False),
        Proposed("stable", stale, True),
        Proposed("stable", fresh, True),
    ]
    found = collect(store, lambda: view(proposals=proposals), RETENTION)
    assert [each.key for each in found.removed] == [
        "proposals/root/orphan/k1.sig.json",
        f"proposals/stable/{stale}/k1.sig.json",
        f"proposals/stable/{stale}/proposal.json",
    ]
    assert {each.reason for each in found.removed} == {
        "signatures of no proposal",
        "what it would change has changed",
    }


def test_a_damaged_proposal_stops_everything() -> None:
    """It may be damaged on its way to us alone; what it would have a channel hold is needed."""
    store = filled(1)
    identity = propose(store, "pending")
    store.corrupt(f"proposals/stable/{identity}/proposal.json", b"proposal pendinh")
    with pytest.raises(TrustError, match="is not the proposal that its name says") as caught:
        run(store)
    assert f"recast proposals {identity} --withdraw" in caught.value.hint
    assert keys(1) < left(store)


def test_what_is_proposed_stays_until_the_proposal_is_stale() -> None:
    change = pointer("stable", published(2))
    for stale, stays in ((False, keys(2)), (True, set())):
        store = filled(1, 2)
        proposals = [Proposed("stable", "p", stale, (change,))]
        collect(store, lambda: view(proposals=proposals), RETENTION)  # noqa: B023
        assert left(store) == stays


def test_what_it_does_not_know_it_leaves_alone() -> None:
    store = filled()
    strange = ["objects/ab/short", "releases/readme", "notes/x", "releases/a/b/c.json"]
    for key in strange:
        store.create(key, b"x")
    age(store)
    assert run(store).removed == []
    assert left(store) == set(strange)


def test_what_cut_writers_left_goes_too_where_a_store_knows_of_it() -> None:
    class Tidied(MemoryStore):
        older = 0.0

        def tidy(self, *, older: float) -> int:
            self.older = older
            return 3

    store = Tidied()
    assert run(store).left_over == 3
    assert store.older == RETENTION.grace
    assert run(store, dry_run=True).left_over == 0


# --- what it notices


def test_what_a_channel_holds_and_is_not_whole_is_told() -> None:
    store = filled(1, 2)
    lost = object_key(next(iter(bodies(["uki 2"]))))
    store.delete(lost)
    found = run(store, pointer("stable", published(2)))
    assert found.notices == [
        f"edge-web@{published(2).version} stays, and is not whole: {lost} is missing"
    ]


@pytest.mark.parametrize("stays", ["young", "to go back to"])
def test_a_release_that_nobody_signed_and_is_not_whole_stops_everything(stays: str) -> None:
    store = filled(1, 2, 3)
    store.delete(object_key(next(iter(bodies(["uki 1"])))))
    history = [published(1)] if stays == "to go back to" else []
    if stays == "young":
        store.touch(release_key("edge-web", published(1).version))
    with pytest.raises(TrustError, match="is not whole") as caught:
        run(store, pointer("stable", published(2), history=history))
    assert f"recast publish edge-web@{published(1).version}" in caught.value.hint
    assert left(store) >= keys(2) | (keys(1) & set(store.snapshot()))


def test_a_way_back_that_is_gone_is_told() -> None:
    store = filled(2)
    found = run(store, pointer("stable", published(2), history=[published(1)]))
    assert found.notices == [
        f"stable could go back to edge-web@{published(1).version}, whose description is not in "
        "the store"
    ]


def test_a_lost_description_of_what_a_channel_holds_is_written_again() -> None:
    store = filled(1, 2)
    key = release_key("edge-web", published(2).version)
    before = store.get(key, limit=1 << 20)
    store.delete(key)
    assert run(store, pointer("stable", published(2)), dry_run=True).repaired == []
    found = run(store, pointer("stable", published(2)))
    assert found.repaired == [key]
    assert store.get(key, limit=1 << 20) == before


def test_a_release_that_is_not_whole_is_not_described_as_if_it_were() -> None:
    store = filled(2)
    store.delete(release_key("edge-web", published(2).version))
    store.delete(object_key(next(iter(bodies(["uki 2"])))))
    found = run(store, pointer("stable", published(2)))
    assert found.repaired == []
    assert found.notices


def test_a_channel_that_takes_up_a_release_at_the_last_moment_has_it_whole() -> None:
    """Between the two looks the description has gone; what is signed brings it back."""
    store = filled(1, 2)
    looks = iter([view(), view(pointer("stable", published(2)))])
    found = collect(store, lambda: next(looks), RETENTION)
    assert left(store) == keys(2)
    assert found.repaired == [release_key("edge-web", published(2).version)]


# --- on a disk


def test_a_folder_is_cleared_by_the_times_of_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    store = LocalStore(folder)
    for number in range(4):
        put_release(store, number)
    long_ago = time.time() - 2 * WEEK.total_seconds()
    for path in folder.rglob("*"):
        if path.is_file():
            os.utime(path, (long_ago, long_ago))
    store.touch(release_key("edge-web", published(3).version))
    cut = folder / ".tmp" / "left-by-a-killed-writer"
    cut.parent.mkdir(exist_ok=True)
    cut.write_bytes(b"half")
    os.utime(cut, (long_ago, long_ago))
    found = run(store, pointer("stable", published(1)))
    there = {info.key for info in store.list() if not info.key.startswith("gc/")}
    assert there == keys(1, 3)
    assert not cut.exists()
    assert not found.notices
    assert run(store, pointer("stable", published(1))).removed == []


def test_a_folder_that_many_write_to_at_once_keeps_what_they_need(tmp_path: Path) -> None:
    """Threads in place of turns: nothing here may hang or fail."""
    store = LocalStore(tmp_path / "store")
    for number in range(6):
        put_release(store, number)
    long_ago = time.time() - 2 * WEEK.total_seconds()
    for path in (tmp_path / "store").rglob("*"):
        if path.is_file():
            os.utime(path, (long_ago, long_ago))
    stable = pointer("stable", published(2))
    with ThreadPoolExecutor(4) as pool:
        jobs = [
            pool.submit(collect, LocalStore(tmp_path / "store"), lambda: view(stable), RETENTION)
            for _ in range(4)
        ]
        results = [job.result() for job in jobs]
    assert {info.key for info in store.list() if not info.key.startswith("gc/")} == keys(2)
    assert {each.key for result in results for each in result.removed} == keys(
        0, 1, 3, 4, 5
    ) - keys(2)
