"""A decode step of LLaMA 3.1 8B as its kernels, in one CUDA graph: milliseconds, and the share of the floor.

    python benchmarks/gpu/step.py [--batch 1 8] [--weights bf16 i8 i4] [--context 1024] [--without KIND ...]

Needs torch, cuda-bindings and NVRTC. Weights are random and each layer has its own, as caches do. ``--without`` leaves
out launches of a kind (attention, norm, qkv, o, gate_up, down, lm_head), to see what they cost in their place.
``--norms`` has all norms as launches of their own; else those that read a product are made by it and its readers.
The floor is the bytes that a step must move over what a large copy moves.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import device  # noqa: E402
from shapes import FORMS, HEAD, HEADS, HIDDEN, INNER, KV_HEADS, QKV, VOCABULARY  # noqa: E402

from trtc.backend.kernels import ops as fused  # noqa: E402
from trtc.ir import ops  # noqa: E402
from trtc.ir.op import Op  # noqa: E402
from trtc.ir.ops import Input  # noqa: E402
from trtc.ir.types import TensorType, bf16, f8e4m3, f32, i4, i8, i32  # noqa: E402

LAYERS = 32


def tensor(of: TensorType, value: int | None = None) -> torch.Tensor:
    """Memory of a type: small random floats, random bits of integers, or one value of i32."""
    count, dtype = of.numel(), of.dtype
    if dtype == i32:
        return torch.full((count,), value or 0, dtype=torch.int32, device="cuda")
    if dtype in (i8, i4, f8e4m3):
        return torch.randint(0, 255, (of.nbytes(),), dtype=torch.uint8, device="cuda")
    kind: Any = {bf16: torch.bfloat16, f32: torch.float32}[dtype]
    return torch.randn(count, dtype=kind, device="cuda").mul_(0.02)


@dataclass(frozen=True)
class Sum:
    """The residual stream: y, and what products of its norm read, (y * gain, squares), where a product made them."""

    y: torch.Tensor
    normed: tuple[torch.Tensor, torch.Tensor] | None = None


@dataclass
class Step:
    """The launches of a decode step, each bound to its memory."""

    batch: int
    weights: str
    context: int
    capacity: int
    without: list[str]
    norms: bool
    launches: list[Any] = field(default_factory=list[Any])
    moved: int = 0
    loaded: dict[tuple[str, ...], Any] = field(default_factory=dict[tuple[str, ...], Any])

    def add(self, kind: str, op: Op, *operands: torch.Tensor, results: dict[int, torch.Tensor] | None = None) -> Any:
        """Launch an op on memory; its results' memory, made where none is given."""
        key = (kind, *op.operands)
        if key not in self.loaded:
            self.loaded[key] = device.ready(op)
        loaded, given = self.loaded[key], dict(zip(op.operands, operands, strict=True))
        own = results or {}
        made = [
            own[i] if i in own else given[loaded.launch.in_place[i]] if i in loaded.launch.in_place else tensor(of)
            for i, of in enumerate(op.types)
        ]
        if kind not in self.without:
            self.launches.append(lambda: loaded(given, made, overlap=True))
        return made

    def linear(
        self, kind: str, x: Sum, rows: int, columns: int, activation: str = "", stored: str = ""
    ) -> torch.Tensor:
        """A product with weights of its own, of a sum's norm."""
        of, (weight, scales, zeros), constants, more = self.constants(rows, columns, stored or self.weights)
        plain = fused.FusedLinear(Input("x", of), weight, scales, zeros=zeros, activation=activation)
        if not x.normed:
            norm = ops.RMSNorm(Input("x", of), Input("weight", bf16[columns]))
            return self.add(kind, plain, self.add("norm", norm, x.y, tensor(bf16[columns]))[0], *constants, *more)[0]
        z, squares = x.normed
        op = plain.with_attributes(squares=Input("squares", f32[self.batch, 1, columns // fused.PART]))
        return self.add(kind, op, z, *constants, squares, *more)[0]

    def added(self, kind: str, x: torch.Tensor, columns: int, residual: torch.Tensor) -> Sum:
        """A product with weights of its own and a residual, with what products of its norm read."""
        of, (weight, scales, zeros), constants, more = self.constants(HIDDEN, columns, self.weights)
        other = Input("residual", bf16[self.batch, 1, HIDDEN])
        if self.norms:
            op = fused.FusedLinear(Input("x", of), weight, scales, None, other, zeros=zeros)
            return Sum(self.add(kind, op, x, *constants, residual, *more)[0])
        op = fused.LinearForNorm(Input("x", of), weight, scales, None, other, Input("gain", bf16[HIDDEN]), zeros)
        y, *normed = self.add(kind, op, x, *constants, residual, tensor(bf16[HIDDEN]), *more)
        return Sum(y, (normed[0], normed[1]))

    def constants(
        self, rows: int, columns: int, stored: str
    ) -> tuple[TensorType, tuple[Input, Input | None, Input | None], list[torch.Tensor], list[torch.Tensor]]:
        """The type of x; the weight of a product, its scales and zeros; memory for the first two, and for the last."""
        weight, scales, zeros = FORMS[stored].weight(rows, columns)
        memory, more = ([tensor(each.type) for each in some if each] for some in ((weight, scales), (zeros,)))
        self.moved += sum(each.nbytes for each in memory + more)
        return bf16[self.batch, 1, columns], (weight, scales, zeros), memory, more

    def layer(self, x: Sum, start: torch.Tensor, tables: list[torch.Tensor]) -> Sum:
        cache = bf16[self.batch, KV_HEADS, self.capacity, HEAD]
        table = f32[self.capacity, HEAD // 2]
        attention = fused.AppendAndAttend(
            Input("qkv", bf16[self.batch, 1, QKV]), Input("key_cache", cache), Input("value_cache", cache),
            Input("start", i32[self.batch,]), Input("cos", table), Input("sin", table),
            heads=HEADS, kv_heads=KV_HEADS, scale=HEAD**-0.5,
        )   # fmt: skip
        keys, values = tensor(cache), tensor(cache)
        self.moved += 4 * self.batch * KV_HEADS * HEAD * self.context
        qkv = self.linear("qkv", x, QKV, HIDDEN)
        attended = self.add("attention", attention, qkv, keys, values, start, *tables)[0]
        y = self.added("o", attended, HIDDEN, x.y)
        inner = self.linear("gate_up", y, 2 * INNER, HIDDEN, "silu")
        return self.added("down", inner, INNER, y.y)

    def build(self) -> None:
        x = Sum(tensor(bf16[self.batch, 1, HIDDEN]))
        start = tensor(i32[self.batch,], self.context - 1)
        tables = [tensor(f32[self.capacity, HEAD // 2]) for _ in range(2)]
        for _ in range(LAYERS):
            x = self.layer(x, start, tables)
        logits = self.linear("lm_head", x, VOCABULARY, HIDDEN, stored="bf16")
        self.add("argmax", fused.ArgMax(Input("x", bf16[self.batch, VOCABULARY])), logits)

    def seconds(self) -> float:
        def work(_: int) -> None:
            for launch in self.launches:
                launch()

        return device.graph_time(work, 1, repeats=15)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--weights", nargs="+", default=["bf16", "i8", "i4"], choices=list(FORMS))
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--capacity", type=int, default=1152)
    parser.add_argument("--without", nargs="*", default=[])
    parser.add_argument("--norms", action="store_true")
    given = parser.parse_args()
    bandwidth = device.copy_bandwidth()
    print(f"{torch.cuda.get_device_name()}: a copy moves {bandwidth / 1e12:.2f} TB/s", flush=True)
    for batch in given.batch:
        for weights in given.weights:
            step = Step(batch, weights, given.context, given.capacity, given.without, given.norms)
            step.build()
            took, floor = step.seconds(), step.moved / bandwidth
            left = f" without {', '.join(given.without)}" if given.without else ""
            facts = f"{took * 1e3:.3f} ms, floor {floor * 1e3:.3f} ms, {floor / took:.1%}"
            print(f"batch {batch:2} {weights:8}{left}: {facts}", flush=True)
            del step
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
