"""Pages are given as sequences grow: each to one sequence, none ever moved, and all come back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtc.errors import TrtcError
from trtc.runtime.gpu.pages import NOBODYS, PAGE, PageTable


def ints(*numbers: int) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    return np.array(numbers, np.int32)


@pytest.mark.parametrize(("tokens", "pages"), [(0, 0), (1, 1), (63, 1), (64, 1), (65, 2), (130, 3), (192, 3)])
def test_a_sequence_has_the_pages_of_its_tokens(tokens: int, pages: int) -> None:
    table = PageTable(2, 4, 9)
    table.hold(ints(tokens))
    assert (table.array[0] != NOBODYS).tolist() == [n < pages for n in range(4)]
    assert not table.array[1].any(), "a row that no sequence has is nobody's"


@given(steps=st.lists(st.lists(st.integers(0, 90), min_size=3, max_size=3), min_size=1, max_size=8))
def test_pages_are_one_sequences_and_stay(steps: list[list[int]]) -> None:
    each = 12
    table, lengths = PageTable(4, each, 1 + 3 * each), np.zeros(3, np.int32)
    before = table.array.copy()
    for step in steps:
        lengths = np.minimum(lengths + np.array(step, np.int32), each * PAGE)
        table.hold(lengths)
        given = table.array[table.array != NOBODYS]
        assert len(set(given.tolist())) == len(given) == sum(-(-int(n) // PAGE) for n in lengths)
        assert given.min(initial=1) > NOBODYS and given.max(initial=1) < table.pages
        assert (table.array == before)[before != NOBODYS].all()
        before = table.array.copy()
    table.clear()
    assert not table.array.any()
    table.hold(ints(*[each * PAGE] * 3))   # all of them, once more


def test_a_pool_that_runs_out_is_one_sentence_and_nothing_is_given() -> None:
    table = PageTable(2, 8, 1 + 3)
    table.hold(ints(64, 64))
    before = table.array.copy()
    with pytest.raises(TrtcError) as caught:
        table.hold(ints(65, 65))
    assert str(caught.value) == (
        "error: the KV cache has 3 pages of 64 tokens, 1 of them free, but 2 more are needed\n"
        "  = help: --kv-cache-tokens N has more, and fewer sequences at a time need less"
    )
    assert (table.array == before).all()
    table.hold(ints(64, 65))   # which it has


def test_no_sequence_has_more_pages_than_its_row() -> None:
    table = PageTable(1, 2, 9)
    table.hold(ints(1000))
    assert (table.array > 0).all()
