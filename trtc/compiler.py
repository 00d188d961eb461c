"""``trtc.compile``: a checkpoint becomes an engine bundle."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trtc
from trtc.backend.backends import backend, default_target
from trtc.backend.bundle import BundleWriter, Progress, bundle, silent
from trtc.backend.targets import Target
from trtc.backend.targets import target as find_target
from trtc.backend.tensorrt.api import PRODUCTS, api_of
from trtc.backend.tensorrt.options import Options, check
from trtc.backend.tensorrt.profiles import plan_profiles
from trtc.errors import TrtcError
from trtc.frontend import DTYPES, Compilable, Limits, dtype_of, open_checkpoint
from trtc.ir.graph import Graph
from trtc.passes import Pipeline
from trtc.passes.pipeline import Observer
from trtc.plugins import load_all
from trtc.runtime.bundle import EngineBundle

LONGEST = 4096   # tokens of a sequence where nothing is said, if the model takes as many
GREATEST = 2**31 - 1   # of any size


@dataclass(frozen=True)
class Model:
    """A checkpoint, and its graph of plain ops in one element type and within limits."""

    checkpoint: Compilable
    dtype: str
    limits: Limits
    graph: Graph


@dataclass(frozen=True)
class Plan:
    """All that is decided before anything is built: what ``--dry-run`` prints.

    Args:
        graph: legal for the target.
        options: of TensorRT's builder; None for other targets.
    """

    model: Model
    target: Target
    pipeline: Pipeline
    graph: Graph
    options: Options | None = None

    @property
    def stored_bytes(self) -> int:
        """The bytes of weights that the engine stores."""
        return backend(self.target.name).stored_bytes(self.graph)

    @property
    def cache(self) -> dict[str, Any]:
        """The layout of the KV cache, as engine.json states it."""
        caches = [i.type for i in self.graph.inputs if i.key.endswith("_cache")]
        layers, (_, heads, tokens, size), dtype = len(caches) // 2, caches[0].shape, caches[0].dtype
        value_size = caches[1].shape[3]
        assert isinstance(heads, int) and isinstance(size, int) and isinstance(value_size, int)
        return {
            "layers": layers, "kv_heads": heads, "head_size": size, "value_head_size": value_size, "dtype": dtype.name,
            "bytes_per_token": layers * heads * (size + value_size) * dtype.bits // 8,
            "page": tokens if any(i.key == "pages" for i in self.graph.inputs) else None,
        }   # fmt: skip


def read_model(
    path: str | Path,
    *,
    dtype: str = "",
    max_batch_size: int = 8,
    max_input_len: int = 0,
    max_seq_len: int = 0,
    all_logits: bool = False,
) -> Model:
    """The graph of a checkpoint; nothing of its tensors is read but the headers.

    Args: as of `compile`.
    """
    checkpoint = open_checkpoint(path)
    dtype = dtype_of(checkpoint, dtype)
    limits = _limits(checkpoint, max_batch_size, max_input_len, max_seq_len)
    return Model(checkpoint, dtype, limits, checkpoint.graph(limits, DTYPES[dtype], all_logits=all_logits))


def plan(
    model: Model,
    *,
    target: str = "",
    passes: str = "fuse",
    load: Sequence[str | Path] = (),
    observers: Iterable[Observer] = (),
    tensorrt: Options | None = None,
    paged_kv_cache: bool = False,
) -> Plan:
    """Run the passes; nothing is written.

    Args: as of `compile`.
    """
    load_all(load)
    to = find_target(target or default_target())
    options = _options(to, tensorrt)
    pipeline = _pipeline(passes, to, model.limits, options, paged_kv_cache)
    made = Plan(model, to, pipeline, pipeline.run(model.graph, *observers), options)
    if options:
        plan_profiles(made.graph, options)   # which refuses limits that do not fit
    return made


def _options(to: Target, given: Options | None) -> Options | None:
    """The options of TensorRT's builder, where the target has one that takes them."""
    if to.name in PRODUCTS:
        check(given or Options(), api_of(to.name, to.version))
        return given or Options()
    if given and (asked := [name for name in given.given if name != "workers"]):
        names, products = ", ".join(asked), " and ".join(PRODUCTS)
        note = "help: --target tensorrt on a machine with a GPU, or --target tensorrt-rtx"
        raise TrtcError(f"{names}: target {to.name} has no such option, but {products} have", note)
    return None


def _pipeline(passes: str, to: Target, limits: Limits, options: Options | None, paged: bool) -> Pipeline:
    """The passes asked for, then what options and target need: what its runtime wants, fixed sizes, legal ops."""
    if paged and not to.paged:
        raise TrtcError(f"a paged KV cache is asked for, but target {to.name} has none", "help: --target cuda")
    greatest = {"B": limits.max_batch_size, "S": limits.max_input_len, "M": limits.max_seq_len}
    fixed = [f"specialize{{size={name} value={greatest[name]}}}" for name in to.fixed]
    packed = [f"pack-inputs{{max-tokens={options.max_num_tokens}}}"] if options and options.packed else []
    last = [f"lower{{target={to}}}", *([f"{to.paged}{{target={to}}}"] if paged else [])]
    return Pipeline.parse(",".join(p for p in (passes, *packed, *to.prepare, *fixed, *last) if p))


def _limits(checkpoint: Compilable, batch: int, inputs: int, tokens: int) -> Limits:
    tokens = tokens or min(checkpoint.config.max_position_embeddings, LONGEST)
    inputs = inputs or tokens
    for name, number in (("max_batch_size", batch), ("max_input_len", inputs), ("max_seq_len", tokens)):
        if not 1 <= number <= GREATEST:
            want = "at least 1" if number < 1 else f"at most {GREATEST}, as sizes are 32-bit integers"
            raise TrtcError(f"{name} is {number}, but must be {want}")
    positions = checkpoint.config.max_position_embeddings
    if checkpoint.config.learned_positions and tokens > positions:
        want = f"must not exceed {positions}, the positions that the model has learned"
        raise TrtcError(f"max_seq_len is {tokens}, but {want}")
    if inputs > tokens:
        raise TrtcError(f"max_input_len is {inputs}, but must not exceed max_seq_len, {tokens}")
    return Limits(batch, inputs, tokens)


def compile(
    path: str | Path,
    out: str | Path,
    *,
    target: str = "", dtype: str = "",
    max_batch_size: int = 8, max_input_len: int = 0, max_seq_len: int = 0,
    passes: str = "fuse", load: Sequence[str | Path] = (),
    all_logits: bool = False, paged_kv_cache: bool = False,
    observers: Iterable[Observer] = (), threads: int = 2, progress: Progress = silent,
    tensorrt: Options | None = None,
) -> EngineBundle:   # fmt: skip
    """Compile a checkpoint to an engine bundle.

    Args:
        path: the checkpoint's directory.
        out: the bundle's directory; an engine that lies there is replaced.
        target: ``name`` or ``name:version``; the best that this machine can build and run where empty.
        dtype: float32, float16 or bfloat16; the checkpoint's own where empty.
        max_batch_size: sequences of a batch at most.
        max_input_len: new tokens of a sequence in one call at most; max_seq_len where 0.
        max_seq_len: tokens of a sequence in all at most; the model's positions, up to 4096, where 0.
        passes: the pipeline before the target's own passes, which always follow it.
        load: Python files whose passes the pipeline may name, whose family the model may be of.
        all_logits: give the logits of every token instead of the last of each sequence.
        paged_kv_cache: the KV cache is a pool of pages, which sequences get as they grow: target cuda.
        observers: told of each pass as it has run.
        threads: constants that are materialised at a time.
        progress: told of phases and bytes.
        tensorrt: what TensorRT's builder is told.
    Errors: a TrtcError where the checkpoint, an option or this machine refuses; nothing half-written stays.
    """
    load_all(load)   # first: a family may be among what they bring
    model = read_model(
        path, dtype=dtype, max_batch_size=max_batch_size, max_input_len=max_input_len, max_seq_len=max_seq_len,
        all_logits=all_logits,
    )   # fmt: skip
    made = plan(
        model, target=target, passes=passes, observers=observers, tensorrt=tensorrt, paged_kv_cache=paged_kv_cache,
    )   # fmt: skip
    return build(made, out, threads=threads, progress=progress)


def build(made: Plan, out: str | Path, *, threads: int = 2, progress: Progress = silent) -> EngineBundle:
    """Write the bundle of a plan.

    Args: as of `compile`.
    """
    checkpoint = made.model.checkpoint
    build_rank = backend(made.target.name).build
    own = {"options": made.options} if made.options else {}
    with bundle(Path(out), made.stored_bytes) as writer:
        rank = build_rank(
            made.graph, checkpoint.source, writer, "rank0",
            target=made.target, threads=threads, progress=progress, release=checkpoint.source.release, **own,
        )   # fmt: skip
        finish(writer, made, rank)
    return EngineBundle.open(out, verify=False)


def finish(writer: BundleWriter, made: Plan, rank: dict[str, Any]) -> None:
    """Write what a bundle has beside the engine of its rank, and engine.json.

    Args:
        rank: what engine.json says of the rank.
    """
    for file in made.model.checkpoint.tokenizer_files:
        writer.add(file.name, file)
    writer.add_text("graph.trtc", f"{made.graph}\n")
    writer.finish(_engine(made, rank))


def _engine(made: Plan, rank: dict[str, Any]) -> dict[str, Any]:
    """What engine.json says, but for the files."""
    checkpoint = made.model.checkpoint
    builder = made.options.given if made.options else rank.pop("builder", None)
    tokenizer = [f.name for f in checkpoint.tokenizer_files if f.name in ("tokenizer.json", "tokenizer.model")]
    return {
        "trtc_version": trtc.__version__,
        "target": {"name": made.target.name, "version": made.target.version},
        "pipeline": str(made.pipeline),
        **({"builder": builder} if builder is not None else {}),
        "source": {
            "path": str(checkpoint.folder), "format": checkpoint.format, "architecture": checkpoint.config.architecture,
        },
        "model": checkpoint.raw,
        "dtype": made.model.dtype,
        "limits": vars(made.model.limits),
        "vocab_size": checkpoint.config.vocab_size,
        "cache": made.cache,
        "bounds": {name: list(pair) for name, pair in made.graph.bounds.items()},
        "ranks": [{"rank": 0, **rank}],
        "generation": checkpoint.generation,
        "tokenizer": tokenizer[0] if tokenizer else None,
    }   # fmt: skip
