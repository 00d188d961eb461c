"""Lowerings: how each op becomes ONNX nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, TypeAlias, TypeVar

import numpy as np

from trtc.errors import MissingPackage
from trtc.ir.op import Array, Op, Value
from trtc.ir.types import Dim, DType, Size

MS = "com.microsoft"   # the domain of ONNX Runtime's contrib ops
Names: TypeAlias = "str | tuple[str, ...]"
LOWERINGS: dict[type[Op], Callable[[Any, Emitter], Names]] = {}
F = TypeVar("F", bound="Callable[[Any, Any], Names]")


def lower(*kinds: type[Op]) -> Callable[[F], F]:
    """Say how ops of these kinds are emitted: a function of the op and the emitter that returns its results' names."""

    def register(function: F) -> F:
        LOWERINGS.update(dict.fromkeys(kinds, function))
        return function

    return register


def onnx_module() -> Any:
    """The onnx package, or an error that names the extra."""
    try:
        return import_module("onnx")
    except ImportError:
        raise MissingPackage("onnx", "onnx", "write ONNX models") from None


class Emitter:
    """An ONNX graph under construction.

    Args:
        names: the tensor name of each value emitted so far; inputs and stored constants are there from the start.
        sizes: for each symbolic size, an input and axis that have it.
    """

    def __init__(self, names: dict[Value, str], sizes: Mapping[str, tuple[str, int]]) -> None:
        self.onnx = onnx_module()
        self.names, self.sizes = names, sizes
        self.nodes: list[Any] = []
        self.literals: dict[str, Array] = {}
        self.shared: dict[Any, Any] = {}   # what several lowerings make once
        self._known: dict[Any, str] = {}
        self._loc = ""

    def emit(self, op: Op) -> None:
        """Emit one op, its nodes named by its ``loc``."""
        self._loc = op.loc or op.name
        made = LOWERINGS[type(op)](op, self)
        self.names.update(zip(op.results, (made,) if isinstance(made, str) else made, strict=True))

    def __getitem__(self, value: Value) -> str:
        return self.names[value]

    def add(
        self, kind: str, *inputs: str, outputs: int = 1, unread: tuple[int, ...] = (), domain: str = "",
        **attributes: Any,
    ) -> Any:   # fmt: skip
        """One node; its output's name, or a tuple of several; those that are ``unread`` are not computed."""
        name = f"{self._loc}/{kind}.{len(self.nodes)}"
        made = ["" if i in unread else name if i == 0 else f"{name}.{i}" for i in range(outputs)]
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, made, name=name, domain=domain, **attributes))
        return made[0] if outputs == 1 else tuple(made)

    def literal(self, numbers: Sequence[int] | float | Array, dtype: Any = np.int64) -> str:
        """A small constant, written into the model once."""
        array = np.array(numbers, dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._known:
            self._known[key] = f"literal.{len(self.literals)}"
            self.literals[self._known[key]] = array
        return self._known[key]

    def onnx_dtype(self, dtype: DType) -> int:
        t = self.onnx.TensorProto
        kinds = {
            "f32": t.FLOAT, "f16": t.FLOAT16, "bf16": t.BFLOAT16, "f8e4m3": t.FLOAT8E4M3FN, "i4": t.INT4, "i8": t.INT8,
            "u8": t.UINT8, "i32": t.INT32, "i64": t.INT64, "bool": t.BOOL,
        }   # fmt: skip
        return kinds[dtype.name]

    def size(self, size: Size) -> str:
        """A size as an i64[1] tensor, computed from the inputs' shapes."""
        if isinstance(size, int):
            return self.literal([size])
        if size not in self._known:
            self._known[size] = self._polynomial(size)
        return self._known[size]

    def _polynomial(self, size: Dim) -> str:
        total = ""
        for names, coefficient in size.terms:
            term = self.literal([coefficient]) if coefficient != 1 or not names else ""
            for name in names:
                source, axis = self.sizes[name]
                factor = self._axis(source, axis)
                term = self.add("Mul", term, factor) if term else factor
            total = self.add("Add", total, term) if total else term
        return total

    def _axis(self, tensor: str, axis: int) -> str:
        key = (tensor, axis)
        if key not in self._known:
            self._known[key] = self.add("Shape", tensor, start=axis, end=axis + 1)
        return self._known[key]

    def shape(self, sizes: tuple[Size, ...], of: tuple[Size, ...] = ()) -> str:
        """A shape as an i64 tensor; for a reshape ``of`` a tensor, without looking at run-time sizes where possible."""
        if all(isinstance(s, int) for s in sizes):
            return self.literal([s for s in sizes if isinstance(s, int)])
        copied = [0 if i < len(of) and s == of[i] else s if isinstance(s, int) else -1 for i, s in enumerate(sizes)]
        if of and copied.count(-1) <= 1:
            return self.literal(copied)
        return self.add("Concat", *map(self.size, sizes), axis=0)
