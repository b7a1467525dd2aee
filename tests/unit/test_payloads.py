"""Deltas and chunks: made from what machines run, once, and left out where they do not pay."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from pipeline import digest, releases
from pipeline.channels.bases import find_bases
from pipeline.channels.publish import Published, publish
from pipeline.errors import NetworkError
from pipeline.models.channel import ChannelDefinition, Channels
from pipeline.models.pointer import PublishedRelease
from pipeline.models.release import Part
from pipeline.releases import Stored
from pipeline.store.base import object_key, release_key
from pipeline.transfer.costs import chunk_cost, costs
from pipeline.transfer.source import StoreSource
from tests.fakes.places import Place
from tests.fakes.store import FaultyStore, MemoryStore
from tests.fakes.stored import MOMENT, store_whole
from tests.fakes.world import World

MIB = 1 << 20


@pytest.fixture
def artifacts(tmp_path: Path) -> Path:
    return tmp_path / "artifacts"


def make(artifacts: Path, number: int, root: bytes) -> Stored:
    """The *number*th release, with this root."""
    made = store_whole(
        artifacts,
        commit=f"{number:040x}",
        moment=MOMENT - timedelta(days=1) + timedelta(hours=number),
        size=2 * MIB,
    )
    old = made.release.parts["root"]
    (made.folder / old.file).write_bytes(root)
    (made.folder / made.release.parts["disk"].file).unlink()
    parts = {role: part for role, part in made.release.parts.items() if role != "disk"}
    parts["root"] = Part(file=old.file, digest=digest.of_bytes(root), size=len(root))
    update = {"parts": parts, "root_hash": digest.of_data([number, digest.of_bytes(root)])}
    releases.save(made.folder, made.release.model_copy(update=update))
    found = releases.Releases(artifacts).find(made.release.image, made.release.version)
    assert found is not None
    return found


def roots(count: int) -> list[bytes]:
    """Roots of which each differs from the one before in a few blocks, at another place."""
    chance = random.Random(5)
    data = bytearray(chance.randbytes(3 * MIB))
    found = []
    for number in range(count):
        data[number * 200_000 : number * 200_000 + 9000] = chance.randbytes(9000)
        found.append(bytes(data))
    return found


def put(
    store: MemoryStore | FaultyStore,
    made: Stored,
    scratch: Path,
    bases: Sequence[PublishedRelease] = (),
    local: releases.Releases | None = None,
) -> Published:
    return publish(store, made, bases=bases, local=local, scratch=scratch)


def test_a_machine_that_runs_a_base_gets_what_is_new_alone(artifacts: Path, tmp_path: Path) -> None:
    store = MemoryStore()
    first, second = (make(artifacts, number, root) for number, root in enumerate(roots(2)))
    base = put(store, first, tmp_path).release
    done = put(store, second, tmp_path, [base]).release
    part = done.parts["root"]
    assert [(each.base, each.version) for each in part.deltas] == [(base.root_hash, base.version)]
    seed = Place((first.folder / first.release.parts["root"].file).read_bytes())
    seed.name = base.root_hash
    target = Place(b"", part.size)
    filled = StoreSource(store).fill(done, "root", target, [seed])
    assert filled.how.startswith(f"delta from {base.version}")
    assert digest.of_bytes(bytes(target.data)) == part.digest
    told = costs(store, done, base)["root"][0]
    assert (told.way, told.size) == ("delta", filled.downloaded)
    assert 9000 < filled.downloaded < 12_000


def test_costs_of_chunks_are_what_a_machine_downloads(artifacts: Path, tmp_path: Path) -> None:
    store = MemoryStore()
    first, second, third = (make(artifacts, number, root) for number, root in enumerate(roots(3)))
    oldest = put(store, first, tmp_path).release
    base = put(store, second, tmp_path, [oldest]).release
    done = put(store, third, tmp_path, [base, oldest]).release
    for old, made in ((base, second), (oldest, first)):
        seed = Place((made.folder / made.release.parts["root"].file).read_bytes())
        target = Place(b"", done.parts["root"].size)
        filled = StoreSource(store).fill(done, "root", target, [seed])
        assert filled.how.startswith("chunks")
        told = chunk_cost(store, done.parts["root"], old.parts["root"])
        assert told is not None
        # Ranges that lie near each other are one.
        assert told <= filled.downloaded <= told + 32_000


def test_publishing_again_adds_what_machines_have_come_to_run(
    artifacts: Path, tmp_path: Path
) -> None:
    store = MemoryStore()
    made = [make(artifacts, number, root) for number, root in enumerate(roots(3))]
    base, other = (put(store, each, tmp_path).release for each in made[:2])
    first = put(store, made[2], tmp_path, [base])
    again = put(store, made[2], tmp_path, [other, base])
    deltas = again.release.parts["root"].deltas
    assert {each.base for each in deltas} == {base.root_hash, other.root_hash}
    assert again.release.parts["root"].chunks == first.release.parts["root"].chunks
    known = {each.base for each in first.release.parts["root"].deltas}
    new = next(each for each in deltas if each.base not in known)
    assert again.uploaded >= new.size
    once_more = put(store, made[2], tmp_path, [other, base])
    assert (once_more.uploaded, once_more.changed) == (0, False)


def test_a_delta_that_does_not_pay_is_left_out(artifacts: Path, tmp_path: Path) -> None:
    store = MemoryStore()
    chance = random.Random(1)
    first, second = (make(artifacts, n, chance.randbytes(3 * MIB)) for n in range(2))
    base = put(store, first, tmp_path).release
    done = put(store, second, tmp_path, [base]).release
    assert done.parts["root"].deltas == ()
    assert done.parts["root"].chunks is not None


def test_a_base_that_is_damaged_or_gone_costs_its_delta_alone(
    artifacts: Path, tmp_path: Path
) -> None:
    store = MemoryStore()
    made = [make(artifacts, number, root) for number, root in enumerate(roots(3))]
    one, two = (put(store, each, tmp_path).release for each in made[:2])
    stored = one.parts["root"].stored
    assert stored is not None
    store.delete(object_key(stored.digest))
    done = put(store, made[2], tmp_path, [two, one]).release
    assert [each.base for each in done.parts["root"].deltas] == [two.root_hash]
    local = releases.Releases(artifacts)
    again = put(store, made[2], tmp_path, [two, one], local).release
    assert len(again.parts["root"].deltas) == 2, "this machine has it"


def test_a_store_that_fails_while_bases_are_read_says_so(artifacts: Path, tmp_path: Path) -> None:
    inner = MemoryStore()
    first, second = (make(artifacts, number, root) for number, root in enumerate(roots(2)))
    base = put(inner, first, tmp_path).release
    failing = FaultyStore(inner, "timeout", only=["stream"])
    with pytest.raises(NetworkError):
        put(failing, second, tmp_path, [base])
    key = release_key(second.release.image, second.release.version)
    assert key not in inner.snapshot()


# --- from which releases --------------------------------------------------------------------------


def test_bases_are_what_channels_hold_and_the_last_that_they_held(tmp_path: Path) -> None:
    channels = Channels(
        channels=(ChannelDefinition(name="dev", deltas=1), ChannelDefinition(name="stable"))
    )
    world = World(tmp_path / "world", channels=channels)
    made = [world.publish() for _ in range(6)]
    world.hold("dev", *made[1:5])
    world.hold("stable", made[0])
    newest = world.desk.published.manifest(made[5])
    found = [each.version for each in find_bases(world.desk, newest)]
    assert found == [made[number].version for number in (4, 3, 0)]
    held = world.desk.published.manifest(made[4])
    assert made[4].version not in [each.version for each in find_bases(world.desk, held)]


def test_a_release_with_another_root_and_the_same_kernel_is_a_base(tmp_path: Path) -> None:
    world = World(tmp_path / "world")
    one, other = world.publish(), world.publish()
    assert one.boot_digest == other.boot_digest
    assert one.root_hash != other.root_hash
    world.hold("dev", one)
    manifest = world.desk.published.manifest(other)
    assert [each.version for each in find_bases(world.desk, manifest)] == [one.version]
