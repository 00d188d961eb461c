"""A legal graph as a launch plan: plan.json, machine code of its kernels, and its weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from trtc.backend.bundle import BundleWriter, Progress, signature, silent
from trtc.backend.cuda.plan import Plan, plan_of
from trtc.backend.cuda.weights import write
from trtc.backend.kernels import Kernel, Launch
from trtc.ir.graph import Graph
from trtc.ir.materialize import frontier
from trtc.ir.op import Array
from trtc.ir.target import Target

WEIGHTS = "weights.safetensors"


def build(
    graph: Graph,
    tensors: Mapping[str, Array],
    bundle: BundleWriter,
    folder: str,
    *,
    target: Target,
    threads: int = 2,
    progress: Progress = silent,
    release: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Write ``folder/plan.json``, ``folder/kernels/*.cubin`` and ``folder/weights.safetensors`` into a bundle.

    Args:
        graph: legal for the target.
        tensors: the checkpoint's tensors by key.
        target: whose version is the architecture.
        threads: kernels that are compiled, and constants that are materialised, at a time.
        release: told each key whose tensor is written.
    Result:
        What engine.json says of this rank; ``builder`` is of the whole engine.
    """
    progress("plan", 0, 1)
    plan = plan_of(graph, int(target.version))
    progress("plan", 1, 1)
    files = _compile(plan, bundle, folder, threads, progress)
    with bundle.open(f"{folder}/{WEIGHTS}") as file:
        write(plan.weights, tensors, file, threads=threads, progress=progress, release=release)
    document = json.dumps(plan.document(files, WEIGHTS), separators=(",", ":"))
    bundle.add_text(f"{folder}/plan.json", document + "\n")
    return {"engine": f"{folder}/plan.json", **signature(graph), "builder": summary(plan)}


def stored_bytes(graph: Graph) -> int:
    """The bytes of weights that the engine of a graph stores; a few small ones may be stored besides."""
    return sum(s.value.type.nbytes() for s in frontier(graph))


def summary(plan: Plan) -> dict[str, Any]:
    """How many kernels there are; the scratch memory of the greatest phase, and its ratio to the least possible."""
    greatest = max((p.layout for p in plan.phases), key=lambda layout: layout.bytes)
    ratio = greatest.bytes / max(greatest.lower_bound, 1)
    return {"kernels": len(plan.kernels), "scratch_bytes": greatest.bytes, "scratch_ratio": round(ratio, 3)}


def _compile(plan: Plan, bundle: BundleWriter, folder: str, threads: int, progress: Progress) -> dict[Any, str]:
    """Compile every kernel that differs from the others: the file of each, by its key."""
    kernels = plan.kernels
    files: dict[Any, str] = {}
    with ThreadPoolExecutor(threads) as pool:

        def compiled(pair: tuple[Kernel, Launch]) -> bytes:
            return pair[0].machine_code(pair[1], plan.architecture)

        made = pool.map(compiled, kernels.values())
        for (key, (kernel, _)), cubin in zip(kernels.items(), made, strict=True):
            name = f"kernels/{kernel.source.stem}-{hashlib.sha256(cubin).hexdigest()[:12]}.cubin"
            if name not in files.values():
                with bundle.open(f"{folder}/{name}") as file:
                    file.write(cubin)
            files[key] = name
            progress("kernels", len(files), len(kernels))
    return files
