"""``trtc compile``: a checkpoint becomes an engine."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trtc.cli import _options as options
from trtc.cli._debug import builder_lines, explaining
from trtc.cli._dry_run import described
from trtc.cli._shared import detail, progress, say
from trtc.cli._table import amount
from trtc.cli._tensorrt import TensorRT
from trtc.errors import TrtcError

if TYPE_CHECKING:
    from trtc.compiler import Model, Plan
    from trtc.passes.pipeline import Observer, Step

EngineDir = Annotated[Path | None, typer.Option("--output", "-o", metavar="ENGINE_DIR", help="Where the engine goes.")]
DumpIR = Annotated[Path | None, typer.Option("--dump-ir", metavar="DIR", help="Write the graph after each pass there.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be built, and build nothing.")]
MaxBeamWidth = Annotated[int, typer.Option(metavar="N", min=1, help="Takes N sequences for each of a batch.")]
Workers = Annotated[
    int | None, typer.Option("--workers", "--threads", metavar="N", min=1, help="Threads; by default 2 for weights.")
]
Plugins = Annotated[
    bool, typer.Option("--plugins", help="Take trtc's own CUDA kernels where one helps: tensorrt 10.9 and newer.")
]
Paged = Annotated[
    bool, typer.Option("--paged-kv-cache", help="KV caches are pools of pages of 64 tokens: target cuda.")
]
NONE, THREADS = TensorRT(), 2


def compile(
    model_dir: options.ModelDir,
    output: EngineDir = None,
    target: options.TargetName = "",
    plugins: Plugins = False,
    dtype: options.DType = "",
    max_batch_size: options.MaxBatchSize = 8,
    max_input_len: options.MaxInputLen = 0,
    max_seq_len: options.MaxSeqLen = 0,
    passes: options.Passes = "fuse",
    load: options.Load = None,
    all_logits: options.AllLogits = False, paged_kv_cache: Paged = False,
    dump_ir: DumpIR = None,
    check: options.Check = False, explain: options.Explain = False, dry_run: DryRun = False,
    max_beam_width: MaxBeamWidth = 1,
    workers: Workers = None,
    tensorrt: TensorRT = NONE,
) -> None:   # fmt: skip
    """Compile a checkpoint to an engine."""
    from trtc.compiler import plan, read_model
    from trtc.plugins import load_all

    if not output and not dry_run:
        raise TrtcError("there is no -o, but it must say where the engine goes", "help: -o ENGINE_DIR, or --dry-run")
    start, given = time.perf_counter(), tensorrt.options(workers or 0)
    target = with_plugins(target) if plugins else target
    load_all(load)   # first: a family may be among what they bring
    model = read_model(
        model_dir, dtype=dtype, max_batch_size=max_batch_size * max_beam_width, max_input_len=max_input_len,
        max_seq_len=max_seq_len, all_logits=all_logits,
    )   # fmt: skip
    with explaining(explain):
        made = plan(
            model, target=target, passes=passes, observers=_observers(model, dump_ir, check),
            tensorrt=given, paged_kv_cache=paged_kv_cache,
        )   # fmt: skip
    if dry_run or not output:
        print(described(made, workers or THREADS))
    else:
        _build(made, output, workers or THREADS, start)


def with_plugins(target: str) -> str:
    """The target, with trtc's own kernels.

    Errors:
        TrtcError: it takes none, or names no GPU for them.

    >>> with_plugins("tensorrt:10.13/sm90")
    'tensorrt:10.13/sm90+plugins'
    """
    name, _, version = target.partition(":")
    if name not in ("tensorrt", "tensorrt-rtx"):
        said = f"--plugins is given for {f'target {name}' if name else 'no target'}, but is for target tensorrt"
        raise TrtcError(said, "help: --target tensorrt:10.13/sm90")
    if "/" not in version:
        said = f"--plugins is given for {target}, but must be for one GPU, which kernels are compiled for"
        raise TrtcError(said, f"help: --target {name}:{version or '10.13'}/sm90")
    return f"{target}+plugins"


def _build(made: Plan, output: Path, threads: int, start: float) -> None:
    from trtc.compiler import build

    memory = bool(made.options and made.options.monitor_memory)
    with builder_lines(memory), progress() as report:
        bundle = build(made, output, threads=threads, progress=report)
    size, seconds = sum(entry.bytes for entry in bundle.files.values()), time.perf_counter() - start
    say(
        f"engine: {output}, {made.target}, {size:,} bytes, {seconds:.1f} s",
        engine=output, target=str(made.target), bytes=size, seconds=seconds,
    )   # fmt: skip
    if "scratch_bytes" in bundle.builder:
        scratch, ratio = bundle.builder["scratch_bytes"], bundle.builder["scratch_ratio"]
        said = f"scratch memory: {amount(scratch)}, {ratio:.2f} times what lives at one time"
        say(said, scratch=scratch, ratio=ratio)


def _observers(model: Model, dump_ir: Path | None, check: bool) -> list[Observer]:
    from trtc.passes.observe import Check, DumpTo

    dumped: list[Observer] = [DumpTo(dump_ir)] if dump_ir else []
    checked: list[Observer] = [Check(weights=model.checkpoint.source)] if check else []
    return [*dumped, *checked, _tell]


def _tell(step: Step) -> None:
    detail(f"pass {step.number}: {step.by}, {step.seconds:.2f} s", step=str(step.by), seconds=step.seconds)
