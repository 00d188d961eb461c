"""What watches a pipeline run: prints, files, and a check of each pass's meaning."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt

from trtc.ir.errors import PassError
from trtc.ir.graph import Graph
from trtc.ir.op import Array
from trtc.ir.ops import Input
from trtc.ir.ops.attention import appended
from trtc.ir.sample import sample
from trtc.passes.pipeline import Step

TOLERANCE = {"f32": 1e-4, "f16": 2e-2, "bf16": 1e-1, "f8e4m3": 5e-1}
"""How far outputs may be off, as a part of the greatest one (or of 1), by the coarsest type that is computed in."""


class PrintAfterAll:
    """Prints the graph after each pass; what is printed are graphs that parse, one after another."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def __call__(self, step: Step) -> None:
        self.stream.write(f"// {step.number}: after {step.by}\n{step.after}\n\n")


class DumpTo:
    """Writes one file a pass: ``00-import.trtc`` before the first, then ``01-canonicalize.trtc`` and so on."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def __call__(self, step: Step) -> None:
        if step.number == 1:
            self.write("00-import", step.before)
        self.write(f"{step.number:02}-{step.by.name}", step.after)

    def write(self, name: str, graph: Graph) -> None:
        """Write one graph under a temporary name, then rename."""
        self.folder.mkdir(parents=True, exist_ok=True)
        part = self.folder / f".{name}.part"
        try:
            part.write_text(f"{graph}\n", encoding="utf-8")
            os.replace(part, self.folder / f"{name}.trtc")
        finally:
            part.unlink(missing_ok=True)


class Check:
    """Evaluates the graph before and after each pass on the same small random inputs, and raises where they differ.

    Args:
        seed: of the inputs, see ``trtc.ir.sample``.
        weights: the tensors of the checkpoint; random ones where there are none.
    Errors:
        PassError: names the pass's output that differs, by how much, and what rounding would explain.
    """

    def __init__(self, seed: int = 0, weights: Mapping[str, Array] | None = None) -> None:
        self.seed, self.weights = seed, weights
        self.origin: Graph | None = None   # the first graph: its ops say best what inputs are valid
        self.sizes: dict[str, int] = {}    # symbolic sizes that a pass has made numbers
        self.tensors: dict[str, Array] = {}

    def __call__(self, step: Step) -> None:
        self._sample(step)
        before, after = self._evaluate(step.before), self._evaluate(step.after)
        after |= {name: whole for name in before if (whole := self._whole(name, after)) is not None}
        if missing := [name for name in before if name not in after]:
            raise PassError(f"{step.by.name}: output {missing[0]} is gone, but a pass must keep every output")
        rate = max(TOLERANCE[dtype] for graph in (step.before, step.after) for dtype in computed_in(graph))
        packed = {i.key for i in step.after.inputs} - set(self.tensors)
        for name, want in before.items():
            got = after[name] if name not in self.tensors else after[name][..., : want.shape[-1]]   # of wider heads
            want, got = self._unpadded(name, want, got) if packed else (want, got)
            _compare(step.by.name, name, want, got, rate, self.seed)

    def _sample(self, step: Step) -> None:
        """Choose inputs at the first pass, and anew where a pass has made a symbolic size a number."""
        origin = self.origin = self.origin or step.before
        known = {i.key: i for i in step.after.inputs}
        fixed = {
            str(size): now
            for i in origin.inputs if i.key in known
            for size, now in zip(i.shape, known[i.key].shape, strict=False)
            if str(size) in origin.bounds and isinstance(now, int)
        }   # fmt: skip
        if not self.tensors or fixed != self.sizes:
            self.sizes, self.tensors = fixed, sample(origin, self.seed, self.weights, sizes=fixed)

    def _whole(self, name: str, after: Mapping[str, Array]) -> Array | None:
        """The cache that an output is, where a pass has made it the rows to append."""
        new = None if name in after else after.get(f"{name}.new")
        return None if new is None else appended(self.tensors[name], new, self.tensors["past_lengths"])

    def _evaluate(self, graph: Graph) -> dict[str, Array]:
        table = next((i for i in graph.inputs if i.key == "pages" and i.key not in self.tensors), None)
        if table:
            return self._evaluate_paged(graph, table)
        given = {i.key: self._given(i).astype(i.dtype.numpy) for i in graph.inputs}
        return graph.evaluate({**self.tensors, **given})

    def _evaluate_paged(self, graph: Graph, table: Input) -> dict[str, Array]:
        """With caches in pages, the last first, and out of them again."""
        batch, each = len(self.tensors["past_lengths"]), table.shape[1]
        assert isinstance(each, int)
        pages: Array = np.arange(batch * each, dtype=np.int32)[::-1].reshape(batch, each)
        given = {i.key: self._given(i).astype(i.dtype.numpy) for i in graph.inputs if i is not table}
        for key, tensor in graph.aliases.items():
            given[key] = _in_pages(given[key], pages, tensor.shape[2])
        made = graph.evaluate({**self.tensors, **given, table.key: pages})
        for key in graph.aliases:
            cache = made[key][pages].swapaxes(1, 2)   # [B, H, N, page, D]
            made[key] = cache.reshape(*cache.shape[:2], -1, cache.shape[4])[:, :, : self.tensors[key].shape[2]]
        return made

    def _given(self, tensor: Input) -> Array:
        """An input: of a padded batch, the packed tokens where a pass has packed them; of a cache, with wider heads."""
        if tensor.key == "query_starts" and tensor.key not in self.tensors:
            return np.concatenate([[0], np.cumsum(self.tensors["input_lengths"])])
        array = self.tensors[tensor.key]
        if array.ndim == tensor.type.rank + 1:
            return self._rows(array)
        wide = tensor.shape[-1] if tensor.shape else 0
        more = wide - array.shape[-1] if isinstance(wide, int) and array.ndim else 0
        return np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, more)]) if more > 0 else array

    def _unpadded(self, name: str, want: Array, got: Array) -> tuple[Array, Array]:
        """What is comparable of an output of padded tokens, and of packed ones."""
        if name not in self.tensors and want.ndim == got.ndim >= 3:   # of each token, where attention is not of padding
            return self._rows(want), self._rows(got)
        if name not in self.tensors:
            return (self._rows(want) if want.ndim == got.ndim + 1 else want), got
        ends = self.tensors["past_lengths"] + self.tensors["input_lengths"]
        places: Array = np.arange(int(want.shape[2]))[:, None]
        held: Array = places < ends[:, None, None, None]   # of a cache: the rest is padding's
        return np.where(held, want, 0), np.where(held, got, 0)

    def _rows(self, padded: Array) -> Array:
        """What a padded batch has of each token, one after another."""
        return np.concatenate([row[:n] for row, n in zip(padded, self.tensors["input_lengths"], strict=True)])


def _in_pages(cache: Array, pages: Array, page: Any) -> Array:
    """A cache [B, H, M, D] as a pool of pages [P, H, page, D] by a table [B, N] of them."""
    batch, heads, capacity, size = cache.shape
    filled: Array = np.pad(cache, [(0, 0), (0, 0), (0, pages.shape[1] * page - capacity), (0, 0)])
    pool: Array = np.empty((pages.size, heads, page, size), cache.dtype)
    pool[pages] = filled.reshape(batch, heads, -1, page, size).swapaxes(1, 2)
    return pool


def computed_in(graph: Graph) -> set[str]:
    """The names of the element types that a graph computes in, constants left out; f32 at least."""
    computed = (t.dtype for op in graph.ops if not graph.is_constant(op) for t in op.types)
    return {"f32", *(dtype.name for dtype in computed if dtype.is_float)}


def _compare(by: str, name: str, want: Array, got: Array, rate: float, seed: int) -> None:
    if want.shape != got.shape:
        raise PassError(f"{by}: output {name} has shape {got.shape} after the pass, but had {want.shape} before")
    a, b = want.astype(np.float64), got.astype(np.float64)
    off = difference(a, b)
    limit = rate * max(1.0, float(np.max(np.abs(a), initial=0, where=np.isfinite(a))))
    if off.size and not off.max() <= limit:
        at = np.unravel_index(int(off.argmax()), off.shape)
        raise PassError(
            f"{by}: output {name} differs by {off[at]:.3g}, but must differ by {limit:.3g} at most",
            f"at {list(map(int, at))}: {a[at]:.6g} before, {b[at]:.6g} after",
            f"inputs are random, of seed {seed}",
        )


def difference(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """How far elements are apart; equal infinities, and NaN on both sides, are not."""
    with np.errstate(invalid="ignore"):
        off = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
    return np.where(np.isnan(off), np.inf, off)
