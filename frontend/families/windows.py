"""Sliding windows: how many keys the tokens of each layer see."""

from __future__ import annotations

from collections.abc import Callable

from trtc.frontend.config import Keys

KINDS = ("full_attention", "sliding_attention")


def read_windows(keys: Keys, layers: int, slides: Callable[[int], bool], *, used: bool = True) -> tuple[int, ...]:
    """The window of each layer, 0 for none: ``sliding_window`` where ``layer_types`` has it; () where no layer has one.

    Args:
        slides: whether a layer has a window, where there is no ``layer_types``.
        used: what ``use_sliding_window`` says, in families that have it.
    """
    kinds = keys.words("layer_types", KINDS, layers)
    if kinds is None and (not used or keys.values.get("sliding_window") is None):
        return ()
    sliding = [kind == "sliding_attention" for kind in kinds] if kinds else [slides(n) for n in range(layers)]
    if not any(sliding):
        return ()
    if not used:
        raise keys.wrong("use_sliding_window", False, "true, as layer_types has sliding_attention")
    if keys.values.get("sliding_window") is None:
        raise keys.wrong("sliding_window", None, "a whole number, as layer_types has sliding_attention")
    window = keys.positive("sliding_window")
    return tuple(window if slid else 0 for slid in sliding)
