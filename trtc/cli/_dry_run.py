"""What would be built: ``trtc compile --dry-run``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trtc.cli._outline import op_counts, outline, tensor_rows
from trtc.cli._table import amount, table

if TYPE_CHECKING:
    from trtc.compiler import Plan


def described(made: Plan, threads: int) -> str:
    """The engine of a plan: limits, estimates of memory, profiles, options, inputs and outputs."""
    from trtc.backend.bundle import signature
    from trtc.runtime.bundle import Tensor

    parts = [table(_head(made)), "estimate\n" + table(_memory(made, threads), "  ")]
    if made.options:
        parts.append("profiles\n" + table(_profiles(made), "  "))
        if made.options.given:
            parts.append("builder\n" + table(((name, str(value)) for name, value in made.options.given.items()), "  "))
    bounds = ", ".join(f"{size} in {low}..{high}" for size, (low, high) in made.graph.bounds.items())
    for word, tensors in signature(made.graph).items():
        parts.append(f"{word}, {bounds}\n" + table(tensor_rows(Tensor(**_fields(t)) for t in tensors), "  "))
    return "\n\n".join(parts)


def _fields(tensor: dict[str, Any]) -> dict[str, Any]:
    return {**tensor, "shape": tuple(tensor["shape"])}


def _head(made: Plan) -> list[tuple[str, str]]:
    model = made.model
    rows = outline(
        made.graph, target=str(made.target), architecture=model.checkpoint.config.architecture, dtype=model.dtype,
        limits=vars(model.limits), cache=made.cache, pipeline=str(made.pipeline),
    )   # fmt: skip
    ops = sum(count for _, count, _ in op_counts(made.graph))
    return [*rows, ("weights", amount(made.stored_bytes)), ("ops", f"{ops:,}")]


def _memory(made: Plan, threads: int) -> list[tuple[str, str]]:
    from trtc.backend.estimate import estimate

    limits, per_token = made.model.limits, made.cache["bytes_per_token"]
    cache = per_token * limits.max_batch_size * limits.max_seq_len
    found = estimate(
        made.graph, made.target, made.options, weights=made.stored_bytes, cache=cache, threads=threads
    )   # fmt: skip
    return [
        ("weights", amount(found.weights)),
        ("cache", f"{amount(found.cache)} at most, {per_token:,} bytes a token"),
        ("activations", amount(found.activations)),
        ("to run", f"{amount(found.run)} in all"),
        ("to build", f"{amount(found.build)} of the host's memory"),
    ]


def _profiles(made: Plan) -> list[tuple[str, ...]]:
    from trtc.backend.tensorrt.profiles import plan_profiles

    assert made.options
    found = plan_profiles(made.graph, made.options)
    sizes = list(dict.fromkeys(size for ranges in found for size in ranges))
    rows = [(str(n), *("{}..{}..{}".format(*ranges[size]) for size in sizes)) for n, ranges in enumerate(found)]
    return [("", *(f"{size}: least..likely..most" for size in sizes)), *rows]
