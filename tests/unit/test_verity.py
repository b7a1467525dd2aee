"""How large a hash tree is, and that nothing of chance goes into its making."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.disk.erofs import BLOCK, derived_uuid
from pipeline.disk.verity import tree_size


def counted(blocks: int) -> int:
    """Blocks of a hash tree, counted level by level, and its superblock."""
    level, total = blocks, 1
    while level > 1:
        level = (level + 127) // 128
        total += level
    return total


@given(st.integers(1, 1 << 44))
def test_a_tree_has_a_block_for_each_128_of_the_level_below(size: int) -> None:
    assert tree_size(size) == counted((size + BLOCK - 1) // BLOCK) * BLOCK


@given(st.integers(1, 1 << 44), st.integers(0, 1 << 44))
def test_a_larger_root_never_needs_a_smaller_tree(size: int, more: int) -> None:
    assert tree_size(size) <= tree_size(size + more)


def test_sizes_at_the_edges_of_a_level() -> None:
    sizes = {
        blocks: tree_size(blocks * BLOCK) // BLOCK for blocks in (1, 2, 128, 129, 16384, 16385)
    }
    assert sizes == {1: 1, 2: 2, 128: 2, 129: 4, 16384: 130, 16385: 133}


def test_an_identity_is_a_function_of_its_words_and_of_where_they_end() -> None:
    assert derived_uuid("erofs", "edge") == derived_uuid("erofs", "edge")
    assert derived_uuid("ab", "c") != derived_uuid("a", "bc")
    assert derived_uuid("esp", "00").version == 5
