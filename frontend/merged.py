"""Entries of name maps for weights that are a part of a tensor, or lie transposed."""

from __future__ import annotations

from collections.abc import Callable

from trtc.frontend.weights import Wanted
from trtc.ir.op import Value
from trtc.ir.ops import Reshape, Slice, Transpose

PARTS = ("q", "k", "v")
Rows = Callable[[Wanted, int], Value]
"""The tensor that the rows are of, with so many rows."""


def stored(key: str) -> Rows:
    """As linear layers keep it: [rows, columns], and a bias of so many rows."""
    return lambda wanted, rows: wanted.fetch(f"{key}.{wanted.kind}", rows, *wanted.shape[1:])


def turned(key: str) -> Rows:
    """As GPT-2's Conv1D keeps it: [columns, rows]."""

    def whole(wanted: Wanted, rows: int) -> Value:
        if wanted.kind == "bias":
            return wanted.fetch(f"{key}.bias", rows)
        return Transpose(wanted.fetch(f"{key}.weight", *wanted.shape[1:], rows), (1, 0))

    return whole


def all_of(rows: Rows) -> Callable[[Wanted], Value]:
    """All rows: ``all_of(turned("transformer.h.{n}.mlp.c_fc"))``."""
    return lambda wanted: rows(wanted, wanted.shape[0])


def part_of(rows: Rows, index: int, count: int) -> Callable[[Wanted], Value]:
    """One of several equal parts, one after the other: the gate and up products in one tensor, say."""
    return lambda wanted: Slice(rows(wanted, wanted.shape[0] * count), 0, index * wanted.shape[0], wanted.shape[0])


def qkv_part(rows: Rows, part: str, *, grouped: bool = False) -> Callable[[Wanted], Value]:
    """The rows of q, k or v in one tensor of all three.

    Args:
        grouped: each key head's rows lie together, [kv_heads, (heads of its queries + 2) * D]: those of its queries,
            then its own, then its values'. Otherwise all rows of q, then all of k, then all of v.
    """

    def entry(wanted: Wanted) -> Value:
        config = wanted.config
        heads, groups, size = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        whole = rows(wanted, (heads + 2 * groups) * size)
        sizes = {"q": heads * size, "k": groups * size, "v": groups * size}
        start = sum(sizes[p] for p in PARTS[: PARTS.index(part)])
        if not grouped:
            return Slice(whole, 0, start, sizes[part])
        rest = wanted.shape[1:]
        by_group = Reshape(whole, (groups, (heads // groups + 2) * size, *rest))
        return Reshape(Slice(by_group, 1, start // groups, sizes[part] // groups), (sizes[part], *rest))

    return entry


def qkv_parts(layer: str, rows: Rows, *, grouped: bool = False) -> dict[str, Callable[[Wanted], Value]]:
    """The entries of q, k and v under a layer's role: ``qkv_parts("transformer.layers.{n}", stored(...))``."""
    return {f"{layer}.attention.{part}": qkv_part(rows, part, grouped=grouped) for part in PARTS}
