"""Parameters in PTX: what a launch passes is compared with them, and their order is changed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from trtc.backend.kernels import Launch, Scalar, count, operand, ptx, result
from trtc.backend.kernels.launch import Argument
from trtc.backend.kernels.nvrtc import compile_source
from trtc.errors import TrtcError

pytest.importorskip("cuda.bindings.nvrtc")
SOURCE = """\
extern "C" __global__ void scale(const float* x, float* y, int n, float by) {
    const int i = blockIdx.x * 32 + threadIdx.x;
    if (i < n) y[i] = x[i] * by;
}
struct Pair { float a, b; };
extern "C" __global__ void of_struct(Pair p, float* y) { *y = p.a + p.b; }
"""
PASSED: tuple[Argument, ...] = (operand("x"), result(), count("N"), Scalar("f32", 0.5))


def launch(*arguments: Argument, entry: str = "scale") -> Launch:
    return Launch(entry, {}, (1, 1, 1), (32, 1, 1), arguments)


@pytest.fixture(scope="module", name="code")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> str:
    source = tmp_path_factory.mktemp("source") / "scale.cu"
    source.write_text(SOURCE)
    return compile_source(Path(source), {}, 90).ptx


def test_a_launch_that_fits(code: str) -> None:
    ptx.check(code, launch(*PASSED))
    assert [kind[1:] for kind, _ in ptx.declared(code, "scale")] == ["64", "64", "32", "32"]


WRONG = {
    "order": ((*PASSED[:2], *PASSED[:1:-1]), 3, "f32", "u32"),
    "pointer": ((PASSED[0], *PASSED[2:0:-1], PASSED[3]), 2, "i32", "u64"),
    "number": ((*PASSED[:2], result(), PASSED[3]), 3, "a pointer", "u32"),
    "width": ((*PASSED[:2], Scalar("i64", "N"), PASSED[3]), 3, "i64", "u32"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_launch_that_does_not_fit(name: str, code: str) -> None:
    passed, number, given, takes = WRONG[name]
    with pytest.raises(TrtcError) as caught:
        ptx.check(code, launch(*passed))
    said = f"error: argument {number} of scale is {given} in its launch, but {takes} in the kernel"
    assert str(caught.value) == said


def test_launches_of_something_else(code: str) -> None:
    with pytest.raises(TrtcError, match="the launch of scale passes 3 arguments, but the kernel takes 4"):
        ptx.check(code, launch(*PASSED[:3]))
    with pytest.raises(TrtcError, match='the kernel\'s source has no extern "C" __global__ function scales'):
        ptx.check(code, launch(*PASSED, entry="scales"))
    said = "of_struct takes `.param .align 4 .b8 of_struct_param_0[8]`, but must take pointers and numbers"
    with pytest.raises(TrtcError, match=re.escape(said)):
        ptx.check(code, launch(*PASSED[:2], entry="of_struct"))


def test_parameters_in_another_order(code: str) -> None:
    got = ptx.arranged(code, "scale", (0, 2, 1), {3: 0.3})
    assert [name for _, name in ptx.declared(got, "scale")] == [f"scale_param_{i}" for i in (0, 2, 1)]
    assert "scale_param_3" not in got
    assert re.search(r"mov\.[fb]32\s+%\w+, 0[fx]3E99999A;", got)   # 0.3, as IEEE 754 has it
    body, before = (text.partition("{")[2].splitlines() for text in (got, code))
    assert sum(a != b for a, b in zip(body, before, strict=True)) == 1


def test_a_number_whose_address_is_taken() -> None:
    code = ".entry f(\n.param .f32 f_param_0\n)\n{\nmov.b64 %rd1, f_param_0;\n}"
    with pytest.raises(TrtcError, match="f does more with f_param_0 than read it, but must only read what is fixed"):
        ptx.arranged(code, "f", (), {0: 1.0})
