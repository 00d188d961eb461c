"""Text as a graph: a recursive-descent parser whose every error points at its place."""

from __future__ import annotations

import typing
from collections.abc import Callable
from dataclasses import MISSING
from typing import Any, TypeVar, cast

from trtc.ir.errors import IRError, ParseError, Source, nearest
from trtc.ir.graph import Graph
from trtc.ir.lexer import Token, tokens
from trtc.ir.op import OPS, Op, Value
from trtc.ir.ops.leaves import Input
from trtc.ir.printer import VERSION
from trtc.ir.types import DTYPES, Dim, DType, Size, TensorType

T = TypeVar("T")
MAX_DIGITS = 20   # i64 has 19 and a sign
UNSTATED = {"input", "result"}   # ops that no statement makes
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}


def parse(text: str, file: str = "<string>") -> Graph:
    """The graph that a text states.

    Errors:
        ParseError: the text is not a graph; IRError: an op or the graph is ill-typed. Both show the line.
    """
    return Parser(text, file).graph()


class Parser:
    """One text on its way to a graph."""

    def __init__(self, text: str, file: str) -> None:
        self.tokens, self.next = tokens(text, file), 0
        self.values: dict[str, Value] = {}

    # --- tokens

    @property
    def here(self) -> Token:
        return self.tokens[self.next]

    def error(self, message: str, *notes: str, at: Source | None = None) -> ParseError:
        return ParseError(message, *notes, source=at or self.here.source)

    def take(self, expected: str) -> Token:
        if self.here.text != expected or self.here.kind == "string":
            raise self.error(f"expected `{expected}`, found `{self.here.text}`")
        self.next += 1
        return self.tokens[self.next - 1]

    def take_kind(self, kind: str, what: str) -> Token:
        if self.here.kind != kind:
            raise self.error(f"expected {what}, found `{self.here.text}`")
        self.next += 1
        return self.tokens[self.next - 1]

    def accept(self, text: str) -> bool:
        found = self.here.text == text and self.here.kind != "string"
        self.next += found
        return found

    def listed(self, item: Callable[[], T], close: str) -> list[T]:
        """Items up to a closing mark, with commas between them."""
        found: list[T] = []
        while not self.accept(close):
            if found:
                self.take(",")
            found.append(item())
        return found

    def keyed(self, item: Callable[[], tuple[str, T]], close: str) -> dict[str, T]:
        """Items up to a closing mark by their keys, each given once."""
        found: dict[str, T] = {}

        def one() -> None:
            where = self.here.source
            key, value = item()
            if key in found:
                raise self.error(f"{key} is given twice", at=where)
            found[key] = value

        self.listed(one, close)
        return found

    # --- types and attributes

    def integer(self) -> int:
        token = self.take_kind("number", "an integer")
        if not token.text.removeprefix("-").isdigit():
            raise self.error(f"expected an integer, found `{token.text}`", at=token.source)
        return self._integer(token)

    def _integer(self, token: Token) -> int:
        if len(token.text) > MAX_DIGITS:
            message = f"the number has {len(token.text)} digits, but must have {MAX_DIGITS} at most"
            raise self.error(message, at=token.source)
        return int(token.text)

    def size(self) -> Size:
        total: Size = 0
        sign = -1 if self.accept("-") else 1
        while True:
            total = total + self._product() * sign
            if self.here.kind == "number" and self.here.text.startswith("-"):
                sign = 1   # `S -1` lexes as S and the number -1
            elif self.accept("+"):
                sign = 1
            elif self.accept("-"):
                sign = -1
            else:
                return total

    def _product(self) -> Size:
        def factor() -> Size:
            return self.integer() if self.here.kind == "number" else Dim.named(self.take_kind("word", "a size").text)

        value = factor()
        while self.accept("*"):
            value = value * factor()
        return value

    def dtype(self) -> DType:
        token = self.take_kind("word", "an element type")
        if token.text not in DTYPES:
            note = f"help: one of {', '.join(DTYPES)}"
            raise self.error(f"unknown element type `{token.text}`", note, at=token.source)
        return DTYPES[token.text]

    def type(self) -> TensorType:
        dtype = self.dtype()
        self.take("[")
        return TensorType(dtype, tuple(self.listed(self.size, "]")))

    def string(self) -> str:
        body = iter(self.take_kind("string", "a string").text[1:-1])
        return "".join(_ESCAPES.get(e := next(body), e) if c == "\\" else c for c in body)

    def number(self) -> float:
        token = self.take_kind("number", "a number")
        return self._integer(token) if token.text.removeprefix("-").isdigit() else float(token.text)

    def literal(self, hint: Any) -> Any:
        """An attribute of the type that its field is annotated with."""
        if hint is bool:
            token = self.take_kind("word", "true or false")
            if token.text not in ("true", "false"):
                raise self.error(f"expected true or false, found `{token.text}`", at=token.source)
            return token.text == "true"
        if typing.get_origin(hint) is tuple:
            self.take("[")
            inner = typing.get_args(hint)[0]
            return tuple(self.listed(lambda: self.literal(inner), "]"))
        readers: dict[Any, Callable[[], Any]] = {
            int: self.integer,
            float: self.number,
            str: self.string,
            DType: self.dtype,
            Size: self.size,
            TensorType: self.type,
        }
        return readers[hint]()

    # --- graphs

    def graph(self) -> Graph:
        self._version()
        self.take("graph")
        name = self.take_kind("name", "a graph name such as @main").text[1:]
        self.take("(")
        inputs = tuple(self.listed(self._input, ")"))
        bounds: dict[str, tuple[int, int]] = {}
        if self.accept("where"):
            bounds = self.keyed(self._bound, "{")
        else:
            self.take("{")
        while self.here.text != "return":
            self.statement()
        self.take("return")
        outputs = self.keyed(self._output, "}")
        self.take_kind("end", "the end of the text")
        graph = Graph(name, inputs, outputs, bounds)
        graph.verify()
        return graph

    def _version(self) -> None:
        if self.accept("trtc"):
            self.take("ir")
            where = self.here.source
            if (version := self.integer()) != VERSION:
                note = "help: print it with the trtc that wrote it, or upgrade trtc"
                raise self.error(f"the text is of IR version {version}, but this trtc reads {VERSION}", note, at=where)

    def _input(self) -> Input:
        token = self.take_kind("name", "an input such as %x")
        self.take(":")
        made = self._define(token, lambda: Input(token.text[1:], self.type(), source=token.source))
        return cast("Input", made)

    def _bound(self) -> tuple[str, tuple[int, int]]:
        name = self.take_kind("word", "a size name").text
        self.take("in")
        where, low = self.here.source, self.integer()
        self.take("..")
        high = self.integer()
        if not 0 <= low <= high:
            raise self.error(f"bounds {low}..{high} are empty or negative", at=where)
        return name, (low, high)

    def _output(self) -> tuple[str, Value]:
        if self.here.kind == "name":   # `return %y` names the output y
            key = self.here.text[1:]
            return key, self.value()
        key = self.take_kind("word", "an output such as logits = %y").text
        self.take("=")
        return key, self.value()

    def value(self) -> Value:
        token = self.take_kind("name", "a value such as %x")
        if token.text not in self.values:
            raise self.error(f"{token.text} is not defined", *nearest(token.text, self.values), at=token.source)
        return self.values[token.text]

    def _define(self, token: Token, make: Callable[[], Value]) -> Value:
        if token.text in self.values:
            raise self.error(f"{token.text} is defined twice", at=token.source)
        self.values[token.text] = value = make()
        return value

    # --- ops

    def statement(self) -> None:
        targets = [self.take_kind("name", "a statement such as %y = add %a, %b : f32[4]")]
        while self.accept(","):
            targets.append(self.take_kind("name", "a value such as %y"))
        self.take("=")
        word = self.take_kind("word", "an op")
        if word.text not in OPS or word.text in UNSTATED:
            known = sorted(OPS.keys() - UNSTATED)
            raise self.error(f"unknown op `{word.text}`", *nearest(word.text, known), at=word.source)
        kind = OPS[word.text]
        listed, named = self._operands(kind)
        attributes = self._attributes(kind) if self.accept("{") else {}
        stop = self.tokens[self.next - 1].source.end
        self.take(":")
        where, declared = self.here.source, [self.type()]
        while self.accept(","):
            declared.append(self.type())
        source = Source(where.file, where.text, targets[0].source.start, stop)
        if any(f.name == "of" for f in kind.fields):
            attributes["of"] = declared[0]
        arguments = self._arguments(kind, listed, {**named, **attributes}, word)
        op = kind(**arguments, loc=self._loc(), source=source)
        found = ", ".join(map(str, op.types))
        if list(op.types) != declared:
            said = ", ".join(map(str, declared))
            raise IRError(f"{op.name}: the result is {found}, but the text says {said}", source=where)
        if len(targets) != len(op.types):
            has = f"{len(op.types)} result{'' if len(op.types) == 1 else 's'}"
            raise self.error(f"{op.name} has {has}, but {len(targets)} are named", at=source)
        for token, result in zip(targets, op.results, strict=True):
            self._define(token, lambda result=result: result)

    def _operands(self, kind: type[Op]) -> tuple[list[Value], dict[str, Value]]:
        listed: list[Value] = []
        named: dict[str, Value] = {}
        optional = [f.name for f in kind.fields if f.optional]
        while self.here.kind in ("name", "word"):
            if self.here.kind == "name":
                listed.append(self.value())
            else:
                key = self.take_kind("word", "an operand")
                if key.text not in optional:
                    known = nearest(key.text, optional)
                    raise self.error(f"{kind.name} has no operand `{key.text}`", *known, at=key.source)
                if key.text in named:
                    raise self.error(f"{key.text} is given twice", at=key.source)
                self.take("=")
                named[key.text] = self.value()
            if not self.accept(","):
                break
        return listed, named

    def _attributes(self, kind: type[Op]) -> dict[str, Any]:
        fields = {f.name: f for f in kind.fields if not f.is_operand and f.name != "of"}

        def one() -> tuple[str, Any]:
            key = self.take_kind("word", "an attribute")
            if key.text not in fields:
                known = nearest(key.text, fields) or [f"its attributes: {', '.join(fields) or 'none'}"]
                raise self.error(f"{kind.name} has no attribute `{key.text}`", *known, at=key.source)
            self.take("=")
            return key.text, self.literal(fields[key.text].hint)

        return self.keyed(one, "}")

    def _arguments(self, kind: type[Op], listed: list[Value], given: dict[str, Any], word: Token) -> dict[str, Any]:
        required = [f for f in kind.fields if f.is_operand and not f.optional]
        variadic = bool(required) and required[-1].variadic
        least = len(required) - variadic
        if len(listed) < least or (len(listed) > least and not variadic):
            want = f"{least}{' or more' if variadic else ''} operand{'' if least == 1 and not variadic else 's'}"
            raise self.error(f"{kind.name} takes {want}, but {len(listed)} are given", at=word.source)
        for i, f in enumerate(required):
            given[f.name] = tuple(listed[i:]) if f.variadic else listed[i]
        for f in kind.fields:
            if f.name not in given and f.default is MISSING:
                raise self.error(f"{kind.name} needs the attribute `{f.name}`", at=word.source)
        return given

    def _loc(self) -> str:
        if not self.accept("loc"):
            return ""
        self.take("(")
        loc = self.string()
        self.take(")")
        return loc
