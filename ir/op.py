"""Operations and values: the nodes of a graph."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import MISSING, dataclass, field
from dataclasses import fields as dataclass_fields
from functools import cached_property
from importlib import import_module
from typing import Any, ClassVar, TypeAlias, cast, get_type_hints

import numpy.typing as npt
from typing_extensions import dataclass_transform

from trtc.ir import types
from trtc.ir.errors import IRError, Source
from trtc.ir.types import DType, Size, TensorType

Array: TypeAlias = npt.NDArray[Any]
OPS: dict[str, type[Op]] = {}

_path: ContextVar[str] = ContextVar("path", default="")
_sizes: ContextVar[Mapping[str, int]] = ContextVar("sizes")


@contextlib.contextmanager
def at(part: str, *, absolute: bool = False) -> Generator[None]:
    """Name the part of the model that is being built: ``with at("layers.0"):`` ``with at("mlp"):``."""
    outer = "" if absolute else _path.get()
    token = _path.set(f"{outer}.{part}" if outer and part else outer or part)
    try:
        yield
    finally:
        _path.reset(token)


@contextlib.contextmanager
def binding(sizes: Mapping[str, int]) -> Generator[None]:
    """Give the named sizes their values while ops are evaluated."""
    token = _sizes.set(sizes)
    try:
        yield
    finally:
        _sizes.reset(token)


def concrete(*shape: Size) -> tuple[int, ...]:
    """The numbers that these sizes are in the evaluation under way."""
    return tuple(s if isinstance(s, int) else types.evaluate(s, _sizes.get()) for s in shape)


class Value:
    """A typed tensor in a graph."""

    type: TensorType
    types: tuple[TensorType, ...]   # of every result of the op; ``type`` is the first

    @property
    def dtype(self) -> DType:
        return self.type.dtype

    @property
    def shape(self) -> tuple[Size, ...]:
        return self.type.shape


@dataclass(frozen=True)
class Field:
    """One field of an op class: an operand, a list of operands or an attribute."""

    name: str
    hint: Any   # the Python type it is annotated with
    default: Any
    is_operand: bool
    optional: bool
    variadic: bool


def _fields(cls: type) -> Iterator[Field]:
    hints = get_type_hints(cls)
    for f in dataclass_fields(cls):
        if f.name in ("loc", "source"):
            continue
        hint = hints[f.name]
        single, optional, variadic = hint is Value, hint == Value | None, hint == tuple[Value, ...]
        default = f.default if f.default is not MISSING else None if optional else MISSING
        yield Field(f.name, hint, default, single or optional or variadic, optional, variadic)


def _evaluate_decomposed(op: Op, *arrays: Any) -> Any:
    """The meaning of an op that does not say it itself: what its decomposition gives."""
    graphs: Any = import_module("trtc.ir.graph")   # which imports this module
    parts = op.decompose()
    if parts is None:
        raise NotImplementedError(f"{type(op).__name__} does not say what it means")
    outputs = parts if isinstance(parts, tuple) else (parts,)
    flat: list[Array] = []
    for given in arrays:
        flat += given if isinstance(given, tuple) else [] if given is None else [given]
    known = dict(zip(op.operands.values(), flat, strict=True))
    values = known | dict(graphs.run(graphs.ordered(outputs, known), known))
    found = tuple(values[v] for v in outputs)
    return found if len(op.types) > 1 else found[0]


@dataclass_transform(frozen_default=True, eq_default=False, field_specifiers=(field,))
@dataclass(frozen=True, eq=False, repr=False)
class Op(Value):
    """An immutable operation; as a value, its (first) result.

    A subclass states its operands (fields annotated ``Value``, ``Value | None`` or ``tuple[Value, ...]``), its
    attributes (all other fields), ``infer`` (the result's type, or an ``IRError``) and ``evaluate`` (its meaning on
    NumPy arrays: one argument an operand field, in order; left out, it is what the decomposition means). Types are
    inferred on construction, so an ill-typed op cannot exist. An op with several results infers a tuple of types;
    ``op.results`` are its values, the op itself being the first. ``decompose`` states the same meaning in simpler ops;
    a primitive has none.
    """

    name: ClassVar[str] = ""
    fields: ClassVar[tuple[Field, ...]] = ()
    evaluate: ClassVar[Callable[..., Any]] = _evaluate_decomposed
    loc: str = field(default_factory=_path.get, kw_only=True)
    source: Source | None = field(default=None, kw_only=True)

    def __init_subclass__(cls, *, name: str = "", **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        dataclass(frozen=True, eq=False, repr=False)(cls)
        cls.fields = tuple(_fields(cls))
        if name:
            if name in OPS:
                raise TypeError(f"op name {name!r} is taken by {OPS[name].__qualname__}")
            cls.name, OPS[name] = name, cls

    def __post_init__(self) -> None:
        try:
            inferred = self.infer()
            found = inferred if isinstance(inferred, tuple) else (inferred,)
            empty = next((str(t) for t in found for s in t.shape if isinstance(s, int) and s < 1), "")
            require(not empty, f"the result is {empty}, but sizes must be positive")
        except IRError as error:
            operands = [f"{k} : {v.type}" for k, v in self.operands.items()]
            message = f"{self.name}: {error.message}" + (f", at {self.loc}" if self.loc and not self.source else "")
            raise IRError(message, *operands, *error.facts, source=self.source) from None
        object.__setattr__(self, "types", found)
        object.__setattr__(self, "type", found[0])

    def infer(self) -> TensorType | tuple[TensorType, ...]:
        raise NotImplementedError(f"{type(self).__name__} does not say what type it has")

    def decompose(self) -> Value | tuple[Value, ...] | None:
        """The same meaning in simpler ops, or None for a primitive; a tuple for an op of several results."""
        return None

    @cached_property
    def results(self) -> tuple[Value, ...]:
        """Every result: the op itself, then the others."""
        return (self, *(Result(self, i, loc=self.loc, source=self.source) for i in range(1, len(self.types))))

    @cached_property
    def operands(self) -> Mapping[str, Value]:
        """The operands by name; those of a list as ``parts[0]``, ``parts[1]``."""
        found: dict[str, Value] = {}
        for f in self.fields:
            value = getattr(self, f.name)
            if f.variadic:
                found.update((f"{f.name}[{i}]", v) for i, v in enumerate(value))
            elif f.is_operand and value is not None:
                found[f.name] = value
        return found

    @cached_property
    def attributes(self) -> Mapping[str, Any]:
        return {f.name: getattr(self, f.name) for f in self.fields if not f.is_operand}

    def with_operands(self, new: Mapping[Value, Value]) -> Op:
        """The same op on other operands, by the mapping; itself where none changed."""
        changed: dict[str, Any] = {}
        retyped = False
        for f in self.fields:
            if not f.is_operand or (old := getattr(self, f.name)) is None:
                continue
            each = cast("tuple[Value, ...]", old if f.variadic else (old,))
            swapped = tuple(new.get(v, v) for v in each)
            if any(a is not b for a, b in zip(each, swapped, strict=True)):
                changed[f.name] = swapped if f.variadic else swapped[0]
                retyped = retyped or any(a.type != b.type for a, b in zip(each, swapped, strict=True))
        return self._copy(changed, retyped) if changed else self

    def with_attributes(self, **attributes: Any) -> Op:
        """The same op with some attributes (or ``loc``) changed."""
        return self._copy(attributes, True)

    def _copy(self, changed: Mapping[str, Any], retyped: bool) -> Op:
        copy = object.__new__(type(self))
        kept = {k: v for k, v in self.__dict__.items() if k not in ("results", "operands", "attributes")}
        copy.__dict__.update(kept, **changed)
        if retyped:
            copy.__post_init__()
        return copy

    def arguments(self, array: Mapping[Value, Array]) -> Iterator[Any]:
        """What ``evaluate`` takes: the array of each operand field, None for an absent one, a tuple for a list."""
        for f in self.fields:
            if f.is_operand:
                value = getattr(self, f.name)
                if f.variadic:
                    yield tuple(array[v] for v in value)
                else:
                    yield None if value is None else array[value]


class Result(Op, name="result"):
    """A further result of an op that has several; it is written on the op's own line of text.

    Operands:
        of: the op.
    Attributes:
        index: which result, from 1; result 0 is the op itself.
    """

    of: Value
    index: int

    def infer(self) -> TensorType:
        assert isinstance(self.of, Op)
        return self.of.types[self.index]


def require(condition: bool, message: str, *notes: str) -> None:
    """Raise an ``IRError`` unless the condition holds."""
    if not condition:
        raise IRError(message, *notes)
