"""What watches a pipeline: prints, files, and the check of meaning."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest

from trtc.ir.errors import PassError
from trtc.ir.graph import Graph
from trtc.ir.op import Value
from trtc.ir.ops import Add, Cast, Input, KVCacheUpdate, Mul, Neg, ReLU, Reshape, Weight, scalar
from trtc.ir.text import parse
from trtc.ir.types import Dim, DType, TensorType, bf16, f16, f32, i32
from trtc.passes import Pipeline
from trtc.passes.base import Pass
from trtc.passes.observe import Check, DumpTo, PrintAfterAll, computed_in, difference
from trtc.passes.pipeline import Step

X = Input("x", f32["B", 4])
BOUNDS = {"B": (1, 4)}


def graph(value: Value, *inputs: Input) -> Graph:
    return Graph("g", inputs or (X,), {"y": value}, BOUNDS)


class Renamed(Pass):
    """A pass of a given result, for tests."""

    name = "renamed"
    to: Graph | None = None

    def run(self, graph: Graph) -> Graph:
        return self.to or graph


def step(before: Graph, after: Graph, number: int = 1) -> Step:
    return Step(number, Renamed(after), before, after, 0.0)


def test_print_after_all() -> None:
    stream = io.StringIO()
    Pipeline.parse("canonicalize,cse").run(graph(Neg(Neg(Add(ReLU(X), ReLU(X))))), PrintAfterAll(stream))
    one, two = re.split(r"(?m)^(?=// \d)", stream.getvalue())[1:]
    assert one.startswith("// 1: after canonicalize\ntrtc ir 1\ngraph @g(") and two.startswith("// 2: after cse\n")
    assert parse(one) == graph(Add(ReLU(X), ReLU(X)))
    assert parse(two) == graph(Add(r := ReLU(X), r))


def test_dump(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "ir"
    before = graph(Neg(Neg(Add(ReLU(X), ReLU(X)))))
    after = Pipeline.parse("canonicalize,merge-projections{max-width=4},cse").run(before, DumpTo(folder))
    names = ["00-import.trtc", "01-canonicalize.trtc", "02-merge-projections.trtc", "03-cse.trtc"]
    assert sorted(f.name for f in folder.iterdir()) == names
    assert parse((folder / names[0]).read_text()) == before and parse((folder / names[3]).read_text()) == after


def test_a_dump_that_fails_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space left"):
        DumpTo(tmp_path)(step(graph(Neg(X)), graph(Neg(X))))
    assert list(tmp_path.iterdir()) == []


def test_check_accepts_what_means_the_same() -> None:
    Check()(step(graph(Add(X, X)), graph(Mul(X, scalar(2, f32)))))


def test_check_names_pass_output_and_place() -> None:
    with pytest.raises(PassError) as caught:
        Check(seed=5)(step(graph(X2 := Add(X, X)), graph(Add(X2, Constantly()))))
    assert re.fullmatch(
        r"error: renamed: output y differs by 1, but must differ by 0\.000\d+ at most\n"
        r"  = at \[\d, \d\]: -?\d[\d.]* before, -?\d[\d.]* after\n"
        r"  = inputs are random, of seed 5",
        str(caught.value),
    ), str(caught.value)


def Constantly() -> Value:
    return scalar(1, f32)


def test_a_pipeline_adds_which_pass_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(op: Neg) -> Value | None:
        return op.x if isinstance(op.x, ReLU) else None

    monkeypatch.setattr("trtc.passes.canonicalize.RULES", (wrong,))
    with pytest.raises(PassError) as caught:
        Pipeline.parse("cse,canonicalize").run(graph(Neg(ReLU(X))), Check())
    assert str(caught.value).startswith("error: canonicalize: output y differs by ")
    assert str(caught.value).endswith("\n  = in pass 2 of 2, `canonicalize`")


def test_check_of_shape_and_of_outputs() -> None:
    with pytest.raises(PassError) as caught:
        Check()(step(graph(Neg(X)), Graph("g", (X,), {"z": Neg(X)}, BOUNDS)))
    assert str(caught.value) == "error: renamed: output y is gone, but a pass must keep every output"
    flat = Reshape(Neg(X), (4 * Dim.named("B"),))
    with pytest.raises(PassError) as caught:
        Check(seed=2)(step(graph(Neg(X)), graph(flat)))
    assert re.fullmatch(
        r"error: renamed: output y has shape \(\d+,\) after the pass, but had \(\d, 4\) before", str(caught.value)
    )


@pytest.mark.parametrize("dtype,off", [(f32, 1e-5), (f16, 5e-3), (bf16, 3e-2)], ids=str)
def test_tolerance_is_that_of_the_coarsest_type(dtype: DType, off: float) -> None:
    def narrow(x: Value) -> Value:
        return Cast(Cast(x, dtype), f32)

    before = graph(narrow(Neg(X)))
    Check()(step(before, graph(Add(narrow(Neg(X)), scalar(off, f32)))))
    with pytest.raises(PassError):
        Check()(step(before, graph(Add(narrow(Neg(X)), scalar(100 * off, f32)))))


def test_constants_do_not_loosen_the_tolerance() -> None:
    y = Mul(X, Cast(Weight("w", f16[4]), f32))
    assert computed_in(graph(y)) == {"f32"} and computed_in(graph(Cast(X, bf16))) == {"f32", "bf16"}


def test_given_weights_are_read() -> None:
    y, z = (Mul(X, Weight(key, f32[4])) for key in "ab")
    same = {"a": np.ones(4, np.float32), "b": np.ones(4, np.float32)}
    with pytest.raises(KeyError):
        Check()(step(graph(y), graph(z)))   # `b` is no weight of the first graph
    Check(weights=same)(step(graph(Add(y, z)), graph(Add(z, y))))
    same["b"] = np.zeros(4, np.float32)
    with pytest.raises(PassError):
        Check(weights=same)(step(graph(Add(y, z)), graph(Add(y, y))))


def test_sizes_that_a_pass_fixes() -> None:
    cache, new, start = Input("c", f32["B", 1, "M", 4]), Input("n", f32["B", 1, "S", 4]), Input("s", i32["B",])
    bounds = {**BOUNDS, "M": (1, 40), "S": (1, 8)}
    before = Graph("g", (cache, new, start), {"c": KVCacheUpdate(cache, new, start)}, bounds)
    check = Check()
    after = Pipeline.parse("canonicalize,specialize{size=M value=33},cse").run(before, check)
    assert str(after.inputs[0].type) == "f32[B, 1, 33, 4]" and check.tensors["c"].shape[2] == 33


def test_inputs_that_a_pass_widens() -> None:
    x = Input("x", TensorType(bf16, X.shape))
    Pipeline.parse("widen{narrow=bf16}").run(graph(Neg(x), x), Check())


def test_difference() -> None:
    inf, nan = float("inf"), float("nan")
    a, b = np.array([1.0, inf, -inf, nan, nan, inf, 2.0]), np.array([1.5, inf, -inf, nan, 1.0, -inf, inf])
    assert difference(a, b).tolist() == [0.5, 0.0, 0.0, 0.0, inf, inf, inf]
