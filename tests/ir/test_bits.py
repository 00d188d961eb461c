"""Unpack and bitcast: what Python's integers and PyTorch make of the same bytes."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtc.backend.targets import target
from trtc.errors import TrtcError
from trtc.ir.graph import Graph
from trtc.ir.materialize import materialize
from trtc.ir.op import Op
from trtc.ir.ops import Bitcast, Constant, Gather, Input, Unpack, Weight
from trtc.ir.types import DType, TensorType, bf16, f8e4m3, f16, f32, i8, i32, i64, u8
from trtc.passes import Pipeline

torch: Any = import_module("torch")


def stored(of: TensorType, seed: int = 0) -> Any:
    random = np.random.default_rng(seed)
    return np.frombuffer(random.bytes(of.nbytes()), of.dtype.numpy).reshape([s for s in of.shape if isinstance(s, int)])


def test_the_examples_of_the_docstrings() -> None:
    unpacked = materialize(Unpack(Constant((0x76543210,), i32[1,]), 4), {})
    np.testing.assert_array_equal(unpacked, np.arange(8, dtype=np.uint8), strict=True)
    halves = materialize(Bitcast(Constant((0, 60, 0, 64), u8[4,]), f16), {})
    np.testing.assert_array_equal(halves, np.array([1, 2], np.float16), strict=True)


@given(st.integers(1, 8), st.sampled_from((u8, i8, i32, i64)), st.booleans(), st.integers(0, 1000))
def test_unpack_as_pythons_integers_do(bits: int, dtype: DType, signed: bool, seed: int) -> None:
    of = dtype[2, 3, bits]
    array = stored(of, seed)
    got = materialize(Unpack(Weight("w", of), bits, signed=signed), {"w": array})
    count = dtype.bits
    assert got.dtype == (np.int8 if signed else np.uint8) and got.shape == (2, 3, count)
    for place in np.ndindex(2, 3):
        whole = int.from_bytes(array[place].tobytes(), "little")
        want = [whole >> (bits * n) & ((1 << bits) - 1) for n in range(count)]
        want = [n - (1 << bits) if signed and n >> (bits - 1) else n for n in want]
        assert got[place].tolist() == want


@pytest.mark.parametrize(("of", "to", "theirs"), [
    (u8[3, 24], f16, torch.float16), (u8[3, 24], bf16, torch.bfloat16), (u8[3, 24], i8, torch.int8),
    (i32[2, 3], u8, torch.uint8), (i32[2, 4], i64, torch.int64), (f32[5,], i32, torch.int32),
    (u8[4,], f8e4m3, torch.float8_e4m3fn),
])   # fmt: skip
def test_bitcast_as_pytorch_does(of: TensorType, to: DType, theirs: Any) -> None:
    array = stored(of)
    got = materialize(Bitcast(Weight("w", of), to), {"w": array})
    want = torch.from_numpy(array.copy()).view(theirs)
    assert got.shape == tuple(want.shape) and got.dtype == to.numpy
    assert got.tobytes() == want.contiguous().view(torch.uint8).numpy().tobytes()


def test_of_parts_that_do_not_lie_together() -> None:
    array = stored(u8[4, 6])[:, 2:4]
    np.testing.assert_array_equal(Bitcast(Weight("w", u8[4, 2]), f16).evaluate(array), array.copy().view(np.float16))
    whole = Unpack(Weight("w", u8[4, 2]), 4)
    np.testing.assert_array_equal(whole.evaluate(array), whole.evaluate(array.copy()))


X = Input("x", u8["B", 4])


@pytest.mark.parametrize("op", [Unpack(X, 4), Bitcast(X, f16)])
def test_no_engine_computes_them(op: Op) -> None:
    graph = Graph("g", (X,), {"y": op}, {"B": (1, 2)})
    to = target("onnx:1.24")
    with pytest.raises(TrtcError) as error:
        Pipeline.parse(f"legalize{{target={to}}}").run(graph)
    assert str(error.value) == (
        f"error: onnx:1.24 cannot express {op.name} at ?: onnx:1.24 has no {op.name}\n  = x : u8[B, 4]\n"
        "  = in pass 1 of 1, `legalize{target=onnx:1.24}`"
    )


def test_looking_up_what_is_not_there() -> None:
    looked = Gather(Constant((1.0, 2.0), f32[2,]), Weight("w", i32[2,]))
    with pytest.raises(TrtcError) as error:
        materialize(looked, {"w": np.array([0, 2], np.int32)})
    assert str(error.value) == "error: gather: an index is 2, but must be in 0..1"
