"""Slots hold what kernels read: numbers of every type in their bytes, and addresses."""

from __future__ import annotations

import ctypes
from typing import Any

from trtc.expressions import evaluate
from trtc.runtime.cuda.slots import Slots

SIZES = {"B": 3, "S": 5}


def value(kind: str, name: str) -> int:
    return evaluate(name, SIZES) if kind == "size" else {"scratch": 1 << 40, "w": 5000, "": 7}[name or kind]


def test_arguments_are_read_where_the_pointers_point() -> None:
    slots = Slots()
    grid = slots.number("ceildiv(B*S, 4)")
    places = slots.arguments([
        {"at": "scratch", "offset": 256}, {"at": "weight", "name": "w"}, {"i32": "B - 5"}, {"i64": "S*1000000000"},
        {"f32": -1.5}, {"i32": 9},
    ])   # fmt: skip
    values = slots.fill(value)
    pointers = (ctypes.c_void_p * len(places)).from_address(values.pointers(places))
    kinds: list[Any] = [ctypes.c_int64, ctypes.c_int64, ctypes.c_int32, ctypes.c_int64, ctypes.c_float, ctypes.c_int32]
    read = [kind.from_address(pointer).value for kind, pointer in zip(kinds, pointers, strict=True)]
    assert read == [(1 << 40) + 256, 5000, -2, 5_000_000_000, -1.5, 9]
    assert values[grid] == 4
