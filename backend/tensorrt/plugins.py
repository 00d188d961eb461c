"""Kernels as TensorRT plugins that are compiled ahead of time: a plan holds their PTX, and loads without Python.

TensorRT launches such a kernel on its operands, then whole numbers of 32 bits, then its results, and on nothing else:
our PTX is put into that order, and its floats into its code.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from inspect import Parameter, Signature
from typing import Any, TypeGuard, cast

from trtc.backend.kernels import KERNELS, Kernel, Launch, Pointer, Scalar, ptx
from trtc.backend.tensorrt.api import Api
from trtc.backend.tensorrt.bindings import dtype_of
from trtc.expressions import WHOLE, Arithmetic, Expression, compute, names
from trtc.ir.op import Op
from trtc.ir.types import Dim, TensorType, bf16, f16, f32, i8, i32, i64

FEATURE = "plugins compiled ahead of time"
NAMESPACE = "trtc"
DTYPES = (f32, f16, bf16, i8, i32, i64)   # of a plugin's tensors; TensorRT's documentation excludes bool and u8
SHARED = 48 * 1024   # bytes of shared memory that a kernel has without asking its driver for more


@dataclass(frozen=True)
class Call:
    """A kernel's launch for one op, as a plugin makes it."""

    op: Op
    kernel: Kernel
    launch: Launch

    @cached_property
    def operands(self) -> tuple[str, ...]:
        """The operands by name, in the kernel's order; one that it takes twice stands there twice."""
        return tuple(a.name for a in self._pointers("operand"))

    @cached_property
    def sizes(self) -> Mapping[str, tuple[int, int]]:
        """For each named size that is an axis of an operand, the operand's place and the axis."""
        types = [self.op.operands[name].type for name in self.operands]
        axes = [(str(size), (i, axis)) for i, t in enumerate(types) for axis, size in enumerate(t.shape)]
        return {name: place for name, place in reversed(axes) if name.isidentifier()}

    @property
    def numbers(self) -> tuple[Expression, ...]:
        """The numbers that TensorRT passes."""
        return tuple(cast("Expression", a.value) for a in self.launch.arguments if _passed(a))

    @property
    def order(self) -> tuple[int, ...]:
        """The places of the arguments that TensorRT passes, in its order: operands, numbers, results by number."""
        places = list(enumerate(self.launch.arguments))
        pointers = [(a.kind, a.name, i) for i, a in places if isinstance(a, Pointer)]
        operands = [i for kind, _, i in pointers if kind == "operand"]
        results = sorted((int(name), i) for kind, name, i in pointers if kind == "result")
        return (*operands, *(i for i, a in places if _passed(a)), *(i for _, i in results))

    def unfit(self) -> str | None:
        """Why no plugin can launch it so; None if one can."""
        launch, written = self.launch, sorted(int(a.name) for a in self._pointers("result"))
        for kind in ("workspace", "counters"):
            if self._pointers(kind):
                return f"{self.kernel.name} takes {kind}, but a plugin gets operands, numbers and results alone"
        if launch.in_place:
            operands = ", ".join(launch.in_place.values())
            return f"{self.kernel.name} writes into {operands}, but a plugin only into results"
        if written != list(range(len(self.op.types))):
            return f"{self.kernel.name} takes the results {', '.join(map(str, written))}, but must take each once"
        if launch.shared_bytes > SHARED:
            return f"{self.kernel.name} takes {launch.shared_bytes} bytes of shared memory, but a plugin has {SHARED}"
        if any(isinstance(a, Scalar) and not (_passed(a) or _is_fixed(a)) for a in launch.arguments):
            return f"{self.kernel.name} takes a number that is neither i32 nor an f32 that is known now"
        for of in (*(self.op.operands[n].type for n in self.operands), *self.op.types):
            if of.dtype not in DTYPES:
                return f"{of.dtype} tensors are none that plugins take"
        missing = set[str]().union(*map(names, self._expressions())) - set(self.sizes)
        return f"{self.kernel.name} needs {min(missing)}, but no operand has it as an axis" if missing else None

    def ptx(self, architecture: int) -> str:
        """The kernel's PTX, checked against its launch, with its parameters as TensorRT passes them.

        Errors:
            TrtcError: the kernel takes other arguments than its launch passes.
        """
        launch, made = self.launch, self.kernel.compile(self.op, architecture).ptx
        ptx.check(made, launch)
        fixed = {i: float(a.value) for i, a in enumerate(launch.arguments) if _is_fixed(a)}
        return ptx.arranged(made, launch.entry, self.order, fixed)

    def _pointers(self, kind: str) -> list[Pointer]:
        return [a for a in self.launch.arguments if isinstance(a, Pointer) and a.kind == kind]

    def _expressions(self) -> list[Expression]:
        sizes = [str(size) for of in self.op.types for size in of.shape if isinstance(size, Dim)]
        return [*self.launch.grid, *self.numbers, *sizes]


def _passed(argument: Pointer | Scalar) -> TypeGuard[Scalar]:
    """Whether it is a number that TensorRT passes."""
    return isinstance(argument, Scalar) and argument.dtype == "i32"


def _is_fixed(argument: Pointer | Scalar) -> TypeGuard[Scalar]:
    """Whether it is a number that goes into the kernel's code."""
    return isinstance(argument, Scalar) and argument.dtype == "f32" and not isinstance(argument.value, str)


def is_kernels(kind: type[Op]) -> bool:
    """Whether a kind of op is there for the sake of kernels: trtc's ``cuda.`` ones, and those of users."""
    return kind in KERNELS and "." in kind.name


def call_of(op: Op, architecture: int) -> Call | str:
    """How a plugin computes an op; if none can, why not, one reason a kernel."""
    reasons: list[str] = []
    for kernel in KERNELS.get(type(op), []):
        why = kernel.serves(op, architecture)
        if why is None:
            call = Call(op, kernel, kernel.launch(op))
            why = call.unfit()
            if why is None:
                return call
        reasons.append(why)
    return "; ".join(reasons) or f"no kernel computes {op.name}"


def refuses(op: Op, api: Api) -> str | None:
    """Why an op is no plugin of a TensorRT; None if it is."""
    if reason := api.lacks(FEATURE):
        return reason
    if not api.capability:
        return f"its kernel is compiled for one GPU, but the target names none, as in tensorrt:{api.number}/sm90"
    found = call_of(op, api.capability)
    return found if isinstance(found, str) else None


def registered(trt: Any, call: Call, architecture: int) -> Callable[..., Any]:
    """What makes a plugin of tensors, registered with TensorRT; ops that are alike share one.

    Errors:
        TrtcError: the kernel takes other arguments than its launch passes.
    """
    plugins = getattr(trt, "plugin", None) or import_module("tensorrt.plugin")
    code = call.ptx(architecture)
    types = [call.op.operands[name].type for name in call.operands]
    said = repr((code, call.launch.record(), [str(t) for t in (*types, *call.op.types)]))
    name = f"{call.kernel.name}_{hashlib.sha256(said.encode()).hexdigest()[:16]}"
    if not hasattr(getattr(plugins.op, NAMESPACE, None), name):
        _register(trt, plugins, f"{NAMESPACE}::{name}", call, code)
    found: Callable[..., Any] = getattr(getattr(plugins.op, NAMESPACE), name)
    return found


def _register(trt: Any, plugins: Any, name: str, call: Call, code: str) -> None:
    """Tell TensorRT of a plugin's shapes and of its launch. Their functions are told apart by their signatures."""
    arithmetic, launch = _arithmetic(plugins), call.launch

    def among(given: tuple[Any, ...]) -> Callable[[Expression], Any]:
        sizes = {size: given[i].shape_expr[axis] for size, (i, axis) in call.sizes.items()}
        return lambda expression: compute(expression, sizes, arithmetic)

    def describe(*given: Any) -> tuple[Any, ...]:
        return tuple(_described(trt, plugins, given, of, among(given)) for of in call.op.types)

    def implement(*given: Any) -> tuple[Any, ...]:
        of = among(given)
        numbers = plugins.SymIntExprs(len(call.numbers))
        for i, number in enumerate(call.numbers):
            numbers[i] = plugins.SymInt32(of(number))
        shape = plugins.KernelLaunchParams(*map(of, launch.grid), *launch.block, launch.shared_bytes)
        return launch.entry, code, shape, numbers

    kind = Parameter.POSITIONAL_OR_KEYWORD
    takes = [Parameter(f"x{i}", kind, annotation=plugins.TensorDesc) for i in range(len(call.operands))]
    told = [Parameter("outputs", kind), Parameter("tactic", kind)]
    gives = tuple.__class_getitem__((plugins.TensorDesc,) * len(call.op.types))
    made = tuple[str, str, plugins.KernelLaunchParams, plugins.SymIntExprs]
    vars(describe)["__signature__"] = Signature(takes, return_annotation=gives)
    vars(implement)["__signature__"] = Signature([*takes, *told], return_annotation=made)
    plugins.register(name)(describe)
    plugins.aot_impl(name)(implement)


def _described(trt: Any, plugins: Any, given: tuple[Any, ...], of: TensorType, size: Callable[[str], Any]) -> Any:
    """TensorRT's description of a result. It asks for the type before it knows any shape."""
    dtype = dtype_of(trt, of.dtype)
    if any(extent.is_fake for x in given for extent in x.shape_expr):
        made = given[0].like()
        made.dtype = dtype
        return made
    shape = [size(str(s)) if isinstance(s, Dim) else s for s in of.shape]
    return plugins.from_shape_expr(tuple(shape), dtype)


def _arithmetic(plugins: Any) -> Arithmetic:
    """Of TensorRT's expressions of sizes, which have no number on their left."""
    signs = {"+": operator.add, "-": operator.sub, "*": operator.mul}
    acts = {**signs, "ceildiv": plugins.cdiv, "min": plugins.min, "max": plugins.max}

    def of(name: str) -> Callable[[Any, Any], Any]:
        def act(a: Any, b: Any) -> Any:
            if isinstance(a, int) and isinstance(b, int):
                return WHOLE[name](a, b)
            return acts[name](plugins.ShapeExpr(a) if isinstance(a, int) else a, b)

        return act

    return {name: of(name) for name in acts}
