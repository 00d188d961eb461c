"""An ONNX model as a decoder's graph: imported, tidied, and made for ragged batches over caches."""

from __future__ import annotations

from pathlib import Path

from trtc.errors import TrtcError
from trtc.frontend.decoder import Limits
from trtc.frontend.onnx.importer import Importer, read_model
from trtc.frontend.onnx.interface import B, S
from trtc.frontend.onnx.ragged import Ragged, last_token
from trtc.frontend.sources.onnx_file import OnnxSource
from trtc.ir.errors import IRError
from trtc.ir.graph import Graph
from trtc.ir.op import Op, at
from trtc.ir.ops import Attention, Cast, Gather, Input, KVCacheUpdate, MatMul, Reshape
from trtc.ir.types import f32, names
from trtc.passes import Pipeline, Skip
from trtc.passes.fuse_attention import fuse_attention

TIDY = Pipeline.parse("canonicalize,cse,fold-masks,canonicalize,cse")
LARGEST = 1 << 30   # any size, while a model is imported: bounds come with the limits of an engine


def imported(file: Path, source: OnnxSource) -> Graph:
    """The graph that an ONNX file states, in sizes B, S and P (past tokens), its masks as conditions.

    Inputs and outputs have trtc's names; every token is visible to what `attention_mask` was for.
    """
    importer = Importer(read_model(source.skeleton, file.name), source, file.name)
    graph = importer.graph({"B": (1, LARGEST), "S": (1, LARGEST), "P": (0, LARGEST)})
    try:
        return TIDY.run(graph)
    except IRError as error:
        raise TrtcError(f"{file.name} cannot be imported: {error.message}", *error.facts) from None


def decoder(model: Graph, limits: Limits, *, all_logits: bool) -> Graph:
    """The graph of trtc's interface: see `Ragged`.

    Errors:
        TrtcError: the past is used in another way than by attention, or attention sees what comes later.
    """
    bounds = {"B": (1, limits.max_batch_size), "S": (1, limits.max_input_len), "M": (1, limits.max_seq_len)}
    ragged = Ragged(model)
    logits = ragged.new[model.outputs["logits"]]
    if logits.shape[:2] != (B, S) or logits.type.rank != 3:
        raise TrtcError(f"logits are {logits.type}, but must be those of each token, float[B, S, V]")
    if not all_logits:
        with at("last_token"):
            logits = last_token(logits, ragged.lengths)
    logits = logits if logits.dtype == f32 else Cast(logits, f32)
    updated = [ragged.new[value] for name, value in model.outputs.items() if name != "logits"]
    for cache, value in zip(ragged.caches.values(), updated, strict=True):
        if not isinstance(value, KVCacheUpdate) or value.cache is not cache:
            raise TrtcError(f"the present of {cache.key} must be its past and the new tokens, joined")
    outputs = {"logits": logits, **{i.key: v for i, v in zip(ragged.caches.values(), updated, strict=True)}}
    graph = Graph(model.name, (ragged.ids, ragged.lengths, ragged.past, *ragged.caches.values()), outputs, bounds)
    graph.verify()
    _check(graph)
    return graph


def _check(graph: Graph) -> None:
    """Keys beyond a sequence's own are hidden: what ends axis M is attention that says so, or picks places."""
    for op in graph.ops:
        held = {name for v in op.operands.values() for name in names(v.shape)}
        if "M" not in held or "M" in names(op.shape) or isinstance(op, Input | Gather):
            continue
        answer = fuse_attention(op) if isinstance(op, MatMul) else None
        match answer:
            case Reshape(Attention(lengths=lengths, causal=causal)) if lengths and causal:
                continue
            case Skip(reason):
                raise _unread(op, reason)
            case _:
                raise _unread(op, "it is no causal attention")


def _unread(op: Op, reason: str) -> TrtcError:
    return TrtcError(f"{op.name} at {op.loc or '?'} reads the cache, but cannot be read as attention: {reason}")
