"""The kernels on the GPU of this machine: right on random shapes, and how near to the speed of memory.

    python benchmarks/gpu/kernels.py check [NAME ...] [--seeds N] [--plugins]
    python benchmarks/gpu/kernels.py time [NAME ...]
    ncu --clock-control none python benchmarks/gpu/kernels.py once [NAME ...]
    compute-sanitizer --report-api-errors no python benchmarks/gpu/kernels.py check --seeds 1

Needs torch, cuda-bindings and NVRTC. ``check`` compares each kernel with its op's meaning in f64, on poisoned outputs,
and runs it twice: both results must be the same bits; with ``--plugins`` those that plugins can be, from the PTX that
TensorRT gets, with its order of arguments. ``time`` takes the shapes of LLaMA 3.1 8B in bf16. The floor is the time of
the bytes that must move, at a copy's speed, or of the operations, at that of a large product. ``once`` launches each of
those once, for a profiler to look at.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)]

import device  # noqa: E402
import kernel_cases  # noqa: E402
import library  # noqa: E402
import shapes  # noqa: E402
from kernel_cases import Case  # noqa: E402
from kernel_cases_plain import MAKES  # noqa: E402

from trtc.backend.kernels import KERNELS  # noqa: E402
from trtc.backend.kernels.nvrtc import compile_source  # noqa: E402
from trtc.backend.tensorrt.plugins import Call  # noqa: E402
from trtc.ir.op import Op  # noqa: E402
from trtc.ir.types import bf16, f8e4m3, i4, i8, i32  # noqa: E402


def compile_all(ops: Iterable[Op]) -> None:
    """Every kernel that serves these ops, into the cache, on all cores."""
    target = device.architecture()
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        for op in ops:
            for kernel in KERNELS[type(op)]:
                if kernel.serves(op, target) is None:
                    pool.submit(compile_source, kernel.source, dict(kernel.launch(op).defines), target, kernel.specific)


def check(names: list[str], seeds: int, plugins: bool) -> int:
    """Every kernel that serves a case against its op in f64; how many cases fail."""
    failed = 0
    compile_all(kernel_cases.seeded(n, d, s).op for n in names for d in kernel_cases.DTYPES for s in range(seeds))
    for name in names:
        worst, kernels, count = 0.0, set[str](), 0
        for dtype in kernel_cases.DTYPES:
            for seed in range(seeds):
                case = kernel_cases.seeded(name, dtype, seed)
                for why, error, kernel in verdicts(case, plugins):
                    kernels.add(kernel)
                    worst, count = max(worst, error), count + 1
                    if why:
                        failed += 1
                        facts = f"{case.op.type} {dict(case.sizes)} {dict(case.op.attributes)}"
                        print(f"FAIL {name} {dtype} seed {seed} {kernel}: {why}; {facts}", flush=True)
        by = ", ".join(sorted(kernels))
        print(f"{name:32} {count:4} cases, worst {worst:.2f} of its tolerance, by {by}", flush=True)
    return failed


def verdicts(case: Case, plugins: bool) -> Iterator[tuple[str, float, str]]:
    """For every kernel that serves the case: what is wrong, the share of the tolerance, the kernel's name."""
    want = case.evaluate(precise=True)
    for kernel in kernel_cases.serving(case, device.architecture()):
        call = Call(case.op, kernel, kernel.launch(case.op))
        if plugins and call.unfit():
            continue
        loaded = device.prepare(kernel, case.op, case.sizes)
        if plugins:
            loaded = device.as_plugin(loaded, call.ptx(device.architecture()), call.order)
        first, again = (device.run(case.op, loaded, case.tensors) for _ in range(2))
        same = all(a.tobytes() == b.tobytes() for a, b in zip(first, again, strict=True))
        worst = kernel_cases.share_of_tolerance(case, first, want)
        yield ("" if worst <= 1 else "too far off") if same else "two runs differ", worst, kernel.name


def once(names: list[str]) -> None:
    """One launch of each, the kernels compiled before."""
    for case in timed(names):
        loaded, operands = device.ready(case.op), random_operands(case)
        print(case.name, flush=True)
        loaded(operands, device.outputs(case.op, loaded, operands))
        torch.cuda.synchronize()


def timed(names: list[str]) -> list[shapes.Timed]:
    """The cases whose names begin so, their kernels compiled."""
    cases = [c for c in shapes.timed() if not names or any(c.name.startswith(n) for n in names)]
    compile_all(c.op for c in cases)
    return cases


def time(names: list[str]) -> None:
    """Microseconds a launch in a graph of many, on rotating buffers that the cache does not hold."""
    cases = timed(names)
    bandwidth, rate = device.copy_bandwidth(), device.product_rate()
    print(f"{torch.cuda.get_device_name()}: a copy moves {bandwidth / 1e12:.2f} TB/s")
    print(f"a product of 8192 x 8192 x 8192 in bf16 makes {rate / 1e12:.0f} TFLOP/s")
    print(f"{'kernel':32} {'us':>8} {'floor':>8} {'share':>6}")
    for case in cases:
        loaded = device.ready(case.op)
        total = sum(v.type.nbytes() for v in case.op.operands.values())
        copies = max(2, min(24, -(-300_000_000 // total)))
        sets = [random_operands(case) for _ in range(copies)]
        results = device.outputs(case.op, loaded, sets[0])
        launches = (copies if copies > 8 else 12) if case.bytes > 5e6 else 96
        floor = max(case.bytes / bandwidth, case.operations / rate)

        def ours(operands: Any, loaded: Any = loaded, results: Any = results) -> None:
            loaded(operands, results, overlap=True)

        for name, call in ((case.name, ours), *((f"  {n}", c) for n, c in library.same(case.op))):
            took = device.graph_time(lambda i, call=call, sets=sets: call(sets[i % len(sets)]), launches)
            print(f"{name:32} {took * 1e6:8.2f} {floor * 1e6:8.2f} {floor / took:6.1%}", flush=True)
        del sets, results, loaded


def random_operands(case: shapes.Timed) -> dict[str, torch.Tensor]:
    made: dict[str, torch.Tensor] = {}
    for name, value in case.op.operands.items():
        of = value.type
        if name == "chosen":   # every expert by as many tokens
            made[name] = (torch.arange(of.numel(), device="cuda") % 8).int()
        elif of.dtype == i32:
            made[name] = torch.full((of.numel(),), case.integers.get(name, 0), dtype=torch.int32, device="cuda")
        elif of.dtype in (i8, i4, f8e4m3):
            made[name] = torch.randint(0, 255, (of.nbytes(),), dtype=torch.uint8, device="cuda")
        else:
            kind: Any = torch.bfloat16 if of.dtype == bf16 else torch.float32
            made[name] = torch.randn(of.numel(), dtype=kind, device="cuda").mul_(0.02)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("check", "time", "once"))
    parser.add_argument("names", nargs="*")
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--plugins", action="store_true")
    given = parser.parse_args()
    if given.what != "check":
        {"time": time, "once": once}[given.what](given.names)
        return
    unknown = set(given.names) - set(MAKES)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    if failed := check(given.names or list(MAKES), given.seeds, given.plugins):
        sys.exit(f"{failed} cases fail")


if __name__ == "__main__":
    main()
