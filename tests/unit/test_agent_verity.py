"""A machine's own hash tree: right for right bytes, wrong for all others, never half-believed."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import digest
from pipeline.agent import following, verity
from pipeline.agent.blocks import Part
from pipeline.agent.following import Follower
from pipeline.agent.verity import BLOCK, Recipe
from pipeline.command import Stop
from pipeline.disk.erofs import derived_uuid
from pipeline.disk.verity import tree_size
from pipeline.errors import DigestError, HostError, Interrupted
from tests.fakes.disk import FakeDisk, Medium


def make(blocks: int, seed: int = 0) -> tuple[Recipe, FakeDisk, Part, Part]:
    """Some data on a disk, and the room for its tree behind it."""
    data = random.Random(seed).randbytes(blocks * BLOCK)
    recipe = Recipe.of_content(len(data), digest.of_bytes(data))
    disk = FakeDisk(Medium(), len(data) + recipe.tree_size)
    disk.write(0, data)
    return recipe, disk, Part(disk, 0, len(data)), Part(disk, len(data), recipe.tree_size)


def test_the_uuid_in_a_tree_is_the_one_that_the_build_gives_it() -> None:
    content = digest.of_bytes(b"root")
    assert Recipe.of_content(BLOCK, content).uuid == derived_uuid("verity", content)


@given(st.integers(1, 1 << 32))
def test_a_tree_takes_the_room_that_the_build_leaves_for_it(blocks: int) -> None:
    recipe = Recipe(blocks * BLOCK, b"", derived_uuid())
    assert recipe.tree_size == tree_size(blocks * BLOCK)


@pytest.mark.parametrize("size", [0, 1, BLOCK + 1, -BLOCK])
def test_a_root_that_is_not_made_of_blocks_is_refused(size: int) -> None:
    with pytest.raises(DigestError, match="blocks"):
        Recipe.of_content(size, digest.of_bytes(b""))


@pytest.mark.parametrize("blocks", [1, 2, 128, 129, 300])
def test_any_changed_block_of_a_tree_is_noticed(blocks: int) -> None:
    recipe, _disk, data, tree = make(blocks)
    root_hash = verity.hash_data(recipe, data, tree.write)
    assert verity.check_tree(recipe, tree, root_hash)
    for at in range(0, recipe.tree_size, BLOCK):
        old = tree.read(at, BLOCK)
        tree.write(at, bytes([old[0] ^ 1]) + old[1:])
        # The root hash of one block is its own: its superblock alone is there to be wrong.
        assert not verity.check_tree(recipe, tree, root_hash)
        tree.write(at, old)
    assert verity.check_tree(recipe, tree, root_hash)


def test_a_partition_that_is_too_small_holds_no_tree() -> None:
    recipe, _disk, data, tree = make(130)
    root_hash = verity.hash_data(recipe, data, tree.write)
    assert not verity.check_tree(recipe, tree.first(recipe.tree_size - BLOCK), root_hash)


@settings(max_examples=20)
@given(st.integers(1, 300), st.randoms())
def test_one_wrong_bit_gives_another_root_hash(blocks: int, chance: random.Random) -> None:
    recipe, disk, data, tree = make(blocks, seed=3)
    right = verity.hash_data(recipe, data, tree.write)
    at = chance.randrange(blocks) * BLOCK
    block = bytearray(disk.read(at, BLOCK))
    block[chance.randrange(BLOCK)] ^= 1 << chance.randrange(8)
    disk.write(at, bytes(block))
    assert verity.hash_data(recipe, data, tree.write) != right


def test_reading_back_ends_when_it_is_asked_to() -> None:
    recipe, _disk, data, tree = make(2)
    stop = Stop()
    stop.set()
    with pytest.raises(Interrupted):
        verity.hash_data(recipe, data, tree.write, stop=stop)


class TestFollower:
    """Hashing behind a writer: the same root hash, or none."""

    @pytest.fixture(autouse=True)
    def small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(following, "_STRIDE", 4 * BLOCK)
        monkeypatch.setattr(following, "PIECE", BLOCK)

    @settings(max_examples=30)
    @given(blocks=st.integers(1, 200), skipped=st.sets(st.integers(0, 199)), late=st.booleans())
    def test_it_agrees_with_a_second_reading_or_says_nothing(
        self, blocks: int, skipped: set[int], late: bool
    ) -> None:
        recipe, disk, data, tree = make(blocks, seed=1)
        wanted = verity.hash_data(recipe, data, tree.write)
        content = disk.read(0, recipe.size)
        target = FakeDisk(Medium(), disk.size)
        for number in skipped & set(range(blocks)):  # is there already
            target.write(number * BLOCK, content[number * BLOCK :][:BLOCK])
        room = Part(target, recipe.size, recipe.tree_size)
        follower = Follower(recipe, Part(target, 0, recipe.size), room, stop=None, active=True)
        order = [number for number in range(blocks) if number not in skipped]
        if late:
            order.reverse()
        for number in order:
            follower.write(number * BLOCK, content[number * BLOCK :][:BLOCK])
        follower.sync()
        found = follower.finish()
        assert found in (wanted, None)
        if not late:
            assert found == wanted
            assert verity.check_tree(recipe, room, wanted)

    def test_a_write_to_what_was_hashed_makes_it_give_up(self) -> None:
        recipe, disk, data, tree = make(20)
        follower = Follower(recipe, data, tree, stop=None, active=True)
        follower.write(19 * BLOCK, disk.read(19 * BLOCK, BLOCK))
        while not follower._hashed:
            follower._thread.join(0.01)
        follower.write(0, bytes(BLOCK))
        assert follower.finish() is None

    def test_a_disk_that_cannot_be_read_is_left_to_the_second_reading(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        recipe, _disk, data, tree = make(20)
        follower = Follower(recipe, data, tree, stop=None, active=True)

        def fail(*_: object) -> bytes:
            raise HostError("the disk fails")

        monkeypatch.setattr(FakeDisk, "read", fail)
        follower.write(19 * BLOCK, bytes(BLOCK))
        assert follower.finish() is None

    def test_one_that_is_not_used_says_nothing_and_ends(self) -> None:
        recipe, _disk, data, tree = make(20)
        follower = Follower(recipe, data, tree, stop=None, active=False)
        follower.write(0, bytes(BLOCK))
        assert follower.finish() is None
        dropped = Follower(recipe, data, tree, stop=None, active=True)
        dropped.close()
        assert not dropped._thread.is_alive()
