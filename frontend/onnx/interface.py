"""The inputs and outputs of a decoder's export: what each of them is, by its name and shape."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from trtc.errors import TrtcError
from trtc.frontend.onnx.known import dtype_of, filled
from trtc.frontend.onnx.lift.elementwise import DTYPES
from trtc.ir.errors import nearest
from trtc.ir.op import Value
from trtc.ir.ops import Add, Broadcast, Input, Iota, SizeOf
from trtc.ir.types import Dim, DType, Size, TensorType, i32

B, S, P = Dim.named("B"), Dim.named("S"), Dim.named("P")
T = P + S   # past and new tokens
PAST = re.compile(r"past_key_values[._](\d+)[._](key|value)")
PRESENT = re.compile(r"present(?:_key_values)?[._](\d+)[._](key|value)")
TOKENS = ("input_ids", "attention_mask", "position_ids", "cache_position")
EXPORT = "help: export a decoder with past, such as decoder_with_past_model.onnx, with dynamic batch, sequence and past"


@dataclass(frozen=True)
class Interface:
    """An export's inputs as values of the graph, and the names of its outputs.

    Args:
        inputs: by the model's names: token ids and caches are inputs, masks and positions are made of sizes.
        caches: the inputs of each layer, key and value, in order.
        presents: the outputs that are the updated caches, in the same order.
    """

    inputs: dict[str, Value]
    caches: tuple[Input, ...]
    presents: tuple[str, ...]


def read_interface(inputs: list[Any], outputs: list[str], file: str) -> Interface:
    """What the inputs and outputs of a model are.

    Args:
        inputs: with a name, an element type (of onnx) and a shape each.
    Errors:
        TrtcError: one is missing or unknown, or has a number where a size must be dynamic.
    """
    names = [i.name for i in inputs]
    if "use_cache_branch" in names:
        raise TrtcError(f"{file} is a merged decoder, with and without past, but must be one of them", EXPORT)
    pasts = {name: (int(m[1]), m[2]) for name in names if (m := PAST.fullmatch(name))}
    for name in names:
        if name not in pasts and name not in TOKENS:
            note = nearest(name, TOKENS) or [EXPORT]
            raise TrtcError(f"{file}: input {name} is none of {', '.join(TOKENS)} and past_key_values.N.key", *note)
    if "input_ids" not in names or not pasts:
        missing = "past_key_values.0.key" if "input_ids" in names else "input_ids"
        raise TrtcError(f"{file} has no input {missing}, but a decoder with past has", EXPORT)
    order = [(layer, kind) for layer in range(len(pasts) // 2) for kind in ("key", "value")]
    if sorted(pasts.values()) != order or len(pasts) % 2:
        raise TrtcError(f"{file}: its pasts are not a key and a value of each layer, in order from 0", EXPORT)
    by_place = {place: name for name, place in pasts.items()}
    typed = {i.name: i for i in inputs}
    caches = {by_place[place]: _cache(typed[by_place[place]], *place, file) for place in order}
    first = next(iter(caches.values()))
    made: dict[str, Value] = {name: _token_input(typed[name], first, file) for name in names if name not in pasts}
    return Interface({**made, **caches}, tuple(caches.values()), _presents(outputs, order, file))


def _presents(outputs: list[str], order: list[tuple[int, str]], file: str) -> tuple[str, ...]:
    found = {(int(m[1]), m[2]): name for name in outputs if (m := PRESENT.fullmatch(name))}
    for wanted, name in [("logits", "logits"), *((place, f"present.{place[0]}.{place[1]}") for place in order)]:
        if wanted not in found and wanted not in outputs:
            raise TrtcError(f"{file} has no output {name}, but a decoder with past has", EXPORT)
    return tuple(found[place] for place in order)


def _cache(given: Any, layer: int, kind: str, file: str) -> Input:
    """The past of a layer: float[B, heads, P, head size]."""
    dtype = _dtype(given)
    if not dtype or not dtype.is_float:
        raise TrtcError(f"{file}: input {given.name} is of {given.dtype}, but must be of floats")
    shape = _shape(given, (B, None, P, None), file)
    return Input(f"layers.{layer}.{kind}_cache", TensorType(dtype, shape))


def _token_input(given: Any, past: Input, file: str) -> Value:
    """A mask shows every token; positions count on from the past: each sequence is a model's run of its own."""
    want: dict[str, tuple[Size, ...]] = {"attention_mask": (B, T), "cache_position": (S,)}
    shape = _shape(given, want.get(given.name, (B, S)), file)
    dtype = _dtype(given)
    if not dtype or (dtype != i32 and given.name != "attention_mask"):
        raise TrtcError(f"{file}: input {given.name} is of {given.dtype}, but must be of integers")
    if given.name == "input_ids":
        return Input("input_ids", TensorType(i32, shape))
    if given.name == "attention_mask":
        return filled(1, dtype, shape)
    positions = Add(SizeOf(past, 2), Iota(S))
    return positions if given.name == "cache_position" else Broadcast(positions, shape)


def _dtype(given: Any) -> DType | None:
    """The element type in which an input enters the graph."""
    try:
        return DTYPES[given.dtype] if isinstance(given.dtype, int) else dtype_of(np.empty(0, given.dtype))
    except (LookupError, TypeError, ValueError, StopIteration):
        return None


def _shape(given: Any, want: tuple[Size | None, ...], file: str) -> tuple[Size, ...]:
    """The shape of an input as the graph has it: None stands for a size that must be a number."""
    have: list[Any] = list(given.shape) if given.shape is not None else []
    fits = len(have) == len(want)
    for size, wanted in zip(have, want, strict=False):
        number = isinstance(size, int) and size >= 0
        fits = fits and (number and size > 0 if wanted is None else not number)
    if not fits:
        shown = ", ".join(map(str, have))
        form = ", ".join("a number" if w is None else str(w) for w in want)
        raise TrtcError(f"{file}: input {given.name} is [{shown}], but must be [{form}]", EXPORT)
    return tuple(size if wanted is None else wanted for size, wanted in zip(have, want, strict=True))


