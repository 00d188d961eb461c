"""Kernels compute what their ops say: their CUDA C++ runs here on a CPU, thread by thread (emulator.py).

That shows what is computed, with the products of tensor cores and the parts of several blocks, in two orders of threads
and blocks, and not what a GPU alone can show: its memory model, and speed. benchmarks/gpu/kernels.py does.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import emulator
import fuzz
import numpy as np
import pytest
from kernel_cases import DTYPES, Case, seeded, serving, share_of_tolerance
from kernel_cases_plain import MAKES

from trtc.backend import kernels as package
from trtc.backend.kernels import KERNELS, Kernel
from trtc.backend.kernels.ops import AppendAndAttend, FusedLinear, PrefillAttention
from trtc.ir.op import Array
from trtc.ir.ops import Input, TopK
from trtc.ir.types import DType, bf16, f8e4m3, f16, f32, i4, i8, i32

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler, g++")
OURS = Path(package.__file__).parent
SEEDS = 8 if fuzz.ALL else 1


def chosen() -> Iterator[tuple[str, DType, int]]:
    """For each kind of case some seeds, and more until every kernel has one."""
    seen: set[str] = set()
    for i, name in enumerate(MAKES):
        for dtype in dict.fromkeys((bf16, DTYPES[i % 3]) if SEEDS == 1 else DTYPES):
            for seed in range(8):
                kernels = {kernel.name for kernel in serving(seeded(name, dtype, seed), 90)}
                if seed < SEEDS or kernels - seen:
                    yield name, dtype, seed
                    seen |= kernels


CASES = list(chosen())


def test_every_kernel_runs() -> None:
    ran = {kernel.name for name, dtype, seed in CASES for kernel in serving(seeded(name, dtype, seed), 90)}
    assert ran == {kernel.name for kernels in KERNELS.values() for kernel in kernels if kernel.source.parent == OURS}


def test_a_missing_barrier_is_found(tmp_path: Path) -> None:
    """The emulator finds what it is there for: a sum whose parts are read before they are all written."""
    (tmp_path / "common.cuh").write_text((OURS / "common.cuh").read_text().replace("__syncthreads();", ""))
    (tmp_path / "norm.cu").write_text((OURS / "norm.cu").read_text())
    case = next(c for c in (seeded("rms_norm", bf16, seed) for seed in range(20)) if c.op.type.shape[-1] == 4096)
    (kernel,) = serving(case, 90)
    with pytest.raises(AssertionError, match="order of threads"):
        emulator.run(replace(kernel, source=tmp_path / "norm.cu"), case, tmp_path)


def prompts(
    start: Sequence[int], lengths: Sequence[int], size: int, window: int, paged: bool = False, tokens: int = 130
) -> Case:
    """Attention of 4 heads with one key head; keys beyond the last token are poisoned."""
    rng, batch = np.random.default_rng(0), len(start)
    capacity = -(-max(a + b for a, b in zip(start, lengths, strict=True)) // 64) * 64
    caches = rng.standard_normal((2, batch, 1, capacity, size)).astype(bf16.numpy)
    for b in range(batch):
        caches[:, b, :, start[b] + lengths[b] :] = np.nan
    q = rng.standard_normal((batch, tokens, 4 * size)).astype(bf16.numpy)
    names, each = ("q", "key_cache", "value_cache", "start", "lengths"), i32[batch,]
    arrays = [q, *caches, np.array(start, np.int32), np.array(lengths, np.int32)]
    cache, rest = bf16[batch, 1, capacity, size], dict[str, Input]()
    tensors: dict[str, Array] = {}
    if paged:
        pages = rng.permutation(batch * capacity // 64).astype(np.int32).reshape(batch, -1)
        for i in (1, 2):
            arrays[i] = arrays[i].reshape(-1, 1, 64, size)[np.argsort(pages.reshape(-1))]
        cache, tensors["pages"] = bf16[pages.size, 1, 64, size], pages
        rest["pages"] = Input("pages", i32[pages.shape])
    types = (bf16[q.shape], cache, cache, each, each)
    inputs = (Input(n, t) for n, t in zip(names, types, strict=True))
    op = PrefillAttention(*inputs, **rest, heads=4, kv_heads=1, scale=0.2, window=window)
    return Case(op, {}, tensors | dict(zip(names, arrays, strict=True)))


@pytest.mark.parametrize("window", [0, 70])
def test_prompts_about_the_borders_of_tiles(window: int, tmp_path: Path) -> None:
    """Tiles are 64 keys, and 32 tokens of 4 heads."""
    start, lengths = (0, 0, 0, 63, 64, 1, 0), (0, 1, 32, 1, 33, 63, 130)
    case = prompts(start, lengths, 32, window)
    for kernel in serving(case, 90):
        folder = tmp_path / kernel.name
        folder.mkdir()
        (got,) = emulator.run(kernel, case, folder, multiprocessors=8 if window else 18)   # some blocks at once, or all
        assert share_of_tolerance(case, [got], case.evaluate(precise=True)) <= 1
        assert not any(got[b, n:].any() for b, n in enumerate(lengths))


def named(name: str, case: Case) -> Kernel:
    (found,) = (kernel for kernel in serving(case, 90) if kernel.name == name)
    return found


@pytest.mark.parametrize(("size", "window", "paged"), [(64, 0, True), (128, 150, False)])
def test_prompts_about_the_borders_of_hopper_s_tiles(size: int, window: int, paged: bool, tmp_path: Path) -> None:
    """Tiles are 128 keys, and 32 tokens of 4 heads; blocks take many."""
    start, lengths = (0, 0, 127, 128, 1, 513, 250, 0), (0, 1, 1, 33, 64, 32, 0, 70)
    case = prompts(start, lengths, size, window, paged, tokens=70)
    (got,) = emulator.run(named("hopper_prefill_attention", case), case, tmp_path, multiprocessors=3)
    assert share_of_tolerance(case, [got], case.evaluate(precise=True)) <= 1
    assert not any(got[b, n:].any() for b, n in enumerate(lengths))


def is_found(kernel: Kernel, case: Case, right: str, wrong: str, folder: Path) -> bool:
    """Whether a kernel is seen to be wrong on a case with another text in the place of a right one."""
    for header in OURS.glob("*.cuh"):
        (folder / header.name).write_text(header.read_text())
    text, source = kernel.source.read_text(), folder / kernel.source.name
    assert right in text
    source.write_text(text.replace(right, wrong))
    try:
        got = emulator.run(replace(kernel, source=source), case, folder)
    except AssertionError:
        return True   # the order of threads matters
    return not share_of_tolerance(case, got, case.evaluate(precise=True)) <= 1


@pytest.mark.parametrize("left_out", ["wait_for_copies();", "__syncthreads();"])
def test_a_tile_that_is_read_too_early_is_found(left_out: str, tmp_path: Path) -> None:
    made = (seeded("prefill_attention", bf16, seed) for seed in range(20))
    case = next(c for c in made if c.sizes["S"] > 16 and isinstance(c.op, PrefillAttention) and not c.op.window)
    assert is_found(named("prefill_attention", case), case, left_out, "", tmp_path)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("wait_for_phase(s.full(ring.slot), ring.parity);", ""),
        ("wait_for_phase(s.empty(ring.slot), ring.parity ^ 1);", ""),
        ("wait_for_products<1>();", ""),
        ("matrix_at(values, KEYS * 128)", "matrix_at(values)"),
    ],
    ids=["read too early", "overwritten", "products under way", "panels elsewhere"],
)
def test_what_hopper_does_meanwhile_is_waited_for(right: str, wrong: str, tmp_path: Path) -> None:
    case = prompts((600, 640), (40, 33), 128, 0, tokens=40)
    assert is_found(named("hopper_prefill_attention", case), case, right, wrong, tmp_path)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("is_newest && at <= position", "false"),
        ("__syncthreads();\n    load_query", "load_query"),
        ("__syncthreads();\n    for", "for"),
    ],
    ids=["not seen", "read too early", "added up too early"],
)
def test_a_new_token_that_is_lost_is_found(right: str, wrong: str, tmp_path: Path) -> None:
    made = (seeded("append_and_attend", bf16, seed) for seed in range(20))
    case = next(c for c in made if isinstance(c.op, AppendAndAttend) and c.sizes["M"] == 17 and not c.op.lengths)
    kernel = serving(case, 90)[0]
    assert kernel.source.read_text().count(right) == 1
    assert is_found(kernel, case, right, wrong, tmp_path)


@pytest.mark.parametrize("window", [0, 300])
def test_steps_about_the_borders_of_blocks(window: int, tmp_path: Path) -> None:
    """A block has 128 keys, or 16 times as many as fewer blocks need, and 8 blocks are added up at a time; what is
    beyond the new token is poisoned, and so is its own place."""
    start = (0, 16, 127, 1024, 1299)
    rng, batch = np.random.default_rng(0), len(start)
    caches = rng.standard_normal((2, batch, 1, 1300, 32)).astype(bf16.numpy)
    for b, position in enumerate(start):
        caches[:, b, :, position:] = np.nan
    angles = rng.random((1300, 16)).astype(np.float32)
    qkv = rng.standard_normal((batch, 1, 128)).astype(bf16.numpy)
    names = ("qkv", "key_cache", "value_cache", "start", "cos", "sin")
    arrays = (qkv, *caches, np.array(start, np.int32), np.cos(angles), np.sin(angles))
    cache, table = bf16[batch, 1, 1300, 32], f32[1300, 16]
    types = (bf16[batch, 1, 128], cache, cache, i32[batch,], table, table)
    inputs = (Input(n, t) for n, t in zip(names, types, strict=True))
    op = AppendAndAttend(*inputs, heads=2, scale=0.2, window=window)
    case = Case(op, {}, dict(zip(names, arrays, strict=True)))
    (kernel,) = serving(case, 90)
    got = emulator.run(kernel, case, tmp_path, multiprocessors=132)
    assert share_of_tolerance(case, got, case.evaluate(precise=True)) <= 1


@pytest.mark.parametrize("dtype", [bf16, f16], ids=str)
@pytest.mark.parametrize(("stored", "group"), [(i4, 128), (i8, 16), (f8e4m3, 128)], ids=str)
def test_each_weight_of_few_bits_is_exact(stored: DType, group: int, dtype: DType, tmp_path: Path) -> None:
    """All that 8 or 4 bits can be, picked by rows of x that have one 1; scales are powers of two, zeros of any size."""
    rng, columns, shape = np.random.default_rng(0), np.arange(16) * 31, (16, 512 // group)
    bits = rng.integers(0, 256, (16, 512))
    bits[:, columns] = rng.permutation(256).reshape(16, 16)
    x = np.zeros((16, 512), dtype.numpy)
    x[np.arange(16), columns] = 1
    tensors: dict[str, Array] = {"x": x, "scales": (2.0 ** rng.integers(-3, 4, shape)).astype(dtype.numpy)}
    if stored == f8e4m3:
        tensors["weight"] = np.where(bits & 127 == 127, 0, bits).astype(np.uint8).view(stored.numpy)   # no NaN
    else:
        limit = 1 << (stored.bits - 1)
        tensors["weight"] = (bits % (2 * limit) - limit).astype(stored.numpy)
        tensors["zeros"] = rng.integers(-limit, limit + 1, shape).astype(dtype.numpy)
    types = {key: (stored if key == "weight" else dtype)[array.shape] for key, array in tensors.items()}
    given: dict[str, Any] = {key: Input(key, of) for key, of in types.items()}
    case = Case(FusedLinear(**given), {}, tensors)
    (got,) = emulator.run(named("skinny_fused_linear", case), case, tmp_path)
    np.testing.assert_array_equal(got, case.evaluate(precise=True)[0].astype(dtype.numpy))


@pytest.mark.parametrize("stored", ["", ", i4"])
def test_squares_are_those_of_what_is_written(stored: str, tmp_path: Path) -> None:
    """And so is y * gain, bit by bit: neither is of y before it was rounded."""
    made = (seeded(f"linear_for_norm{stored}", bf16, seed) for seed in range(40))
    case = next(c for c in made if 8 < c.sizes["B"] < 16 and c.op.shape[-1] == 48)
    y, z, squares = emulator.run(serving(case, 90)[0], case, tmp_path)
    np.testing.assert_array_equal(z, y * case.tensors["gain"])
    parts = np.square(y.astype(np.float64)).reshape(*squares.shape, 16)
    np.testing.assert_allclose(squares, parts.sum(axis=-1), rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("fused_linear, squares", "s *= given[n * 8 + c][0].x;", ";"),
        ("fused_linear, squares", "n * 8 + c][0]", "c][0]"),
        ("fused_linear, squares", "sqrtf(s / INNER + eps)", "sqrtf(s / INNER)"),
        ("fused_linear, squares", "s = warp_sum(s);\n        if", "if"),
        ("fused_linear, squares", "wait_for_copies();", ";"),
        ("fused_linear, squares", "advance(UNTIL);", ";"),
        ("linear_for_norm", "half_warp_sum(wide(made) * wide(made))", "wide(made) * wide(made)"),
        ("linear_for_norm", "wide(made) * wide(gain[r])", "wide(made)"),
        ("linear_for_norm", "(OUTER / 16) + r / 16", "(OUTER / 16)"),
    ],
    ids=lambda text: str(text),
)
def test_mistakes_about_norms_are_found(name: str, right: str, wrong: str, tmp_path: Path) -> None:
    made = (seeded(name, bf16, seed) for seed in range(60))
    case = next(c for c in made if c.sizes["B"] > 8 and c.op.shape[-1] != 1 and c.op.operands["x"].shape[-1] == 512)
    if "eps" in right:
        case = replace(case, op=case.op.with_attributes(eps=0.3))
    kernel = serving(case, 90)[0]
    assert kernel.source.read_text().count(right) == 1
    assert is_found(kernel, case, right, wrong, tmp_path)


def hard_rows(width: int, k: int) -> Array:
    """f32[10, width]: equal elements, sorted ones, infinities, NaN; the greatest spread over a block, and close by."""
    rng, up = np.random.default_rng(width), np.arange(width, dtype=np.float32)
    near = np.float32(1) + rng.integers(0, 40, width).astype(np.float32) / 128   # one exponent, many equal
    nan, lowest = (np.where(rng.random(width) < share, bad, near) for share, bad in ((0.99, np.nan), (0.7, -np.inf)))
    few = np.full(width, np.nan, np.float32)
    few[rng.integers(0, width, max(1, k // 2))] = -np.inf
    zeros = np.where(rng.random(width) < 0.5, np.float32(0), np.float32(-0.0))
    threads = -(up // 4 % 128)   # half of the threads of 128 have all that is great
    alike = (np.full(width, x, np.float32) for x in (3, -np.inf))
    return np.stack([*alike, up, -up, near, nan, lowest, few, zeros, threads])


@pytest.mark.parametrize(
    ("dtype", "width", "k"),
    [
        (f32, 4096, 64), (f32, 4348, 64), (bf16, 8200, 64), (f32, 12288, 2), (f16, 64, 64), (f32, 4097, 63),
        (f32, 9000, 1024), (bf16, 33000, 1024), (f32, 20000, 300),
    ],
)   # fmt: skip
def test_the_greatest_of_hard_rows(dtype: DType, width: int, k: int, tmp_path: Path) -> None:
    """About the borders of blocks, where few rounds do not tell the greatest apart."""
    x = hard_rows(width, k).astype(dtype.numpy)
    case = Case(TopK(Input("x", dtype["B", width]), k), {"B": len(x)}, {"x": x})
    (got,) = emulator.run(next(kernel for kernel in serving(case, 90) if kernel.name == "top_k"), case, tmp_path)
    np.testing.assert_array_equal(got, np.argsort(-x.astype(np.float64), axis=1, kind="stable")[:, :k])


@pytest.mark.parametrize(("name", "dtype", "seed"), CASES, ids=lambda x: str(x))
def test_it_computes_what_the_op_says(name: str, dtype: DType, seed: int, tmp_path: Path) -> None:
    case = seeded(name, dtype, seed)
    want = case.evaluate(precise=True)
    for kernel in serving(case, 90):
        folder = tmp_path / kernel.name
        folder.mkdir()
        got = emulator.run(kernel, case, folder)
        assert share_of_tolerance(case, got, want) <= 1, f"{kernel.name} is too far off"
