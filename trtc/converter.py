"""``trtc.convert``: a checkpoint of any source becomes one of TensorRT-LLM's format, a file for each rank."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from trtc.backend.bundle import Progress, silent
from trtc.errors import TrtcError
from trtc.frontend import DTYPES, Checkpoint, Limits, build_decoder, dtype_of, open_checkpoint
from trtc.frontend.config import DecoderConfig
from trtc.frontend.sources.mapped import MappedSource
from trtc.frontend.trtllm import Layout, Mapping, document, rank_tensors
from trtc.frontend.trtllm.layout import EMBEDDING, HEAD, spread_of_experts
from trtc.frontend.trtllm.writer import Writer, tensor_file
from trtc.frontend.weights import Weights
from trtc.ir.graph import Graph
from trtc.ir.materialize import materialize, weights_of
from trtc.ir.op import Value
from trtc.ir.ops import Cast, MatMul, Transpose
from trtc.ir.types import f32
from trtc.passes.canonicalize import Canonicalize
from trtc.work_folder import WorkFolder, work_folder

EMBEDDED, SCORED = f"{EMBEDDING}.weight", f"{HEAD}.weight"
PROJECT_IN, PROJECT_OUT = "transformer.project_in.weight", "transformer.project_out.weight"
ROWS = 1 << 10   # that are compared at a time


@dataclass(frozen=True)
class Converted:
    """What was written.

    Args:
        bytes: of all ranks' files.
        kept: those of them that lay there already.
    """

    folder: Path
    ranks: int
    dtype: str
    bytes: int
    kept: int


def convert(
    path: str | Path,
    out: str | Path,
    *,
    dtype: str = "",
    tp_size: int = 1,
    pp_size: int = 1,
    workers: int = 2,
    source: str = "auto",
    resume: bool = False,
    use_parallel_embedding: bool = False,
    embedding_sharding_dim: int = 0,
    moe_tp_size: int = 0,
    moe_ep_size: int = 0,
    cp_size: int = 1,
    progress: Progress = silent,
) -> Converted:
    """Convert a checkpoint; also one of the same format, to other numbers of ranks, without loss.

    Args:
        path: the checkpoint.
        out: the directory of the new one; a checkpoint that lies there is replaced when the new one is whole.
        dtype: float32, float16 or bfloat16; the checkpoint's own where empty.
        tp_size, pp_size: ranks that divide each tensor, and stages that divide the layers.
        workers: tensors that are worked on at a time.
        source: the form of the checkpoint; found out with auto.
        resume: go on with what an interrupted call left: what lies there is compared, and written where it differs.
        use_parallel_embedding, embedding_sharding_dim: divide the embedding, too: 0 its vocabulary, 1 its hidden size.
        moe_tp_size, moe_ep_size: of tp_size, ranks that divide each expert, and parts that the experts fall into; 0 for
            what the other leaves, and every rank divides each where both are 0.
        cp_size: ranks that divide sequences, and share a file.
        progress: told of bytes.
    Errors: a TrtcError where the checkpoint, an option or the disk refuses.
    """
    checkpoint = _opened(path, source)
    mapping = Mapping(tp_size, pp_size, embedding_sharding_dim if use_parallel_embedding else None, cp=cp_size)
    mapping = _spread(mapping, checkpoint, moe_tp_size, moe_ep_size)
    plan = _plan(checkpoint, dtype_of(checkpoint, dtype), mapping)
    with work_folder(Path(out), resume=resume) as folder:
        return _write(plan, folder, workers, progress)


@dataclass(frozen=True)
class Plan:
    """All that is decided before anything is written.

    Args:
        tensors: of each rank.
    """

    checkpoint: Checkpoint
    dtype: str
    layout: Layout
    tensors: list[dict[str, Value]]


def _opened(path: str | Path, source: str) -> Checkpoint:
    checkpoint = open_checkpoint(path, source)
    if not isinstance(checkpoint, Checkpoint):
        note = "help: trtc compile takes it as it is"
        raise TrtcError(f"{path} is a graph of {checkpoint.format}, but a checkpoint is made of named weights", note)
    return checkpoint


def _spread(mapping: Mapping, checkpoint: Checkpoint, moe_tp: int, moe_ep: int) -> Mapping:
    """The mapping, checked, with the parts that the experts of a layer fall into."""
    layers = checkpoint.config.num_hidden_layers
    for name, number in (("tp_size", mapping.tp), ("pp_size", mapping.pp), ("cp_size", mapping.cp)):
        if number < 1:
            raise TrtcError(f"{name} is {number}, but must be at least 1")
    if mapping.pp > layers:
        raise TrtcError(f"pp_size is {mapping.pp}, but must be at most the {layers} layers of the model")
    if mapping.embedding_axis not in (None, 0, 1):
        raise TrtcError(f"embedding_sharding_dim is {mapping.embedding_axis}, but must be 0 or 1")
    if moe_ep > 1 and not checkpoint.config.moe:
        raise TrtcError(f"moe_ep_size is {moe_ep}, but must be 1: the model has no experts")
    return replace(mapping, moe_ep=spread_of_experts(mapping.tp, moe_tp, moe_ep))


def _plan(checkpoint: Checkpoint, dtype: str, mapping: Mapping) -> Plan:
    config, weights = _unprojected(checkpoint.config, recorded(checkpoint))
    if SCORED not in weights:
        weights[SCORED] = weights[EMBEDDED]
    elif _are_equal(weights[EMBEDDED], weights[SCORED], checkpoint.source):
        config = replace(config, tie_word_embeddings=True)
    layout = Layout(config, mapping)
    ranks = (rank_tensors(layout, weights, DTYPES[dtype], rank) for rank in range(mapping.files))
    simple = (Canonicalize().run(Graph("rank", (), tensors, {})) for tensors in ranks)
    return Plan(checkpoint, dtype, layout, [dict(graph.outputs) for graph in simple])


def recorded(checkpoint: Checkpoint) -> dict[str, Value]:
    """Every weight that the decoder asks for by role, in order, in the element type that the checkpoint has."""
    weights, found = Weights(checkpoint.source, checkpoint.expression, f32), dict[str, Value]()

    def lookup(role: str, *shape: int, **options: Any) -> Value:
        found[role] = weights.stored(role, *shape)
        return weights(role, *shape, **options)

    build_decoder(checkpoint.config, lookup, Limits(1, 1, 1), f32)
    return found


def _unprojected(config: DecoderConfig, weights: dict[str, Value]) -> tuple[DecoderConfig, dict[str, Value]]:
    """The format knows no projections of embeddings (OPT-350m): they are multiplied into the embedding and lm_head."""
    if not config.embedding_dim:
        return config, weights
    words, before, after = (Cast(weights[role], f32) for role in (EMBEDDED, PROJECT_IN, PROJECT_OUT))
    scored = Cast(weights.get(SCORED, weights[EMBEDDED]), f32)
    kept = {role: weight for role, weight in weights.items() if role not in (PROJECT_IN, PROJECT_OUT)}
    kept |= {EMBEDDED: MatMul(words, Transpose(before, (1, 0))), SCORED: MatMul(scored, after)}
    return replace(config, embedding_dim=0, tie_word_embeddings=False), kept


def _are_equal(a: Value, b: Value, source: MappedSource) -> bool:
    """Whether two weights of one shape have the same bytes: then the model is tied, whatever its config says."""
    if a.type != b.type:
        return False
    one, other = (materialize(value, source, source.release) for value in (a, b))
    same = all(np.array_equal(one[n : n + ROWS], other[n : n + ROWS]) for n in range(0, len(one), ROWS))
    for key in (*weights_of(a), *weights_of(b)):
        source.release(key)
    return same


def _write(plan: Plan, folder: WorkFolder, workers: int, progress: Progress) -> Converted:
    if workers < 1:
        raise TrtcError(f"workers is {workers}, but must be at least 1")
    checkpoint, layout = plan.checkpoint, plan.layout
    files = [tensor_file(folder.path / f"rank{n}.safetensors", tensors) for n, tensors in enumerate(plan.tensors)]
    size = sum(file.size for file in files)
    folder.keep([file.path.name for file in files])
    folder.require(size)
    writer = Writer(checkpoint.source, resume=folder.resume, report=lambda done: progress("weights", done, size))
    writer.write(files, workers)
    for file in checkpoint.tokenizer_files:
        with file.open("rb") as original, (folder.path / file.name).open("wb") as copy:
            shutil.copyfileobj(cast("BinaryIO", original), copy)
    ids = checkpoint.generation
    tokens = {**ids, "eos_token_id": ids["eos_token_ids"]}
    folder.write_json("generation_config.json", {key: tokens[key] for key in sorted(tokens) if key != "eos_token_ids"})
    folder.write_json("config.json", document(layout.config, plan.dtype, layout.mapping))
    return Converted(folder.out, len(files), plan.dtype, size, writer.kept)
