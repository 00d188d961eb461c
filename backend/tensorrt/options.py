"""What a user may tell TensorRT's builder: each option, and the versions that have it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from os import PathLike
from typing import Any, cast

from trtc.backend.tensorrt.api import PRODUCTS, RTX, TENSORRT, Api, Version, dotted
from trtc.errors import TrtcError
from trtc.ir.errors import nearest

VERBOSITIES = ("layer_names_only", "detailed", "none")
HARDWARE = ("none", "ampere_plus", "same_compute_capability")
TACTICS = ("cublas", "cublas_lt", "cudnn", "edge_mask_convolutions", "jit_convolutions")
CAPABILITIES = ("current", "7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
LEVELS = range(6)


@dataclass(frozen=True)
class Options:
    """The builder's options; each default leaves it as TensorRT has it.

    Args:
        packed: the tokens of all sequences lie in one row, T of them, and no sequence is padded to the longest.
        max_num_tokens: new tokens of a batch in one call at most: bounds B * S, or T, in every profile. 0: as many as
            fit.
        opt_num_tokens: new tokens of a batch that kernels are chosen for; 0: half of each range.
        multiple_profiles: a profile for each of several ranges of S, or of T.
        weightless: weights are inputs of the plan, and lie in a file beside it.
        refit: the weights in the plan can be exchanged.
        strip_plan: the plan is without its weights, which lie in a file beside it; it is refitted when it is loaded.
        weight_streaming: weights may stay in the host's memory while the engine runs.
        version_compatible: newer versions of TensorRT may run the plan, and so may the lean runtime.
        hardware_compatible: none, ampere_plus or same_compute_capability: on what other GPUs the plan runs.
        compute_capabilities: of the GPUs that a TensorRT-RTX plan is for, such as 8.9; none: of any.
        optimization_level: from 0, built fastest, to 5, runs fastest.
        workspace: bytes of scratch memory at most.
        weight_sparsity: weights with two zeros in four may take the kernels for such.
        tactic_sources: the libraries that kernels may come from, and no others.
        profiling_verbosity: layer_names_only, detailed or none: what the plan can tell of its layers.
        input_timing_cache: a file of kernels' times that an earlier build has measured.
        output_timing_cache: where the file of kernels' times goes.
        enable_debug_output: what each module gives can be watched while the engine runs.
        monitor_memory: the builder logs the memory that it takes.
        workers: threads of the builder; 0: as it likes.
    """

    packed: bool = False
    max_num_tokens: int = 0
    opt_num_tokens: int = 0
    multiple_profiles: bool = False
    weightless: bool = False
    refit: bool = False
    strip_plan: bool = False
    weight_streaming: bool = False
    version_compatible: bool = False
    hardware_compatible: str = "none"
    compute_capabilities: tuple[str, ...] = ()
    optimization_level: int | None = None
    workspace: int = 0
    weight_sparsity: bool = False
    tactic_sources: tuple[str, ...] = ()
    profiling_verbosity: str = ""
    input_timing_cache: str | PathLike[str] = ""
    output_timing_cache: str | PathLike[str] = ""
    enable_debug_output: bool = False
    monitor_memory: bool = False
    workers: int = 0

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            for value in _values(getattr(self, name)):
                if value not in choices:
                    want = ", ".join(str(c) for c in choices if c not in ("", None))
                    near = nearest(str(value), map(str, choices))
                    raise TrtcError(f"{name} is {value}, but must be of {want}", *near)
        for name in ("max_num_tokens", "opt_num_tokens", "workspace", "workers"):
            if getattr(self, name) < 0:
                raise TrtcError(f"{name} is {getattr(self, name)}, but must not be negative")
        if self.weightless and (self.refit or self.strip_plan):
            other = "refit" if self.refit else "strip_plan"
            raise TrtcError(f"weightless and {other} are asked for, but a plan without weights has none to exchange")

    @staticmethod
    def read(said: Mapping[str, Any]) -> Options:
        """The options that engine.json states."""
        given = dict(said)
        for name in ("compute_capabilities", "tactic_sources"):   # which JSON has no tuples for
            given[name] = tuple(given.get(name, ()))
        return Options(**given)

    @property
    def given(self) -> dict[str, Any]:
        """What differs from the defaults, as engine.json states it."""
        found = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        return {name: str(value) if "timing_cache" in name else value for name, value in found.items()}


CHOICES: Mapping[str, tuple[Any, ...]] = {
    "hardware_compatible": HARDWARE, "compute_capabilities": CAPABILITIES, "tactic_sources": TACTICS,
    "profiling_verbosity": ("", *VERBOSITIES), "optimization_level": (None, *LEVELS),
}   # fmt: skip


@dataclass(frozen=True)
class Known:
    """Who has an option.

    Args:
        what: what it is, as the end of "has no ...", in the plural.
        since: the version that each product has it from; a product that is not named has it never.
        instead: what a product without it has in its stead.
        last: the last version of a product that has it, where newer ones do not.
    """

    what: str
    since: Mapping[str, Version]
    instead: str = ""
    last: Mapping[str, Version] = field(default_factory=dict[str, Version])

    def lacks(self, api: Api) -> tuple[str, ...]:
        """Why an API is without it, then how to do without; nothing if it has it."""
        first, last = self.since.get(api.product), self.last.get(api.product, api.version)
        if first is not None and first <= api.version <= last:
            return ()
        product, notes = PRODUCTS[api.product], [f"help: {self.instead}"] if self.instead else []
        if first is None:
            return (f"{product} has no {self.what}", *notes)
        end = f"{dotted(first)} is the first" if api.version < first else f"{dotted(last)} is the last"
        return (f"{api} has no {self.what}: {product} {end} that has", *notes)


def _values(given: Any) -> tuple[Any, ...]:
    """The values of an option that may have several."""
    return cast("tuple[Any, ...]", given if isinstance(given, tuple) else (given,))


def _both(version: Version = (8, 6)) -> Mapping[str, Version]:
    return {TENSORRT: version, RTX: (1, 4)}


UNPACKED = "without it, batches are ragged, too: they are padded to their longest sequence"
JIT = "it chooses kernels where the engine runs, and keeps them beside the engine"
KNOWN: Mapping[str, Known] = {
    "packed": Known("attention over packed tokens", {TENSORRT: (11, 0)}, UNPACKED),
    "refit": Known("refittable plans", _both((10, 0)), "--weightless exchanges weights, too"),   # 8.6 dies building one
    "strip_plan": Known("stripped plans", _both((10, 2)), "--weightless keeps the weights beside the plan"),
    "weight_streaming": Known("weight streaming", _both((10, 0))),
    "version_compatible": Known("version-compatible plans", {TENSORRT: (8, 6)}, "build with the version that will run"),
    "hardware_compatible": Known("hardware-compatible plans", {TENSORRT: (8, 6)}, "name --compute-capabilities"),
    "compute_capabilities": Known("compute capabilities to choose", {RTX: (1, 4)}, "--hardware-compatible"),
    "optimization_level": Known("optimization levels", _both()),
    "workspace": Known("limits of its workspace", _both()),
    "weight_sparsity": Known("kernels for sparse weights", _both()),
    "tactic_sources": Known("tactic sources", _both()),
    "profiling_verbosity": Known("profiling verbosity", _both()),
    "input_timing_cache": Known("timing caches", {TENSORRT: (8, 6)}, JIT),
    "output_timing_cache": Known("timing caches", {TENSORRT: (8, 6)}, JIT),
    "enable_debug_output": Known("debug tensors", _both((10, 0))),
    "monitor_memory": Known("reports of its memory", _both((10, 6))),
}
"""By option. Those that are not named here are trtc's own, and serve every version."""

VALUES: Mapping[tuple[str, str], Known] = {
    ("hardware_compatible", "same_compute_capability"): Known(
        "plans for all GPUs of one compute capability", {TENSORRT: (10, 9)}
    ),
    ("compute_capabilities", "12.1"): Known("kernels for compute capability 12.1", {RTX: (1, 5)}),
    **{
        ("tactic_sources", name): Known(f"tactics of {name}", _both(), last={TENSORRT: (10, 16), RTX: (1, 4)})
        for name in ("cublas", "cublas_lt", "cudnn")
    },
}
"""Values that came later than their option, or went before it."""


def check(options: Options, api: Api) -> None:
    """Refuse, before anything is built, what a version of TensorRT lacks.

    Errors:
        TrtcError: an option, or its value, that the version does not have.
    """
    for name, value in options.given.items():
        of = [VALUES.get((name, v)) for v in _values(value)]
        for known in (KNOWN.get(name), *of):
            if known and (lacks := known.lacks(api)):
                raise TrtcError(f"{name} is asked for, but {lacks[0]}", *lacks[1:])
