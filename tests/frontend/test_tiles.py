"""Any tiles make up a box, or are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
from fuzz import cases
from hypothesis import given, settings
from hypothesis import strategies as st

from trtc.frontend.sources.tiles import Cut, Joint, Tile, Tiles, plan


@settings(max_examples=cases(500), deadline=None)
@given(st.lists(st.tuples(*(st.integers(0, 4) for _ in range(4))), max_size=6))
def test_any_tiles_make_up_a_box_or_are_refused(boxes: list[tuple[int, int, int, int]]) -> None:
    tiles = tuple(Tile(str(n), (a, b), (h, w)) for n, (a, b, h, w) in enumerate(boxes))

    def made(part: Joint | Cut) -> Any:
        if isinstance(part, Joint):
            return np.concatenate([made(inner) for inner in part.parts], part.axis)
        start = [a + b for a, b in zip(part.tile.start, part.start, strict=True)]
        return whole[tuple(slice(a, a + n) for a, n in zip(start, part.sizes, strict=True))]

    whole = np.arange(64).reshape(8, 8)
    try:
        parts = plan(Tiles((8, 8), tiles).near((1, 1), (3, 4)), (1, 1), (3, 4))
    except ValueError:
        return
    np.testing.assert_array_equal(made(parts), whole[1:3, 1:4])
