"""A legal graph as launch plans: plan.json, machine code of its kernels, and its weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from trtc.backend.bundle import BundleWriter, Progress, signature, silent
from trtc.backend.cuda.plan import SEVERAL, VERSION, Plan, plans_of
from trtc.backend.cuda.target import architectures
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

    For several architectures, ``plan.json`` names the plan of each, ``plan-80.json`` and so on.

    Args:
        graph: legal for the target.
        tensors: the checkpoint's tensors by key.
        target: whose version is the architectures.
        threads: kernels that are compiled, and constants that are materialised, at a time.
        release: told each key whose tensor is written.
    Result:
        What engine.json says of this rank; ``builder`` is of the whole engine.
    """
    progress("plan", 0, 1)
    plans = plans_of(graph, architectures(target))
    progress("plan", 1, 1)
    files = _compile(plans, bundle, folder, threads, progress)
    with bundle.open(f"{folder}/{WEIGHTS}") as file:
        write(plans[0].weights, tensors, file, threads=threads, progress=progress, release=release)
    _add_plans(plans, files, bundle, folder)
    return {"engine": f"{folder}/plan.json", **signature(graph), "builder": summary(plans)}


def stored_bytes(graph: Graph) -> int:
    """The bytes of weights that the engine of a graph stores; a few small ones may be stored besides."""
    return sum(s.value.type.nbytes() for s in frontier(graph))


def summary(plans: Sequence[Plan]) -> dict[str, Any]:
    """How many kernels there are; the scratch memory of the greatest phase, and its ratio to the least possible."""
    greatest = max((phase.layout for plan in plans for phase in plan.phases), key=lambda layout: layout.bytes)
    ratio = greatest.bytes / max(greatest.lower_bound, 1)
    kernels = sum(len(plan.kernels) for plan in plans)
    return {"kernels": kernels, "scratch_bytes": greatest.bytes, "scratch_ratio": round(ratio, 3)}


def _add_plans(plans: Sequence[Plan], files: Sequence[Mapping[Any, str]], bundle: BundleWriter, folder: str) -> None:
    """Write plan.json: the only plan, or what names those of several architectures.

    Args:
        files: for each plan, those of machine code.
    """

    def add(name: str, document: Mapping[str, Any]) -> None:
        bundle.add_text(f"{folder}/{name}", json.dumps(document, separators=(",", ":")) + "\n")

    names = ["plan.json"] if len(plans) == 1 else [f"plan-{plan.architecture}.json" for plan in plans]
    for plan, named, name in zip(plans, files, names, strict=True):
        add(name, plan.document(named, WEIGHTS))
    if len(plans) > 1:
        listed = [{**plan.record, "file": name} for plan, name in zip(plans, names, strict=True)]
        add("plan.json", {"format": SEVERAL, "version": VERSION, "plans": listed})


def _compile(
    plans: Sequence[Plan], bundle: BundleWriter, folder: str, threads: int, progress: Progress
) -> list[dict[Any, str]]:
    """Compile every kernel that differs from the others: for each plan, the file of each, by its key."""
    wanted = [(n, key, *pair) for n, plan in enumerate(plans) for key, pair in plan.kernels.items()]
    files: list[dict[Any, str]] = [{} for _ in plans]
    written = set[str]()
    with ThreadPoolExecutor(threads) as pool:

        def compiled(each: tuple[int, Any, Kernel, Launch]) -> bytes:
            number, _, kernel, launch = each
            return kernel.machine_code(launch, plans[number].architecture)

        for done, (each, cubin) in enumerate(zip(wanted, pool.map(compiled, wanted), strict=True), 1):
            number, key, kernel, _ = each
            name = f"kernels/{kernel.source.stem}-{hashlib.sha256(cubin).hexdigest()[:12]}.cubin"
            if name not in written:
                with bundle.open(f"{folder}/{name}") as file:
                    file.write(cubin)
            written.add(name)
            files[number][key] = name
            progress("kernels", done, len(wanted))
    return files
