"""``trtc convert``: a checkpoint of any source becomes one of TensorRT-LLM's format."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trtc.cli import _options as options
from trtc.cli._original import Original
from trtc.cli._shared import progress, say
from trtc.errors import TrtcError

if TYPE_CHECKING:
    from trtc.converter import Converted

NAMES = "auto, hf, meta, nemo, deepspeed, jax, gguf, modelopt or trtllm"
Source = Annotated[Path | None, typer.Argument(metavar="SRC", help="The checkpoint, of any form that trtc reads.")]
Out = Annotated[Path | None, typer.Option("--output", "-o", metavar="CKPT", help="Where the new checkpoint goes.")]
Ranks = Annotated[int | None, typer.Option(metavar="N", help="Ranks that divide each tensor; by default 1.")]
Stages = Annotated[int, typer.Option(metavar="N", help="Pipeline stages, which divide the layers.")]
Workers = Annotated[int, typer.Option(metavar="N", min=1, help="Tensors that are worked on at a time.")]
Form = Annotated[str, typer.Option("--source", metavar="FORM", help=f"The form of SRC: {NAMES}.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with what an interrupted call left.")]
Parallel = Annotated[bool, typer.Option("--use-parallel-embedding", help="Divide the embedding among ranks, too.")]
Dim = Annotated[int, typer.Option(metavar="0|1", help="Of the embedding: 0 the vocabulary, 1 the hidden size.")]
ExpertRanks = Annotated[int, typer.Option(metavar="N", help="Of --tp-size, ranks that divide each expert.")]
ExpertParts = Annotated[int, typer.Option(metavar="N", help="Of --tp-size, parts that the experts fall into.")]
NONE = Original()
Context = Annotated[int, typer.Option(metavar="N", help="Ranks that divide sequences, and share a file.")]


def convert(
    src: Source = None,
    output: Out = None,
    dtype: options.DType = "",
    tp_size: Ranks = None,
    pp_size: Stages = 1,
    workers: Workers = 2,
    source: Form = "auto",
    resume: Resume = False,
    use_parallel_embedding: Parallel = False,
    embedding_sharding_dim: Dim = 0,
    moe_tp_size: ExpertRanks = 0,
    moe_ep_size: ExpertParts = 0,
    cp_size: Context = 1,
    original: Original = NONE,
) -> None:
    """Convert a checkpoint of any source to one of TensorRT-LLM's format, or to other numbers of ranks."""
    from trtc.converter import convert

    start = time.perf_counter()
    original.refuse()
    path = _one("SRC", src, original.model_dir, original.meta_ckpt_dir)
    out = _one("-o CKPT", output, original.output_dir)
    with progress() as report:
        done = convert(
            path, out, dtype="" if dtype == "auto" else dtype,
            tp_size=_ranks(tp_size, pp_size, original.world_size), pp_size=pp_size,
            workers=workers, source=source, resume=resume, progress=report,
            use_parallel_embedding=use_parallel_embedding, embedding_sharding_dim=embedding_sharding_dim,
            moe_tp_size=moe_tp_size, moe_ep_size=moe_ep_size, cp_size=cp_size,
        )   # fmt: skip
    _tell(out, done, time.perf_counter() - start, resume)


def _tell(out: Path, done: Converted, seconds: float, resume: bool) -> None:
    kept = f" ({done.kept:,} of them were there)" if resume else ""
    say(
        f"checkpoint: {out}, {done.ranks} x {done.dtype}, {done.bytes:,} bytes{kept}, {seconds:.1f} s",
        checkpoint=out, ranks=done.ranks, dtype=done.dtype, bytes=done.bytes, kept=done.kept, seconds=seconds,
    )   # fmt: skip


def _one(name: str, *given: Path | None) -> Path:
    """The one path that is given, under whichever name."""
    found = [path for path in given if path]
    if len(found) != 1:
        raise TrtcError(f"{name} is given {len(found)} times, but must be once", "help: trtc convert SRC -o CKPT")
    return found[0]


def _ranks(tp: int | None, pp: int, world: int | None) -> int:
    """Ranks that divide each tensor; where nothing says it, what the number of all ranks leaves."""
    stages = max(pp, 1)
    if world is not None and (world < 1 or (world != tp * stages if tp else world % stages)):
        want = f"tp_size * pp_size, {tp} * {pp}" if tp else f"a multiple of pp_size, {pp}"
        raise TrtcError(f"world_size is {world}, but must be {want}")
    return tp if tp is not None else world // stages if world else 1
