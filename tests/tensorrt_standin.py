"""Stand-ins for the Python module of any TensorRT: they have exactly the names of one version, and record networks.

A name, argument, member or property that the version lacks raises what the real binding raises: AttributeError or
TypeError. What the names are comes from the bindings (tensorrt_api.py); what a recorded network's tensors are, from
tensorrt_recorded.py. Everything else does nothing and gives what its return type says: so a builder builds a plan of
no use.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
from tensorrt_api import table
from tensorrt_plugins import extend
from tensorrt_recorded import BEHAVIOUR

PLAIN: Mapping[str, type | tuple[type, ...]] = {
    "int": (int, np.integer), "float": (int, float), "bool": bool, "str": str, "capsule": object, "ndarray": np.ndarray,
}   # fmt: skip
NOTHING: Mapping[str, Any] = {"None": None, "bool": True, "int": 0, "float": 0.0, "str": "", "IHostMemory": b"a plan"}
"""What a method gives, and what a property holds at first, by its type."""


@dataclass(frozen=True)
class Signature:
    """One overload of a method.

    Args:
        names, types: of the arguments, self left out.
        defaults: whether each may be left out.
        result: the type of what it gives.
    """

    names: tuple[str, ...]
    types: tuple[str, ...]
    defaults: tuple[bool, ...]
    result: str

    def bound(self, trt: Any, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> dict[str, Any] | None:
        """The arguments by name; None if they do not fit."""
        given = dict(zip(self.names, arguments, strict=False)) | dict(named)
        if len(arguments) > len(self.names) or set(named) & set(self.names[: len(arguments)]):
            return None
        known = dict(zip(self.names, zip(self.types, self.defaults, strict=True), strict=True))
        fits = set(given) <= set(known) and all(optional or n in given for n, (_, optional) in known.items())
        return given if fits and all(takes(trt, known[n][0], v) for n, v in given.items()) else None


def signature(line: str) -> Signature:
    """The signature that a line of the table says."""
    match = re.match(r"\w+\((.*)\) -> (.*)$", line)
    assert match, line
    parts = [p for p in re.split(r", (?![^\[<]*[\]>])", match[1]) if p]
    heads = [p.partition(" = ") for p in parts]
    pairs = [head.partition(": ") for head, _, _ in heads]
    return Signature(
        tuple(n for n, _, _ in pairs), tuple(t for _, _, t in pairs), tuple(bool(e) for _, e, _ in heads), match[2]
    )


def takes(trt: Any, wanted: str, value: Any) -> bool:
    """Whether an argument of a type takes a value, as pybind11 converts."""
    if wanted.startswith("List["):
        return isinstance(value, list | tuple) and all(takes(trt, wanted[5:-1], v) for v in value)   # pyright: ignore
    if wanted in ("Dims", "Permutation"):
        return isinstance(value, tuple | list) and all(isinstance(v, int) for v in value)   # pyright: ignore
    if wanted in PLAIN:
        return isinstance(value, PLAIN[wanted])
    if wanted == "Weights" and isinstance(value, np.ndarray):
        return True
    kind = getattr(trt, wanted, None) if wanted.isidentifier() else None
    return kind is None or isinstance(value, kind)


def holds(trt: Any, of: str) -> Any:
    """What a property of this type holds before it is set, and what a method gives."""
    kind: Any = getattr(trt, of, None) if of.isidentifier() else None
    if of in NOTHING or kind is None:
        return NOTHING.get(of)
    return next(iter(kind)) if issubclass(kind, enum.Enum) else None


class Standing:
    """What every class of a stand-in is: it has no attributes but those of its table."""

    trt: Any

    def __new__(cls, *_: Any, **__: Any) -> Standing:
        made = super().__new__(cls)
        object.__setattr__(made, "held", {})          # what its properties were set to
        object.__setattr__(made, "own", {})   # what its behaviour keeps
        return made

    def __setattr__(self, name: str, value: Any) -> None:
        known = isinstance(getattr(type(self), name, None), property) or type(self).__module__ != STANDIN
        if not known and name != "__class__":
            raise AttributeError(f"{type(self).__name__} has no {name} in {self.trt.__name__}")
        object.__setattr__(self, name, value)


STANDIN = "a stand-in"


def method(trt: Any, kind: str, name: str, overloads: list[Signature]) -> Callable[..., Any]:
    """A method that checks its arguments, and does what `BEHAVIOUR` says of it, or nothing."""
    act = BEHAVIOUR.get(f"{kind}.{name}") or BEHAVIOUR.get(name)
    if kind == "INetworkDefinition" and name.startswith("add_"):
        act = act or BEHAVIOUR["add_"]

    def call(self: Any, *arguments: Any, **named: Any) -> Any:
        found = ((s, s.bound(trt, arguments, named)) for s in overloads)
        fits = next(((s, given) for s, given in found if given is not None), None)
        if fits is None:
            said = ", ".join([*map(repr, arguments), *(f"{k}={v!r}" for k, v in named.items())])
            raise TypeError(f"{kind}.{name}({said}): {trt.__name__} takes {overloads}")
        result, given = fits[0].result, fits[1]
        kind_of: Any = getattr(trt, result, None) if result.isidentifier() and result not in NOTHING else None
        made: Any = kind_of() if kind_of and not issubclass(kind_of, enum.Enum) else holds(trt, result)
        return act(self, name, made, given) if act else made

    return call


def property_of(trt: Any, kind: str, line: str) -> tuple[str, property]:
    """A property that holds what it is set to."""
    match = re.match(r"(\w+): (.*?)( \(read only\))?$", line)
    assert match, line
    name, of, fixed = match[1], match[2], bool(match[3])
    act = BEHAVIOUR.get(f"{kind}.{name}")

    def read(self: Any) -> Any:
        return act(self) if act and name not in self.held else self.held.get(name, holds(trt, of))

    def write(self: Any, value: Any) -> None:
        if not takes(trt, of, value):
            raise TypeError(f"{kind}.{name} = {value!r}: {trt.__name__} takes {of}")
        self.held[name] = value

    return name, property(read, None if fixed else write)


def built(trt: Any, kind: str, lines: list[str], made: Mapping[str, type]) -> type:
    """One class of a stand-in."""
    members = {n: int(v) for n, e, v in (line.partition(" = ") for line in lines) if e and "(" not in n}
    if members:
        return enum.Enum(kind, members, type=_Int)   # type: ignore[misc]
    body: dict[str, Any] = {"trt": trt, "__module__": STANDIN}
    overloads: dict[str, list[Signature]] = {}
    for line in lines:
        if match := re.match(r"(\w+)\(", line):
            overloads.setdefault(match[1], []).append(signature(line))
        elif ": " in line:
            name, body[name] = property_of(trt, kind, line)
    body.update((name, method(trt, kind, name, each)) for name, each in overloads.items())
    bases = [made[line[3:]] for line in lines if line.startswith("is ") and line[3:] in made]
    return type(kind, tuple(bases) or (Standing,), body)


class _Int:
    """What members of all enumerations can."""

    value: int

    def __int__(self) -> int:
        return int(self.value)


@cache
def standin(version: str) -> Any:
    """The module of one version, such as ``10.14`` or ``rtx 1.7``."""
    lines = table(version)
    trt = ModuleType(f"TensorRT {version}")
    made: dict[str, type] = {}

    def make(kind: str) -> None:
        if kind in made or kind not in lines:
            return
        for line in lines[kind]:
            if line.startswith("is "):
                make(line[3:])
        made[kind] = built(trt, kind, lines[kind], made)
        setattr(trt, kind, made[kind])

    for kind in lines:
        if kind:
            make(kind)
    for line in lines[""]:
        name, _, member = line.partition(" = ")
        of, _, member = member.partition(".")
        setattr(trt, name, getattr(made[of], member))
    if any("aot: bool" in line for line in lines.get("INetworkDefinition", ())):
        extend(trt)
    trt.__dict__["__version__"] = f"{version.split()[-1]}.0"
    return trt
