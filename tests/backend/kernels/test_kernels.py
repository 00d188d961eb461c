"""Kernels: every one compiles for every architecture it names, with the parameters that its launch rule passes."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from kernel_cases import DTYPES, seeded, serving
from kernel_cases_plain import MAKES

from trtc.backend.kernels import ARCHITECTURES, KERNELS, Kernel, Launch, Scalar, ceildiv, find, kernel, product, ptx
from trtc.backend.kernels.nvrtc import cache_folder, compile_source
from trtc.backend.kernels.ops import FusedLinear, LinearForNorm
from trtc.errors import MissingPackage, TrtcError
from trtc.expressions import evaluate
from trtc.ir.op import Op
from trtc.ir.ops import Bitcast, Embedding, Input, Neg, RMSNorm, Weight
from trtc.ir.types import Dim, DType, bf16, f16, f32, i8, i32

pytest.importorskip("cuda.bindings.nvrtc")


def instances() -> dict[str, tuple[Kernel, Op]]:
    """For each kernel and dtype the first case that it serves."""
    found: dict[str, tuple[Kernel, Op]] = {}
    for name in MAKES:
        for dtype in DTYPES:
            for seed in range(8):
                case = seeded(name, dtype, seed)
                for each in serving(case, 90):
                    found.setdefault(f"{each.name}, {name.partition(', ')[2]}{dtype}", (each, case.op))
    return found


INSTANCES = instances()


def test_every_kernel_has_an_instance() -> None:
    ours = {k.name for kernels in KERNELS.values() for k in kernels if "backend/kernels" in str(k.source)}
    assert {k.name for k, _ in INSTANCES.values()} == ours


@pytest.mark.parametrize("name", INSTANCES)
def test_it_compiles_and_takes_what_its_launch_passes(name: str) -> None:
    made, op = INSTANCES[name]
    launch = made.launch(op)
    others = [n for n, (kernel, _) in INSTANCES.items() if kernel is made]
    for architecture in made.architectures if others[0] == name else (90,):   # other types: one of them
        binary = made.compile(op, architecture)
        assert binary.cubin.startswith(b"\x7fELF")
        ptx.check(binary.ptx, launch)
        assert f".target sm_{architecture}{'a' * made.specific}\n" in binary.ptx


def test_all_architectures_are_named() -> None:
    assert ARCHITECTURES == (80, 86, 89, 90, 100, 120)
    assert {k.architectures for k, _ in INSTANCES.values() if not k.specific} == {ARCHITECTURES}
    assert {k.name: k.architectures for k, _ in INSTANCES.values() if k.specific} == {"hopper_prefill_attention": (90,)}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", MAKES)
def test_launches_are_plain_data_whose_sizes_are_known(name: str, dtype: DType) -> None:
    for seed in range(6):
        case = seeded(name, dtype, seed)
        for made in serving(case, 90):
            launch = made.launch(case.op)
            assert json.loads(json.dumps(launch.record()))["entry"] == launch.entry
            sizes = {**case.sizes, "multiprocessors": 132}
            grid = [evaluate(n, sizes) for n in launch.grid]
            assert all(n > 0 for n in grid) and grid[1] < 65536 and grid[2] < 65536
            assert all(n > 0 for n in launch.block) and 32 <= launch.block[0] <= 1024
            most = 227 if made.architectures == (90,) else 99   # what 8.6, 8.9 and 12.0 have for a block
            assert launch.shared_bytes <= most << 10
            assert evaluate(launch.workspace_bytes, sizes) >= 0 and evaluate(launch.counter_bytes, sizes) >= 0
            for argument in launch.arguments:
                if isinstance(argument, Scalar) and argument.dtype == "i32":
                    assert not isinstance(argument.value, float) and evaluate(argument.value, sizes) >= 0


def covered(launch: Launch, op: Op, sizes: dict[str, int]) -> bool:
    """Whether the blocks make every row of the first result."""
    grid = [evaluate(n, sizes) for n in launch.grid]
    shape = [s if isinstance(s, int) else sizes[str(s)] for s in op.type.shape]
    rows, width = 1, shape[-1]
    for size in shape[:-1]:
        rows *= size
    d = {k: int(v) for k, v in launch.defines.items() if k != "T"}
    each = {
        "skinny_linear": (16 * (1 if d.get("GATED") else d.get("TILES", 1)), 8 * d.get("COLUMNS", 1)),
        "plain_linear": (d["WARPS"], d.get("COLUMNS", 1)),
        "experts": (16, 8 if d.get("OUTER") else rows),
        "plain_experts": (d["WARPS"], 1),
    }[launch.entry]
    columns = grid[1] if launch.entry != "experts" or d["OUTER"] else 1
    return grid[0] * each[0] >= width > (grid[0] - 1) * each[0] and columns * each[1] >= rows > (columns - 1) * each[1]


PRODUCTS = [
    "linear", "fused_linear", "fused_linear, i4", "fused_linear, squares, i8", "linear_for_norm", "experts_inner",
    "experts_outer",
]   # fmt: skip


@pytest.mark.parametrize("name", PRODUCTS)
def test_grids_of_products_cover_the_result_and_no_more(name: str) -> None:
    for seed in range(20):
        case = seeded(name, bf16, seed)
        for made in serving(case, 90):
            assert covered(made.launch(case.op), case.op, dict(case.sizes))


def attention(batch: int, capacity: int) -> list[int]:
    from trtc.backend.kernels.ops import DecodeAttention

    cache = bf16[batch, 8, capacity, 128]
    op = DecodeAttention(
        Input("q", bf16[batch, 1, 4096]), Input("k", cache), Input("v", cache), Input("n", i32[batch,]),
        heads=32, kv_heads=8,
    )   # fmt: skip
    made = find(op, 90)
    assert isinstance(made, Kernel)
    return [evaluate(n, {"multiprocessors": 132}) for n in made.launch(op).grid]


def test_attention_is_split_as_far_as_the_device_has_room() -> None:
    assert attention(1, 1024) == [8, 8, 1]       # 128 keys a block at least
    assert attention(1, 8192) == [16, 8, 1]      # a block a multiprocessor, 132, rounded down
    assert attention(8, 8192) == [4, 8, 8]       # a block for 2,048 keys, though all do not run at once
    assert attention(64, 1024) == [1, 8, 64]
    assert attention(64, 16) == [1, 8, 64]


def test_it_says_why_no_kernel_serves() -> None:
    x = Input("x", f32["B", 20000])
    assert find(RMSNorm(x, Weight("w", f32[20000])), 90) == "a row has 20000 elements, but must have 16384 at most"
    assert find(Bitcast(x, i32), 90) == "no kernel computes bitcast"
    small = RMSNorm(Input("x", f32["B", 8]), Weight("w", f32[8]))
    assert find(small, 75) == "rms_norm is for architectures 80, 86, 89, 90, 100, 120, not 75"
    assert KERNELS[RMSNorm][0].serves(Neg(x), 90) == "rms_norm computes rms_norm, not neg"
    table = Embedding(Weight("t", i8[4, 4]), Input("i", i32["B",]))
    assert find(table, 90) == "it is i8, but must be f32, f16 or bf16"


@pytest.mark.parametrize(("dtype", "inner", "why"), [
    (f16, 64, "x is f16, but must be bf16 where it is normalised"),
    (f32, 64, "x is f32, but must be f16 or bf16"),
    (bf16, 96, "K is 96, but must be a multiple of 64 up to 8192 where x is normalised"),
    (bf16, 8256, "K is 8256, but must be a multiple of 64 up to 8192 where x is normalised"),
], ids=str)   # fmt: skip
def test_it_says_which_norms_stay_apart(dtype: DType, inner: int, why: str) -> None:
    squares = Input("squares", f32[1, inner // 16])
    reader = FusedLinear(Input("x", dtype[1, inner]), Weight("w", dtype[8, inner]), squares=squares)
    assert find(reader, 90) == f"{why}; it is given squares, but must multiply x as it is"


def test_it_says_what_is_not_made_for_a_norm() -> None:
    def maker(dtype: DType, inner: int) -> LinearForNorm:
        x, residual = Input("x", dtype[1, inner]), Input("r", dtype[1, 16])
        return LinearForNorm(x, Weight("w", dtype[16, inner]), None, None, residual, Weight("g", dtype[16,]))

    assert find(maker(f16, 32), 90) == "x is f16, but must be bf16 where y is normalised"
    assert find(maker(bf16, 48), 90) == "K is 48, but must be a multiple of 32"


@pytest.mark.parametrize("rows", [8, 16])
def test_the_longest_row_of_squares_fits_shared_memory(rows: int) -> None:
    """NVRTC refuses more than 48 KB."""
    squares, x = Input("squares", f32[rows, 512]), Input("x", bf16[rows, 8192])
    op = FusedLinear(x, Weight("w", bf16[64, 8192]), squares=squares, activation="silu")
    made = find(op, 90)
    assert isinstance(made, Kernel)
    assert made.compile(op, 90).cubin.startswith(b"\x7fELF")


def test_ones_own_kernel_is_tried_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KERNELS, RMSNorm, list(KERNELS[RMSNorm]))

    @kernel(Path(__file__).with_name("scale.cu"), lambda op: None if op.eps < 1 else "eps is too large")
    def mine(op: RMSNorm) -> Launch:
        return Launch("scale", {}, (1, 1, 1), (32, 1, 1), ())

    assert mine is not None
    small = RMSNorm(Input("x", f32["B", 8]), Weight("w", f32[8]))
    found, other = find(small, 90), find(small.with_attributes(eps=2.0), 90)
    assert isinstance(found, Kernel) and found.name == "mine"
    assert isinstance(other, Kernel) and other.name == "rms_norm"


def test_a_source_that_is_no_file_is_refused() -> None:
    def mine(op: RMSNorm) -> Launch:
        raise NotImplementedError

    with pytest.raises(TrtcError) as error:
        kernel("none.cu")(mine)
    path = Path(__file__).parent / "none.cu"
    assert error.value.message == f"kernel mine names the source none.cu, but {path} is no file"


def test_errors_of_a_source_show_the_file_and_the_line(tmp_path: Path) -> None:
    source = tmp_path / "wrong.cu"
    source.write_text('#include "mine.cuh"\n\nextern "C" __global__ void f(int* y) {\n    *y = nothing;\n}\n')
    with pytest.raises(TrtcError) as error:
        compile_source(source, {}, 90)
    assert error.value.message == f"wrong.cu includes mine.cuh, but {tmp_path / 'mine.cuh'} is no file"
    (tmp_path / "mine.cuh").write_text("// nothing\n")
    with pytest.raises(TrtcError) as error:
        compile_source(source, {}, 90)
    assert error.value.message == f"{source} does not compile for sm_90"
    assert error.value.facts[0] == 'wrong.cu(4): error: identifier "nothing" is undefined'


def test_what_was_compiled_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRTC_CACHE", str(tmp_path / "cache"))
    source = tmp_path / "one.cu"
    source.write_text('extern "C" __global__ void f(int* y) { *y = N; }\n')
    first = compile_source(source, {"N": 1}, 80)
    files = sorted(p.name for p in cache_folder().iterdir())
    assert [Path(n).suffix for n in files] == [".cubin", ".ptx"]
    monkeypatch.setattr("trtc.backend.kernels.nvrtc._compile", None)
    assert compile_source(source, {"N": 1}, 80) == first
    with pytest.raises(TypeError):   # another define, another kernel
        compile_source(source, {"N": 2}, 80)


def test_where_nothing_can_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container whose user has no home, or whose disk is read-only."""
    source = tmp_path / "one.cu"
    source.write_text('extern "C" __global__ void f(int* y) { *y = 1; }\n')
    monkeypatch.setenv("TRTC_CACHE", str(source / "cache"))
    assert ".entry f(" in compile_source(source, {}, 80).ptx
    monkeypatch.setenv("TRTC_CACHE", str(tmp_path / "cache"))
    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "replace", refuse)
    assert ".entry f(" in compile_source(source, {}, 80).ptx
    assert list((tmp_path / "cache").iterdir()) == []
    for name in ("TRTC_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 7)   # of no user
    assert ".entry f(" in compile_source(source, {}, 80).ptx


def test_it_says_which_extra_compiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr("trtc.backend.kernels.nvrtc.import_module", missing)
    source = tmp_path / "one.cu"
    source.write_text("")
    with pytest.raises(MissingPackage) as error:
        compile_source(source, {}, 80)
    assert error.value.message == "cuda.bindings is needed to compile CUDA kernels, but is not installed"
    assert error.value.facts == ("help: pip install 'trtc[cuda]'",)


def test_sizes_are_expressions() -> None:
    batch, tokens = Dim.named("B"), Dim.named("S")
    assert product(batch, tokens + 1, 3) == "B*(S + 1)*3"
    assert ceildiv(batch * tokens, 8) == "ceildiv(B*S, 8)"
    assert evaluate(ceildiv(product(batch, tokens + 1), 4), {"B": 3, "S": 2}) == 3
