"""The whole text of every error of the IR: what is wrong, what must be, and where."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from trtc.ir import ops
from trtc.ir.errors import IRError, nearest
from trtc.ir.op import Op, Value, at
from trtc.ir.ops import Input
from trtc.ir.target import target
from trtc.ir.text import parse
from trtc.ir.types import Dim, TensorType, bool_, f16, f32, i8, i32

X, H, N, C = Input("x", f32["B", 4]), Input("h", f16["B", 4]), Input("i", i32["B", 4]), Input("c", bool_["B", 4])
Y, R0 = Input("y", f32["B", 5]), Input("r", TensorType(f32, ()))
Q, K = Input("q", f32["B", 4, "S", 8]), Input("k", f32["B", 2, "T", 8])
G = Input("g", f32[4,])


def heads(n: int, head: int = 8, batch: str | int = "B", of: Any = f32) -> Input:
    return Input("k", of[batch, n, "T", head])


ILL_TYPED: Mapping[Callable[[], Op], str] = {
    lambda: ops.Add(X, H): "add: operands have different dtypes, f32 and f16\n  = a : f32[B, 4]\n  = b : f16[B, 4]",
    lambda: ops.Add(X, Y): "add: axis 1 has sizes 4 and 5, which do not broadcast\n  = a : f32[B, 4]"
    "\n  = b : f32[B, 5]",
    lambda: ops.Add(C, C): "add: operands are bool, but must be numbers\n  = a : bool[B, 4]\n  = b : bool[B, 4]",
    lambda: ops.Div(N, N): "div: operands are i32, but must be floats\n  = a : i32[B, 4]\n  = b : i32[B, 4]",
    lambda: ops.Pow(N, N): "pow: operands are i32, but must be floats\n  = a : i32[B, 4]\n  = b : i32[B, 4]",
    lambda: ops.Less(X, N): "less: operands have different dtypes, f32 and i32\n  = a : f32[B, 4]\n  = b : i32[B, 4]",
    lambda: ops.And(C, X): "and: operands are bool and f32, but must be bool\n  = a : bool[B, 4]\n  = b : f32[B, 4]",
    lambda: ops.Where(X, X, X): "where: condition is f32, but must be bool\n"
    "  = condition : f32[B, 4]\n  = a : f32[B, 4]\n  = b : f32[B, 4]",
    lambda: ops.Exp(N): "exp: x is i32, but must be a float\n  = x : i32[B, 4]",
    lambda: ops.SwiGLU(X, Y): "swiglu: gate is f32[B, 4], but up is f32[B, 5]\n  = gate : f32[B, 4]"
    "\n  = up : f32[B, 5]",
    lambda: ops.MatMul(X, X): "matmul: the last axis of a is 4, but b takes B\n  = a : f32[B, 4]\n  = b : f32[B, 4]",
    lambda: ops.MatMul(G, X): "matmul: operands have ranks 1 and 2, but must have 2 at least\n  = a : f32[4]"
    "\n  = b : f32[B, 4]",
    lambda: ops.Linear(X, Input("w", f32[3, 5])): "linear: the last axis of x is 4, but the weight takes 5\n"
    "  = x : f32[B, 4]\n  = weight : f32[3, 5]",
    lambda: ops.Linear(X, G): "linear: weight has rank 1, but must have rank 2\n  = x : f32[B, 4]\n  = weight : f32[4]",
    lambda: ops.Linear(X, Input("w", f32[3, 4]), G): "linear: bias is f32[4], but must be f32[3]\n"
    "  = x : f32[B, 4]\n  = weight : f32[3, 4]\n  = bias : f32[4]",
    lambda: ops.Embedding(X, X): "embedding: ids are f32, but must be integers\n  = table : f32[B, 4]"
    "\n  = ids : f32[B, 4]",
    lambda: ops.RMSNorm(X, Y): "rms_norm: weight is f32[B, 5], but the last axis of x asks for f32[4]\n"
    "  = x : f32[B, 4]\n  = weight : f32[B, 5]",
    lambda: ops.RMSNorm(X, G, eps=0): "rms_norm: eps is 0, but must be positive\n  = x : f32[B, 4]"
    "\n  = weight : f32[4]",
    lambda: ops.LayerNorm(R0, G): "layer_norm: x has rank 0, but must have rank 1 at least\n"
    "  = x : f32[]\n  = weight : f32[4]",
    lambda: ops.ReduceSum(X, 2): "reduce_sum: x has no axis 2\n  = x : f32[B, 4]",
    lambda: ops.ReduceMean(N, 0): "reduce_mean: x is i32, but must be a float\n  = x : i32[B, 4]",
    lambda: ops.Softmax(X, -1): "softmax: x has no axis -1\n  = x : f32[B, 4]",
    lambda: ops.Reshape(X, (3, 4)): "reshape: x has 4*B elements, but the new shape has 12\n  = x : f32[B, 4]",
    lambda: ops.Broadcast(X, (4,)): "broadcast: x does not broadcast to the new shape\n  = x : f32[B, 4]",
    lambda: ops.Transpose(X, (0, 0)): "transpose: axes [0, 0] are not an order of 0..1\n  = x : f32[B, 4]",
    lambda: ops.Slice(X, 1, 2, 3): "slice: elements 2..5 are outside axis 1 of size 4\n  = x : f32[B, 4]",
    lambda: ops.Slice(X, 0, 0, 1): "slice: elements 0..1 are outside axis 0 of size B\n  = x : f32[B, 4]",
    lambda: ops.Concat((X, Y), 0): "concat: parts f32[B, 4] and f32[B, 5] differ beyond axis 0\n"
    "  = parts[0] : f32[B, 4]\n  = parts[1] : f32[B, 5]",
    lambda: ops.Concat((), 0): "concat: there are no parts to join",
    lambda: ops.Gather(X, X): "gather: indices are f32, but must be integers\n  = x : f32[B, 4]"
    "\n  = indices : f32[B, 4]",
    lambda: ops.Gather(X, N, 1, 2): "gather: batch is 2, but must be in 0..1\n  = x : f32[B, 4]"
    "\n  = indices : i32[B, 4]",
    lambda: ops.Weight("w", X.type): "weight: weight w is f32[B, 4], but the sizes of a weight are numbers",
    lambda: ops.Constant((1, 2), f32[3,]): "constant: 2 values are given, but f32[3] has 3",
    lambda: ops.Constant((300,), i8[3,]): "constant: 300 is given, but i8 has no such number",
    lambda: ops.Constant((0.5,), i32[3,]): "constant: 0.5 is given, but i32 has no such number",
    lambda: ops.Iota(-3): "iota: the result is i32[-3], but sizes must be positive",
    lambda: ops.SizeOf(X, 2): "size_of: x has no axis 2\n  = x : f32[B, 4]",
    lambda: ops.Rope(Q, K, K): "rope: cos is f32[B, 2, T, 8], but x has B x S tokens\n"
    "  = x : f32[B, 4, S, 8]\n  = cos : f32[B, 2, T, 8]\n  = sin : f32[B, 2, T, 8]",
    lambda: ops.Attention(Q, heads(3), heads(3)): "attention: q has 4 heads, which is no multiple of the 3 of k\n"
    "  = q : f32[B, 4, S, 8]\n  = k : f32[B, 3, T, 8]\n  = v : f32[B, 3, T, 8]",
    lambda: ops.Attention(Q, heads(2, 6), K): "attention: q has head size 8, but k has 6\n"
    "  = q : f32[B, 4, S, 8]\n  = k : f32[B, 2, T, 6]\n  = v : f32[B, 2, T, 8]",
    lambda: ops.Attention(Q, heads(2, batch=3), K): "attention: q has batch B, but k has 3\n"
    "  = q : f32[B, 4, S, 8]\n  = k : f32[3, 2, T, 8]\n  = v : f32[B, 2, T, 8]",
    lambda: ops.Attention(Q, K, heads(4)): "attention: k is f32[B, 2, T, 8], but v is f32[B, 4, T, 8]\n"
    "  = q : f32[B, 4, S, 8]\n  = k : f32[B, 2, T, 8]\n  = v : f32[B, 4, T, 8]",
    lambda: ops.Attention(Q, K, K, N): "attention: lengths is i32[B, 4], but must be i32[B]\n"
    "  = q : f32[B, 4, S, 8]\n  = k : f32[B, 2, T, 8]\n  = v : f32[B, 2, T, 8]\n  = lengths : i32[B, 4]",
    lambda: ops.Attention(Q, K, K, None, Input("m", bool_["B", "S", "T"])): "attention: axis 1 has sizes B and 4, "
    "which do not broadcast\n  = q : f32[B, 4, S, 8]\n  = k : f32[B, 2, T, 8]\n  = v : f32[B, 2, T, 8]"
    "\n  = mask : bool[B, S, T]",
    lambda: ops.Attention(Q, K, K, None, Input("m", bool_[2, "B", 1, 1, 1])): "attention: mask is bool[2, B, 1, 1, 1], "
    "but must broadcast to bool[B, 4, S, T]\n  = q : f32[B, 4, S, 8]\n  = k : f32[B, 2, T, 8]\n"
    "  = v : f32[B, 2, T, 8]\n  = mask : bool[2, B, 1, 1, 1]",
    lambda: ops.Attention(Q, K, K, window=-1): "attention: window is -1, but must not be negative\n"
    "  = q : f32[B, 4, S, 8]\n  = k : f32[B, 2, T, 8]\n  = v : f32[B, 2, T, 8]",
    lambda: ops.KVCacheUpdate(K, Q, N): "kv_cache_update: new is f32[B, 4, S, 8], but the cache is f32[B, 2, T, 8]\n"
    "  = cache : f32[B, 2, T, 8]\n  = new : f32[B, 4, S, 8]\n  = start : i32[B, 4]",
    lambda: ops.KVCacheUpdate(K, K, N): "kv_cache_update: start is i32[B, 4], but must be i32[B]\n"
    "  = cache : f32[B, 2, T, 8]\n  = new : f32[B, 2, T, 8]\n  = start : i32[B, 4]",
    lambda: ops.Unpack(X, 4): "unpack: x is f32, but must be of integers\n  = x : f32[B, 4]",
    lambda: ops.Unpack(N, 9): "unpack: bits is 9, but must be in 1..8\n  = x : i32[B, 4]",
    lambda: ops.Unpack(N, 3): "unpack: the last axis has 128 bits, but must have a multiple of 3\n  = x : i32[B, 4]",
    lambda: ops.Unpack(Input("t", i32[2, "B"]), 4): "unpack: x is i32[2, B], but must be of 8 bits or more an element, "
    "and its last axis of a known size\n  = x : i32[2, B]",
    lambda: ops.Bitcast(R0, i8): "bitcast: x has rank 0, but must have rank 1 at least\n  = x : f32[]",
    lambda: ops.Bitcast(X, bool_): "bitcast: to is bool, but must be of 8 bits or more\n  = x : f32[B, 4]",
    lambda: ops.Bitcast(Input("t", i8["B", 3]), f16): "bitcast: the last axis has 24 bits, but f16 has 16\n"
    "  = x : i8[B, 3]",
}   # fmt: skip


@pytest.mark.parametrize("make", ILL_TYPED, ids=[m.partition(":")[0] for m in ILL_TYPED.values()])
def test_ill_typed_op(make: Callable[[], Op]) -> None:
    with pytest.raises(IRError) as caught:
        make()
    assert str(caught.value) == f"error: {ILL_TYPED[make]}"


def test_an_ill_typed_op_says_where_it_stands() -> None:
    with pytest.raises(IRError) as caught, at("layers.3.mlp"):
        ops.Tanh(N)
    assert str(caught.value) == "error: tanh: x is i32, but must be a float, at layers.3.mlp\n  = x : i32[B, 4]"


def caret(line: str, at_: str, message: str, *notes: str, number: int = 2, nth: int = 0) -> str:
    """The whole message for a line of a text, with the marks under a part of it."""
    column = -1
    for _ in range(nth + 1):
        column = line.index(at_, column + 1)
    shown = [f"error: {message}", f" --> f.trtc:{number}:{column + 1}", "  |", f"{number} | {line}"]
    return "\n".join([*shown, f"  | {' ' * column}{'^' * len(at_)}", *(f"  = {n}" for n in notes)])


LINES = {
    "%y = rulu %x : f32[B, 4]": ("rulu", "unknown op `rulu`", "help: did you mean `relu`?"),
    "%y = result %x {index = 1} : f32[B, 4]": ("result", "unknown op `result`", "help: did you mean `relu`?"),
    "%y = relu %z : f32[B, 4]": ("%z", "%z is not defined"),
    "%y = relu %xx : f32[B, 4]": ("%xx", "%xx is not defined", "help: did you mean `%x`?"),
    "%x = relu %x : f32[B, 4]": ("%x", "%x is defined twice"),
    "%y = relu : f32[B, 4]": ("relu", "relu takes 1 operand, but 0 are given"),
    "%y = add %x, %x, %x : f32[B, 4]": ("add", "add takes 2 operands, but 3 are given"),
    "%y = slice %x {axis = 1, start = 0} : f32[B, 2]": ("slice", "slice needs the attribute `size`"),
    "%y = slice %x {axs = 1} : f32[B, 2]": ("axs", "slice has no attribute `axs`", "help: did you mean `axis`?"),
    "%y = relu %x {axis = 1} : f32[B, 2]": ("axis", "relu has no attribute `axis`", "its attributes: none"),
    "%y = slice %x {axis = 1, axis = 1} : f32[B, 2]": ("axis", "axis is given twice", 1),
    "%y = slice %x {axis = 1.5, start = 0, size = 1} : f32[B, 2]": ("1.5", "expected an integer, found `1.5`"),
    "%y = gelu %x {tanh = 1} : f32[B, 4]": ("1", "expected true or false, found `1`"),
    "%y = gelu %x {tanh = yes} : f32[B, 4]": ("yes", "expected true or false, found `yes`"),
    "%y = cast %x {to = f33} : f32[B, 4]": (
        "f33", "unknown element type `f33`", "help: one of f32, f16, bf16, f8e4m3, i4, i8, u8, i32, i64, bool",
    ),
    "%y = linear %x, %w, bais = %x : f32[B, 4]": ("%w", "%w is not defined"),
    "%y = linear %x, %x, bais = %x : f32[B, 4]": (
        "bais", "linear has no operand `bais`", "help: did you mean `bias`?",
    ),
    "%y = relu %x : f32[B, 5]": ("f32[B, 5]", "relu: the result is f32[B, 4], but the text says f32[B, 5]"),
    "%y, %z = relu %x : f32[B, 4]": (
        "%y, %z = relu %x", "relu has 1 result, but 2 are named",
    ),
    "%y = relu %x f32[B, 4]": ("f32", "expected `:`, found `f32`"),
    "%y = relu %x : f32[B, 4] loc(place)": ("place", "expected a string, found `place`"),
    "%y ? relu %x : f32[B, 4]": ("?", "unexpected character '?'"),
    "relu %x : f32[B, 4]": ("relu", "expected a statement such as %y = add %a, %b : f32[4], found `relu`"),
    "%y = iota {size = 123456789012345678901} : i32[4]": (
        "123456789012345678901", "the number has 21 digits, but must have 20 at most",
    ),
    "%y = exp %i : i32[B]": ("%y = exp %i", "exp: x is i32, but must be a float", "x : i32[B]"),
}   # fmt: skip


@pytest.mark.parametrize("line", LINES)
def test_parse_error(line: str) -> None:
    mark, message, *notes = LINES[line]
    nth = next((n for n in notes if isinstance(n, int)), 0)
    text = f"graph @g(%x: f32[B, 4], %i: i32[B]) where B in 1..4 {{\n{line}\n  return y = %y\n}}"
    with pytest.raises(IRError) as caught:
        parse(text, "f.trtc")
    expected = caret(line, str(mark), str(message), *(n for n in notes if isinstance(n, str)), nth=nth)
    if mark == "f32[B, 5]":
        expected = expected.replace("^" * len("f32[B, 5]"), "^^^")   # the first token of the type
    assert str(caught.value) == expected


HEADERS = {
    "trtc ir 2\ngraph @g(%x: f32[4]) {\n  return y = %x\n}": (
        "error: the text is of IR version 2, but this trtc reads 1\n --> f.trtc:1:9\n  |\n"
        "1 | trtc ir 2\n  |         ^\n"
        "  = help: print it with the trtc that wrote it, or upgrade trtc"
    ),
    "graph @g(%x: f32[4]) where B in 5..1 {\n  return y = %x\n}": (
        "error: bounds 5..1 are empty or negative\n --> f.trtc:1:33\n  |\n"
        "1 | graph @g(%x: f32[4]) where B in 5..1 {\n  |                                 ^"
    ),
    "graph @g(%x: f32[B]) {\n  return y = %x\n}": (
        "error: size B has no bounds\n --> f.trtc:1:10\n  |\n1 | graph @g(%x: f32[B]) {\n  |          ^^\n"
        "  = help: add `B in 1..N` to @g"
    ),
    "graph @g(%x: f32[4]) {\n  return y = %x, y = %x\n}": (
        "error: y is given twice\n --> f.trtc:2:18\n  |\n2 |   return y = %x, y = %x\n  |                  ^"
    ),
    "graph @g(%x: f32[4]) {\n": (
        "error: expected a statement such as %y = add %a, %b : f32[4], found `end of text`\n --> f.trtc:1:23\n  |\n"
        "1 | graph @g(%x: f32[4]) {\n  |                       ^"
    ),
    "": "error: expected `graph`, found `end of text`\n --> f.trtc:1:1\n  |\n1 | \n  | ^",
}   # fmt: skip


@pytest.mark.parametrize("text", HEADERS, ids=["version", "bounds", "no bounds", "twice", "cut short", "empty"])
def test_header_error(text: str) -> None:
    with pytest.raises(IRError) as caught:
        parse(text, "f.trtc")
    assert str(caught.value) == HEADERS[text]


def test_unknown_target() -> None:
    with pytest.raises(IRError) as caught:
        target("testing-primitivs:3")
    assert str(caught.value) == (
        "error: unknown target `testing-primitivs`\n  = help: did you mean `testing-primitives`?"
    )


def test_nearest() -> None:
    assert nearest("softmix", ["softmax", "relu"]) == ["help: did you mean `softmax`?"]
    assert nearest("zzz", ["softmax", "relu"]) == []


def test_sizes_of_results_are_positive() -> None:
    values: list[Value] = [Input("x", f32["B", 4])]
    with pytest.raises(IRError) as caught:
        ops.Reshape(values[0], (Dim.named("B") * 1, -2, -2))
    assert str(caught.value) == (
        "error: reshape: the result is f32[B, -2, -2], but sizes must be positive\n  = x : f32[B, 4]"
    )
