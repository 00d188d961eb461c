"""What stand-ins of TensorRT have for plugins compiled ahead of time: ``tensorrt.plugin``, and what it calls.

`Plugins` does what TensorRT's documentation says of that module. `unpacked` loads TensorRT's own, from a folder where a
wheel of its bindings is unpacked: the same tests run over it. `launched` does with a plugin what the builder does.
"""

from __future__ import annotations

import enum
import importlib.util
import inspect
import math
import operator
import sys
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, TypeAlias

Shape: TypeAlias = Sequence["int | None"]

ACTS: dict[str, Callable[[int, int], int]] = {
    "SUM": operator.add, "SUB": operator.sub, "PROD": operator.mul, "MAX": max, "MIN": min,
    "CEIL_DIV": lambda a, b: -(-a // b), "FLOOR_DIV": lambda a, b: a // b, "EQUAL": operator.eq, "LESS": operator.lt,
}   # fmt: skip


class Launched(NamedTuple):
    """What TensorRT would launch."""

    entry: str
    ptx: str
    grid: tuple[int, ...]
    block: tuple[int, ...]
    shared: int
    numbers: tuple[int, ...]


class Expr:
    """An ``IDimensionExpr``: a size, or None where only a run tells it."""

    def __init__(self, value: int | None) -> None:
        self.value = value

    def is_constant(self) -> bool:
        return self.value is not None

    def get_constant_value(self) -> int | None:
        return self.value


class Builder:
    """An ``IExprBuilder``."""

    def constant(self, value: int) -> Expr:
        return Expr(value)

    def operation(self, act: Any, a: Expr, b: Expr) -> Expr:
        known = a.value is not None and b.value is not None
        return Expr(int(ACTS[act.name](a.value, b.value)) if known else None)   # type: ignore[arg-type]


def extend(trt: Any) -> None:
    """Give a stand-in what plugins need beside the network's ``add_plugin``."""
    for name in ("IPluginV3", "IPluginV3QuickCore", "IPluginV3QuickBuild", "IPluginV3QuickRuntime",
                 "IPluginV3QuickAOTBuild", "IPluginCreatorV3Quick", "ISymExpr"):   # fmt: skip
        setattr(trt, name, type(name, (), {}))
    trt.IPluginV3Layer = type("IPluginV3Layer", (trt.ILayer,), {"trt": trt, "__module__": trt.ILayer.__module__})
    requests = "PREFER_JIT PREFER_AOT STRICT_JIT STRICT_AOT"
    trt.QuickPluginCreationRequest = enum.Enum("QuickPluginCreationRequest", requests)
    trt.TensorRTPhase = enum.Enum("TensorRTPhase", "BUILD RUNTIME")
    trt.PluginArgType, trt.PluginArgDataType = enum.Enum("Type", "INT"), enum.Enum("Data", "INT8 INT16 INT32")
    trt.PluginFieldType = enum.Enum(
        "Field", "UNKNOWN CHAR INT8 INT16 INT32 INT64 FLOAT16 FLOAT32 FLOAT64 BF16 FP8 INT4 FP4 DIMS"
    )
    trt.DimensionOperation = enum.Enum("DimensionOperation", list(ACTS))
    trt.IDimensionExpr, trt.IExprBuilder, trt.DimsExprs = Expr, Builder, unknown
    trt.PluginField, trt.PluginFieldCollection = SimpleNamespace, list
    trt.PluginTensorDesc = type("PluginTensorDesc", (SimpleNamespace,), {})
    trt.DynamicPluginTensorDesc = type("DynamicPluginTensorDesc", (SimpleNamespace,), {})
    creators: dict[tuple[str, str], Any] = {}

    def register_creator(creator: Any, namespace: str) -> bool:
        return creators.setdefault((creator.name, namespace), creator) is creator

    def get_creator(name: str, _: str, namespace: str) -> Any:
        return creators[name, namespace]

    def get_plugin_registry() -> Any:
        return SimpleNamespace(register_creator=register_creator, get_creator=get_creator)

    trt.get_plugin_registry = get_plugin_registry
    trt.plugin = Plugins(trt)


def unknown(rank: int) -> list[Any]:
    """``DimsExprs`` of a rank."""
    return [None] * rank


def nothing(*_: object) -> None: ...


def unpacked(trt: Any, folder: Path) -> Any:
    """TensorRT's own ``tensorrt.plugin``, from ``folder/plugin``, over a stand-in."""
    before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "tensorrt"}
    trt.Logger.WARNING, trt.Logger.log = None, nothing   # which it greets with
    trt.Dims = type("Dims", (tuple,), {"MAX_DIMS": 8})
    path = folder / "plugin"
    spec = importlib.util.spec_from_file_location(
        "tensorrt.plugin", path / "__init__.py", submodule_search_locations=[str(path)]
    )
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    try:
        sys.modules.update({"tensorrt": trt, "tensorrt.plugin": module})
        spec.loader.exec_module(module)
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "tensorrt"]:
            del sys.modules[name]
        sys.modules.update(before)
    return module


class Extent:
    """A ``ShapeExpr``, ``SymInt32``: fake before shapes are known, None where only a run tells the size."""

    def __init__(self, value: Any = None, *, fake: bool = False) -> None:
        assert isinstance(value, int | Extent | None), value
        self.value: int | None = value.value if isinstance(value, Extent) else value
        self.is_fake = fake

    def act(self, name: str, other: Any) -> Extent:
        b = other.value if isinstance(other, Extent) else other
        known = self.value is not None and b is not None
        return Extent(ACTS[name](self.value, b) if known else None, fake=self.is_fake)   # type: ignore[arg-type]

    def __add__(self, other: Any) -> Extent:
        return self.act("SUM", other)

    def __sub__(self, other: Any) -> Extent:
        return self.act("SUB", other)

    def __mul__(self, other: Any) -> Extent:
        return self.act("PROD", other)


class Desc:
    """A ``TensorDesc``."""

    def __init__(self, shape_expr: Sequence[Extent], dtype: Any) -> None:
        self.shape_expr, self.dtype = shape_expr, dtype

    def like(self) -> Desc:
        return Desc(self.shape_expr, self.dtype)


class Params:
    """``KernelLaunchParams``: of grid, block and shared memory."""

    def __init__(self, *values: Any) -> None:
        assert len(values) == 7
        self.values = [Extent(v).value for v in values]


class Numbers(list[Any]):
    """``SymIntExprs`` of a length."""

    def __init__(self, length: int) -> None:
        super().__init__([None] * length)


class Plugins:
    """``tensorrt.plugin``."""

    TensorDesc, KernelLaunchParams, SymIntExprs, SymInt32, ShapeExpr = Desc, Params, Numbers, Extent, Extent

    def __init__(self, trt: Any) -> None:
        self.trt, self.op = trt, SimpleNamespace()

    def register(self, name: str) -> Callable[[Any], Any]:
        namespace, _, short = name.partition("::")
        assert short.isidentifier() and namespace.isidentifier(), name

        def keep(describe: Any) -> Any:
            said = inspect.signature(describe)
            assert all(p.annotation is Desc and p.default is p.empty for p in said.parameters.values())
            given = typing.get_args(said.return_annotation)
            assert given and set(given) == {Desc}
            space = vars(self.op).setdefault(namespace, SimpleNamespace())
            assert not hasattr(space, short), name
            setattr(space, short, Definition(self.trt, describe, len(given)))
            return describe

        return keep

    def aot_impl(self, name: str) -> Callable[[Any], Any]:
        namespace, _, short = name.partition("::")
        definition: Definition = getattr(getattr(self.op, namespace), short)

        def keep(implement: Any) -> Any:
            said, registered = inspect.signature(implement), inspect.signature(definition.describe)
            assert list(said.parameters) == [*registered.parameters, "outputs", "tactic"]
            assert typing.get_args(said.return_annotation) == (str, str, Params, Numbers)
            definition.implement = implement
            return implement

        return keep

    def from_shape_expr(self, shape: tuple[Any, ...], dtype: Any) -> Desc:
        return Desc([Extent(s) for s in shape], dtype)

    def cdiv(self, a: Extent, b: Any) -> Extent:
        return a.act("CEIL_DIV", b)

    def min(self, a: Extent, b: Any) -> Extent:
        return a.act("MIN", b)

    def max(self, a: Extent, b: Any) -> Extent:
        return a.act("MAX", b)


class Definition:
    """A registered plugin; called with tensors, it makes what the network takes."""

    def __init__(self, trt: Any, describe: Any, outputs: int) -> None:
        self.trt, self.describe, self.outputs = trt, describe, outputs
        self.implement: Any = None

    def __call__(self, *tensors: Any) -> Callable[[Any], Any]:
        assert len(tensors) == len(inspect.signature(self.describe).parameters)
        assert all(isinstance(t, self.trt.ITensor) for t in tensors)
        return lambda request: (list(tensors), [], Made(self))


class Made:
    """One plugin of a network, with the calls of TensorRT's own that `launched` and the network make."""

    def __init__(self, of: Definition) -> None:
        self.of = of

    def get_output_data_types(self, types: list[Any], ranks: list[int]) -> list[Any]:
        fakes = [Desc([Extent(fake=True)] * rank, of) for of, rank in zip(types, ranks, strict=True)]
        self.types = types
        return [d.dtype for d in self.of.describe(*fakes)]

    def get_output_shapes(self, inputs: list[list[Expr]], _: list[Any], __: Builder) -> list[list[Expr]]:
        self.given = [Desc([Extent(e.value) for e in shape], t) for shape, t in zip(inputs, self.types, strict=True)]
        self.made: tuple[Desc, ...] = self.of.describe(*self.given)
        return [[Expr(e.value) for e in d.shape_expr] for d in self.made]

    def get_supported_format_combinations(self, in_out: list[Any], inputs: int) -> None: ...
    def configure_plugin(self, inputs: list[Any], outputs: list[Any]) -> None: ...
    def set_tactic(self, tactic: int) -> None: ...

    def get_launch_params(
        self, _: Any, in_out: list[Any], inputs: int, params: Any, numbers: Any, builder: Builder
    ) -> None:
        assert self.of.implement
        self.kernel: Any = self.of.implement(*self.given, self.made, 0)
        names = ("grid_x", "grid_y", "grid_z", "block_x", "block_y", "block_z", "shared_mem")
        values: list[int | None] = self.kernel[2].values
        for name, value in zip(names, values, strict=True):
            setattr(params, name, SimpleNamespace(expr=Expr(value)))
        passed: list[Extent] = self.kernel[3]
        for i, number in enumerate(passed):
            numbers[i] = SimpleNamespace(expr=Expr(number.value))

    def get_kernel(self, inputs: list[Any], outputs: list[Any]) -> tuple[str, bytes]:
        return self.kernel[0], self.kernel[1].encode()


def output_types(plugin: Any, types: list[Any], ranks: list[int]) -> list[Any]:
    """The element types of a plugin's results, as a network asks for them."""
    return list(plugin.get_output_data_types(types, ranks))


def output_shapes(plugin: Any, shapes: Sequence[Shape]) -> list[tuple[int, ...]]:
    """The shapes of its results, after their types; -1 where only a run tells the size."""
    given = [[Expr(None if size == -1 else size) for size in shape] for shape in shapes]
    found = plugin.get_output_shapes(given, [], Builder())
    return [tuple(-1 if e.value is None else e.value for e in shape) for shape in found]


def launched(trt: Any, layer: Any, shapes: Sequence[Shape]) -> Launched:
    """What the builder would launch for a layer whose inputs have these shapes."""
    plugin = layer.own["plugin"]
    types = [t.dtype for t in layer.own["inputs"]]
    outputs = output_types(plugin, types, [len(s) for s in shapes])
    made = output_shapes(plugin, shapes)

    def desc(of: Any, shape: Any) -> Any:
        linear = trt.TensorFormat.LINEAR
        plain = trt.PluginTensorDesc(type=of, format=linear, dims=tuple(shape), scale=-1.0)
        return trt.DynamicPluginTensorDesc(desc=plain, opt=tuple(shape), min=tuple(shape), max=tuple(shape))

    first = [desc(of, shape) for of, shape in zip(types, shapes, strict=True)]
    last = [desc(of, shape) for of, shape in zip(outputs, made, strict=True)]
    plugin.get_supported_format_combinations([*first, *last], len(first))
    plugin.configure_plugin(first, last)
    plugin.set_tactic(0)
    params, numbers = SimpleNamespace(), Setter()
    plugin.get_launch_params([], [*first, *last], len(first), params, numbers, Builder())
    entry, code = plugin.get_kernel([d.desc for d in first], [d.desc for d in last])

    def size(name: str) -> int:
        return int(getattr(params, name).expr.value)

    axes = [tuple(size(f"{what}_{axis}") for axis in "xyz") for what in ("grid", "block")]
    passed = tuple(int(numbers[i].expr.value) for i in sorted(numbers))
    assert math.prod(axes[1]) <= 1024
    return Launched(entry, code.decode(), axes[0], axes[1], size("shared_mem"), passed)


class Setter(dict[int, Any]):
    """``ISymExprs``: of the numbers that a kernel gets."""

    nbSymExprs = 0
