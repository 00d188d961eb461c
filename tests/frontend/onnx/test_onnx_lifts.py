"""Each lifted node gives what ONNX Runtime gives, on values and, where shapes are made with it, on known elements."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from trtc.frontend.onnx.known import filled, known, uniform, value_of
from trtc.frontend.onnx.lift import FOLDS, LIFTS, Lifted, Node
from trtc.ir.graph import Graph
from trtc.ir.op import Value
from trtc.ir.ops import Add, Broadcast, Concat, Input, Iota, Reshape, Softmax
from trtc.ir.types import DTYPES, TensorType, f32, i32, i64

onnx: Any = import_module("onnx")
ort: Any = import_module("onnxruntime")
surgeon: Any = import_module("onnx_graphsurgeon")
Array = npt.NDArray[Any]
random = np.random.default_rng(7)


@dataclass(frozen=True)
class Case:
    """One node.

    Args:
        inputs: its arrays; None for one that is left out.
        known: the inputs that must be known when the model is imported.
    """

    kind: str
    inputs: tuple[Array | None, ...]
    attributes: dict[str, Any] = field(default_factory=dict[str, Any])
    known: tuple[int, ...] = ()
    outputs: int = 1
    opset: int = 17
    note: str = ""

    def __str__(self) -> str:
        return self.kind + (f"-{self.note}" if self.note else "")


def floats(*shape: int) -> Array:
    return random.normal(size=shape).astype(np.float32)


def ints(*numbers: int) -> Array:
    return np.array(numbers, np.int64)


def bools(*shape: int) -> Array:
    return random.integers(0, 2, shape).astype(bool)


def scalar(number: float, dtype: Any = np.int64) -> Array:
    return np.array(number, dtype)


UNARY = [Case(kind, (floats(2, 3),)) for kind in ("Neg", "Exp", "Tanh", "Sigmoid", "Erf", "Cos", "Sin", "Relu")]
BINARY = [Case(kind, (floats(2, 3, 1), floats(3, 4))) for kind in ("Add", "Sub", "Mul", "Div")]
COMPARE = [
    Case(kind, (ints(1, 2, 3), ints(3, 2, 1))) for kind in ("Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal")
]
REDUCE = [Case(kind, (floats(2, 3, 4),), {"axes": [-1]}) for kind in ("ReduceMean", "ReduceMax")]
CASES = [
    *UNARY, *BINARY, *COMPARE, *REDUCE,
    Case("Neg", (ints(1, -2),), note="integers"),
    Case("Sqrt", (np.abs(floats(4)),)), Case("Reciprocal", (floats(4),)),
    Case("Div", (scalar(1, np.float32), floats(4)), note="one over"),
    Case("Pow", (floats(3), scalar(2, np.float32)), known=(1,), note="2"),
    Case("Pow", (floats(3), scalar(3, np.float32)), known=(1,), note="3"),
    Case("Pow", (np.abs(floats(3)), scalar(0.5, np.float32)), known=(1,), note="root"),
    Case("Pow", (np.abs(floats(3)), scalar(-0.7, np.float32)), known=(1,)),
    Case("Max", (floats(3), floats(2, 3), floats(1))), Case("Min", (floats(3), floats(2, 3))),
    Case("Clip", (floats(4), scalar(-0.5, np.float32), scalar(0.5, np.float32))),
    Case("Clip", (floats(4), None, scalar(0.5, np.float32)), note="above"),
    Case("Equal", (bools(4), bools(4)), note="bools"), Case("Equal", (floats(3), floats(3)), note="floats"),
    Case("And", (bools(2, 4), bools(4))), Case("Or", (bools(2, 4), bools(4))), Case("Not", (bools(4),)),
    Case("Where", (bools(2, 1), floats(2, 3), floats(3))),
    Case("Where", (scalar(1, bool), floats(2, 3), floats(4, 1, 1)), known=(0,), note="decided"),
    Case("Cast", (floats(4) * 3,), {"to": 7}, note="to integers"),
    Case("Cast", (ints(0, 2, -1),), {"to": 9}, note="to bool"), Case("Cast", (bools(4),), {"to": 1}, note="to floats"),
    Case("Gelu", (floats(5),), opset=20), Case("Gelu", (floats(5),), {"approximate": "tanh"}, opset=20, note="tanh"),
    Case("Swish", (floats(5),), opset=24), Case("Swish", (floats(5),), {"alpha": 1.7}, opset=24, note="alpha"),
    Case("CastLike", (floats(5), bools(2))), Case("Dropout", (floats(5),)),
    Case("Reshape", (floats(2, 3, 4), ints(0, -1, 2)), known=(1,)),
    Case("Flatten", (floats(2, 3, 4),), {"axis": 2}), Case("Flatten", (floats(2, 3, 4),), {"axis": -1}, note="end"),
    Case("Unsqueeze", (floats(2, 3), ints(0, -1)), known=(1,)), Case("Squeeze", (floats(1, 3, 1), ints(2)), known=(1,)),
    Case("Squeeze", (floats(1, 3, 1),), note="all"), Case("Unsqueeze", (floats(2, 3),), {"axes": [1]}, opset=11),
    Case("Transpose", (floats(2, 3, 4),), {"perm": [1, 2, 0]}), Case("Transpose", (floats(2, 3),), note="plain"),
    Case("Expand", (floats(3, 1), ints(2, 1, 4)), known=(1,)), Case("Tile", (floats(2, 3), ints(2, 3)), known=(1,)),
    Case("Concat", (floats(2, 1), floats(2, 3)), {"axis": -1}),
    Case("Split", (floats(2, 6), ints(1, 2, 3)), {"axis": -1}, known=(1,), outputs=3),
    Case("Split", (floats(2, 6),), {"axis": 1}, outputs=3, note="alike"),
    Case("Slice", (floats(2, 6), ints(1), ints(5), ints(1)), known=(1, 2, 3)),
    Case("Slice", (floats(2, 6), ints(-4, 0), ints(1 << 62, 1), ints(-1, 0)), known=(1, 2, 3), note="from the end"),
    Case("Slice", (floats(2, 6),), {"starts": [1], "ends": [4], "axes": [1]}, opset=9, note="attributes"),
    Case("Gather", (floats(4, 3), ints(3, 0, 1))), Case("Gather", (floats(4, 3), ints(2, 0)), {"axis": 1}, note="1"),
    Case("Gather", (floats(4, 3, 2), scalar(-1)), {"axis": 1}, known=(1,), note="last"),
    Case("GatherND", (np.full((2, 3), 5.0, np.float32), np.array([[[0, 1], [1, 2]]])), known=(0,), note="same"),
    Case("ConstantOfShape", (ints(2, 3),), {"value": np.array([4], np.float32)}, known=(0,)),
    Case("Range", (scalar(2), scalar(9), scalar(1)), known=(0, 1, 2)),
    Case("Trilu", (floats(4, 5), scalar(1)), {"upper": 1}, known=(1,)),
    Case("Trilu", (floats(2, 4, 5), scalar(-1)), {"upper": 0}, known=(1,), note="lower"),
    Case("CumSum", (np.full((2, 4), 3, np.int64), scalar(1)), known=(0, 1)),
    Case("Identity", (floats(3),)), Case("Shape", (floats(2, 3, 4),), {"start": 1}), Case("Size", (floats(2, 3, 4),)),
    Case("MatMul", (floats(2, 3, 4), floats(4, 5))), Case("MatMul", (floats(2, 3, 4), floats(2, 4, 5)), note="batches"),
    Case("MatMul", (floats(2, 3, 4), floats(4, 5)), known=(1,), note="weight"),
    Case("Gemm", (floats(3, 4), floats(4, 5), floats(5)), known=(1, 2)),
    Case("Gemm", (floats(3, 4), floats(5, 4), floats(5)), {"transB": 1}, known=(1, 2), note="transposed weight"),
    Case("Gemm", (floats(4, 3), floats(4, 5), floats(3, 1)), {"transA": 1, "alpha": 0.5, "beta": 2.0}, note="scaled"),
    Case("Gemm", (floats(3, 4), floats(4, 5)), note="without c"),
    Case("ReduceSum", (floats(2, 3, 4), ints(0, -1)), {"keepdims": 0}, known=(1,)),
    Case("ReduceMean", (floats(2, 3),), {"keepdims": 0}, note="all"),
    Case("Softmax", (floats(2, 3, 4),), {"axis": 1}), Case("Softmax", (floats(2, 3),), opset=11, note="old"),
    Case("LayerNormalization", (floats(2, 8), floats(8), floats(8)), {"epsilon": 1e-3}),
    Case("LayerNormalization", (floats(2, 8), floats(8)), note="no bias"),
    Case("RMSNormalization", (floats(2, 8), floats(8)), {"axis": 1}, opset=23),
]   # fmt: skip
FOLDED = [
    *COMPARE, *(Case(kind, (ints(6, 8), ints(3))) for kind in ("Add", "Sub", "Mul", "Div")),
    Case("Sqrt", (scalar(16, np.float32),)), Case("Neg", (ints(3),)),
    Case("Cast", (scalar(2.5, np.float32),), {"to": 7}),
    Case("Where", (np.array([True, False]), ints(1, 2), ints(3, 4))), Case("Range", (scalar(1), scalar(9), scalar(3))),
    Case("ConstantOfShape", (ints(3),), {"value": ints(1)}), Case("Reshape", (ints(1, 2, 3, 4), ints(2, -1))),
    Case("Unsqueeze", (scalar(3), ints(0))), Case("Squeeze", (ints(3), ints(0))),
    Case("Concat", (ints(1), ints(2, 3)), {"axis": 0}),
    Case("Gather", (ints(5, 6, 7), scalar(-1))), Case("Slice", (ints(5, 6, 7), ints(-1), ints(-9), ints(0), ints(-1))),
    Case("Slice", (ints(5, 6, 7), ints(1), ints(1 << 62), ints(0))), Case("Expand", (ints(2), ints(3))),
    Case("Transpose", (np.array([[1, 2], [3, 4]]),)), Case("Flatten", (np.array([[1, 2], [3, 4]]),), {"axis": 0}),
    Case("ReduceProd", (ints(2, 3, 4),), {"keepdims": 0}), Case("Min", (ints(2, 5), ints(3))), Case("Not", (bools(3),)),
    Case("Pow", (scalar(16, np.float32), scalar(0.5, np.float32))), Case("Mod", (ints(7, 8), ints(3))),
]   # fmt: skip


def runtime(case: Case) -> list[Array]:
    """What ONNX Runtime makes of the node."""
    names = [f"i{n}" if array is not None else "" for n, array in enumerate(case.inputs)]
    outputs = [f"o{n}" for n in range(case.outputs)]
    attributes = {
        k: onnx.numpy_helper.from_array(v) if isinstance(v, np.ndarray) else v for k, v in case.attributes.items()
    }
    node = onnx.helper.make_node(case.kind, names, outputs, **attributes)
    given = {name: array for name, array in zip(names, case.inputs, strict=True) if array is not None}
    inputs = [
        onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for name, a in given.items()
    ]
    body = onnx.helper.make_graph([node], "one", inputs, [onnx.ValueInfoProto(name=name) for name in outputs])
    model = onnx.helper.make_model(body, opset_imports=[onnx.helper.make_opsetid("", case.opset)], ir_version=9)
    if case.opset > 21:   # newer than the oldest ONNX Runtime of the tests may take
        return list(import_module("onnx.reference").ReferenceEvaluator(model).run(None, given))
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(outputs, given))


def enter(lifted: Lifted) -> Value:
    return lifted if isinstance(lifted, Value) else value_of(lifted, {})


def node_of(case: Case, inputs: list[Lifted | None]) -> Node:
    attributes = {
        k: surgeon.Constant(k, v) if isinstance(v, np.ndarray) else v for k, v in case.attributes.items()
    }
    return Node(case.kind, inputs, attributes, case.outputs, case.opset, enter)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_lifts_give_what_onnx_runtime_gives(case: Case) -> None:
    inputs: list[Lifted | None] = []
    feeds: dict[str, Array] = {}
    for n, array in enumerate(case.inputs):
        if array is None or n in case.known:
            inputs.append(None if array is None else known(array))
            continue
        dtype = next(d for d in DTYPES.values() if d.numpy == array.dtype)
        dtype, array = (i32, array.astype(np.int32)) if dtype == i64 else (dtype, array)
        inputs.append(Input(f"i{n}", TensorType(dtype, array.shape)))
        feeds[f"i{n}"] = array
    made = LIFTS[case.kind](node_of(case, inputs))
    results = {f"o{n}": enter(r) for n, r in enumerate(made if isinstance(made, tuple) else (made,))}
    graph = Graph("one", tuple(i for i in inputs if isinstance(i, Input)), results, {})
    graph.verify()
    for got, want in zip(graph.evaluate(feeds).values(), runtime(case), strict=True):
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)   # f32, sums of up to 24 numbers


@pytest.mark.parametrize("case", FOLDED, ids=str)
def test_folds_give_what_onnx_runtime_gives(case: Case) -> None:
    arrays = [known(array) for array in case.inputs if array is not None]
    (want,) = runtime(case)
    got = known(FOLDS[case.kind](node_of(case, list(arrays)), *arrays))
    assert got.shape == want.shape
    np.testing.assert_allclose(got.astype(want.dtype), want, rtol=1e-6)


def test_a_scatter_of_every_element_is_its_updates() -> None:
    """As masked_fill of a whole slice is exported: indices are made of counts along each axis."""
    x, updates = Input("x", f32["B", 1, "S"]), Input("updates", f32["B", 1, "S"])
    counts = [Reshape(Iota(x.shape[0]), (x.shape[0], 1, 1)), filled(0, i32, (1, 1, 1)), Iota(x.shape[2])]
    whole = [Reshape(Broadcast(c, x.shape), (*x.shape, 1)) for c in counts]
    lift = LIFTS["ScatterND"]
    assert lift(Node("ScatterND", [x, Concat(tuple(whole), 3), updates], {}, 1, 17, enter)) is updates
    for wrong in (whole[::-1], [whole[0], whole[1], whole[1]], [Add(w, w) for w in whole]):
        with pytest.raises(ValueError, match="writes to a part of its input, or to elements in another order"):
            lift(Node("ScatterND", [x, Concat(tuple(wrong), 3), updates], {}, 1, 17, enter))


def test_a_softmax_has_no_nan() -> None:
    x = Input("x", f32["B", 4])
    made = LIFTS["IsNaN"](Node("IsNaN", [Softmax(x, 1)], {}, 1, 17, enter))
    assert isinstance(made, Value) and uniform(made) == 0 and made.shape == x.shape
    with pytest.raises(ValueError, match="its input is no softmax"):
        LIFTS["IsNaN"](Node("IsNaN", [x], {}, 1, 17, enter))


def test_every_lift_and_fold_is_tested() -> None:
    tested = {case.kind for case in CASES}
    assert set(LIFTS) == tested | {"IsNaN", "ScatterND"}   # what the models of test_onnx_models.py and of below have
    named = {"Reciprocal", "Floor", "Ceil", "Abs", "Exp", "Log", "And", "Or", "Max", "Cos", "Sin"}   # as in NumPy
    assert set(FOLDS) == {case.kind for case in FOLDED} | named | {"Identity", "Dropout"}


