"""Pickles of tensors, interpreted: the opcodes that torch writes, and nothing that could run code.

Source: the opcodes of Python's pickletools; the choice of them is that of ``torch.load(weights_only=True)``.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

LITERALS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
PLAIN = {
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "SHORT_BINSTRING",
}   # fmt: skip
EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_DICT": dict, "EMPTY_LIST": list}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
IGNORED = {"PROTO", "FRAME", "STOP"}
MAX_STACK = 1 << 16   # values; pickle writes the items of a container by the thousand
MARK = object()


@dataclass(frozen=True)
class Function:
    """What a pickle may call: our stand-in for a function or a class."""

    call: Callable[..., Any]


@dataclass(frozen=True)
class Inert:
    """Stands for a class or a function that is passed over, and for whatever it would have made."""

    name: str


@dataclass(frozen=True)
class Kind:
    """Stands for a class whose objects are kept as `Record`."""

    name: str


@dataclass(eq=False)
class Record:
    """An object: the name of its class, and its state; each one is a key of its own."""

    kind: str
    state: Any = None


class Machine:
    """Interprets one pickle.

    A value is a number, a text, a tuple, list or dict of values, a record, or what the two functions below return. Keys
    of dicts are texts, numbers and records alone: tuples that share tuples could take forever to hash.

    Args:
        find: stands for the global of a module and a name; a `Function` where the pickle may call it, a `Kind` where it
            may make objects of it, an `Inert` where all that is done with it is passed over.
        persistent: stands for a persistent id.
    """

    def __init__(self, find: Callable[[str, str], Any], persistent: Callable[[Any], Any]) -> None:
        self.find, self.persistent = find, persistent
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.actions: dict[str, Callable[[], None]] = {
            "MARK": lambda: self.stack.append(MARK), "POP": lambda: self.stack.__delitem__(-1),
            "TUPLE": lambda: self.stack.append(tuple(self._marked())), "MEMOIZE": lambda: self._put(len(self.memo)),
            "APPEND": lambda: self._extend([self.stack.pop()]), "APPENDS": lambda: self._extend(self._marked()),
            "SETITEM": lambda: self._update(self._top(2)), "SETITEMS": lambda: self._update(self._marked()),
            "STACK_GLOBAL": lambda: self._global(*self._top(2)), "REDUCE": lambda: self._reduce(*self._top(2)),
            "NEWOBJ": lambda: self._new(*self._top(2)),
            "BUILD": lambda: self._build(self.stack.pop()),
            "BINPERSID": lambda: self.stack.append(self.persistent(self.stack.pop())),
        }   # fmt: skip

    def load(self, pickled: bytes) -> Any:
        """What the pickle holds.

        Errors: ValueError, TypeError, IndexError or KeyError where it is none or has another opcode, and those of the
        two functions.
        """
        for opcode, argument, _ in pickletools.genops(pickled):
            self._step(opcode.name, argument)
            if len(self.stack) > MAX_STACK:
                raise ValueError(f"there are more than {MAX_STACK} values on the stack")
        return self.stack[-1]

    def _step(self, name: str, argument: Any) -> None:
        if name in LITERALS:
            self.stack.append(LITERALS[name])
        elif name in PLAIN:
            self.stack.append(argument)
        elif name in EMPTY:
            self.stack.append(EMPTY[name]())
        elif name in TUPLES:
            self.stack.append(tuple(self._top(TUPLES[name])))
        elif name in ("BINPUT", "LONG_BINPUT"):
            self._put(argument)
        elif name in ("BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif name == "GLOBAL":
            self._global(*argument.split(" ", 1))
        elif name in self.actions:
            self.actions[name]()
        elif name not in IGNORED:
            raise ValueError(f"torch.save writes no {name}")

    def _top(self, count: int) -> list[Any]:
        """The last values, taken off the stack."""
        return [self.stack.pop() for _ in range(count)][::-1]

    def _marked(self) -> list[Any]:
        """The values above the last mark, taken off the stack with it."""
        values: list[Any] = []
        while (value := self.stack.pop()) is not MARK:
            values.append(value)
        return values[::-1]

    def _put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def _global(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise TypeError("the name of a global must be a text")
        self.stack.append(self.find(module, name))

    def _reduce(self, function: Any, arguments: Any) -> None:
        if isinstance(function, Inert):
            self.stack.append(function)
            return
        if not isinstance(function, Function) or not isinstance(arguments, tuple):
            raise TypeError(f"a {type(function).__name__} cannot be called")
        self.stack.append(function.call(*cast("tuple[Any, ...]", arguments)))

    def _new(self, kind: Any, _: Any) -> None:
        if not isinstance(kind, Inert | Kind):
            raise TypeError(f"a {type(kind).__name__} is no class")
        self.stack.append(Record(kind.name) if isinstance(kind, Kind) else kind)

    def _extend(self, values: list[Any]) -> None:
        if not isinstance(self.stack[-1], Inert):
            cast("list[Any]", self._last(list)).extend(values)

    def _update(self, values: list[Any]) -> None:
        if isinstance(self.stack[-1], Inert):
            return
        keys, items = values[::2], values[1::2]
        if not all(isinstance(key, str | int | float | Record) for key in keys):
            raise TypeError("the keys of a dict must be texts and numbers")
        cast("dict[Any, Any]", self._last(dict)).update(zip(keys, items, strict=True))

    def _build(self, state: Any) -> None:
        """The state of a record; attributes of a dict, such as the versions of its modules, are of no use here."""
        if isinstance(self.stack[-1], Inert):
            return
        if isinstance(self.stack[-1], Record):
            self.stack[-1].state = state
            return
        self._last(dict)
        if not isinstance(state, dict):
            raise TypeError("the attributes of a dict must be a dict")

    def _last(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            raise TypeError(f"a {type(self.stack[-1]).__name__} is no {kind.__name__}")
        return self.stack[-1]
