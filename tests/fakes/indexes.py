"""What holds of an index that was read, whatever bytes it was read from."""

from __future__ import annotations

from pipeline.transfer.chunks import FRAME_BLOCKS, Frame, Place
from pipeline.transfer.deltas import BLOCK, MOST_PREFIX, OLD, PATCHED, UNIT, Recipe
from pipeline.transfer.packed import bound


def delta_within(recipes: tuple[Recipe, ...], old: int, new: int, stored: int) -> None:
    """Nothing leads outside, and nothing needs more memory than a segment and its pieces."""
    start = at = 0
    for recipe in recipes:
        assert recipe.start == start
        assert recipe.stored <= bound(recipe.size)
        assert sum(count for _, _, count in recipe.places()) == recipe.size
        assert len(recipe.runs) <= -(-recipe.size // BLOCK)
        for each, _, count in recipe.places():
            assert count > 0
            if each.kind in (OLD, PATCHED):
                first = each.source * (BLOCK if each.kind == OLD else 1)
                assert 0 <= first <= first + count <= old
        for piece in recipe.pieces:
            end = (piece.unit + piece.units) * UNIT
            assert 0 <= piece.unit * UNIT < end <= (at if piece.new else old)
        assert sum(piece.units for piece in recipe.pieces) * UNIT <= MOST_PREFIX
        start += recipe.stored
        at += recipe.size
    assert (start, at) == (stored, new)


def chunks_within(
    places: tuple[Place, ...], frames: tuple[Frame, ...], size: int, stored: int
) -> None:
    """Nothing leads outside, and all of the file is covered."""
    start = 0
    for frame in frames:
        assert frame.start == start
        assert 0 < frame.blocks <= FRAME_BLOCKS
        assert frame.stored <= bound(frame.blocks * BLOCK)
        start += frame.stored
    assert start == stored
    block = 0
    for place in places:
        assert place.chunk.block == block
        assert place.chunk.blocks > 0
        block += place.chunk.blocks
        if place.frame >= 0:
            assert 0 <= place.at <= place.at + place.chunk.blocks <= frames[place.frame].blocks
    assert block == -(-size // BLOCK)
