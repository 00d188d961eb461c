"""Stop strings: the pieces that text comes in make no difference."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trtc.runtime.stopping import StopStrings

TEXT = st.text("ab", max_size=12)


def expected(text: str, stops: list[str]) -> tuple[str, bool]:
    """Read character by character: the first end of a stop string counts, with the longest one that ends there."""
    for end in range(len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            return text[: end - max(map(len, ending))], True
    return text, False


@given(pieces=st.lists(TEXT, max_size=8), stops=st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_text_is_cut_before_the_stop_string_that_is_complete_first(pieces: list[str], stops: list[str]) -> None:
    filtered, text, found = StopStrings(stops), "", False
    for piece in pieces:
        shown, found = filtered.push(piece)
        text += shown
        if found:
            break
    assert (text + filtered.flush(), found) == expected("".join(pieces), stops)


@given(pieces=st.lists(TEXT, max_size=8), stop=st.text("ab", min_size=1, max_size=4))
def test_no_more_is_held_back_than_could_begin_a_stop_string(pieces: list[str], stop: str) -> None:
    filtered, text, shown = StopStrings([stop]), "", ""
    for piece in pieces:
        text += piece
        more, found = filtered.push(piece)
        shown += more
        if found:
            return
        held = text[len(shown) :]
        assert stop.startswith(held) and len(held) < len(stop)
        assert not any(stop.startswith(text[at:]) for at in range(len(shown))), "held back too little"
