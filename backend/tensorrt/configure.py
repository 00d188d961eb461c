"""The options of a build, set on TensorRT's builder: each setting is read back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trtc.backend.tensorrt.emit import Emitter
from trtc.backend.tensorrt.options import Options
from trtc.backend.tensorrt.timing_cache import load_timing_cache
from trtc.backend.tensorrt.weights import weights
from trtc.errors import TrtcError


class Configuration:
    """A builder's config under way.

    Args:
        builder, config: TensorRT's.
        emit: what has filled the network.
    """

    def __init__(self, builder: Any, config: Any, emit: Emitter) -> None:
        self.builder, self.config, self.emit, self.trt = builder, config, emit, emit.trt

    def flag(self, name: str) -> None:
        """Set a ``BuilderFlag``."""
        flag = self.member("BuilderFlag", name)
        self.config.set_flag(flag)
        self.expect(name, self.config.get_flag(flag), True)

    def attribute(self, owner: Any, name: str, value: Any) -> None:
        """Set an attribute of the builder or the config."""
        setattr(owner, name, value)
        self.expect(name, getattr(owner, name), value)

    def expect(self, name: str, got: Any, want: Any) -> None:
        """Fail unless a setting reads back as it was set, and nothing was complained of."""
        self.emit.diagnostics.check()
        if got != want:
            raise self.emit.diagnostics.refusal(None, f"{name} is {got}, but was set to {want}")

    def member(self, enum: str, name: str) -> Any:
        """A member of one of TensorRT's enumerations."""
        found = getattr(getattr(self.trt, enum), name.upper(), None)
        if found is None:
            product = f"{self.emit.diagnostics.product} {self.trt.__version__}"
            raise TrtcError(f"{name} is asked for, but {product} has no {enum} of this name")
        return found


def configure(builder: Any, config: Any, emit: Emitter, options: Options) -> None:
    """Set every option that is given.

    Errors:
        BuildError: TensorRT rejects a setting, or does not keep it.
        TrtcError: the installed version has no such setting, or a timing cache is of no use here.
    """
    made = Configuration(builder, config, emit)
    for name, value in options.given.items():
        if name in SETTERS:
            SETTERS[name](made, value)
    if options.refit or options.strip_plan:
        _refittable(made, options)
    if options.output_timing_cache and not options.input_timing_cache:
        load_timing_cache(config, emit.diagnostics, None)


def _flag(name: str) -> Callable[[Configuration, Any], None]:
    return lambda made, value: made.flag(name)


def _workspace(made: Configuration, size: int) -> None:
    pool = made.member("MemoryPoolType", "WORKSPACE")
    made.config.set_memory_pool_limit(pool, size)
    made.expect("workspace", made.config.get_memory_pool_limit(pool), size)


def _tactics(made: Configuration, names: tuple[str, ...]) -> None:
    wanted = 0
    for name in names:
        wanted |= 1 << int(made.member("TacticSource", name))
    made.config.set_tactic_sources(wanted)
    made.expect("tactic_sources", made.config.get_tactic_sources(), wanted)


def _capabilities(made: Configuration, names: tuple[str, ...]) -> None:
    made.attribute(made.config, "num_compute_capabilities", len(names))
    for index, name in enumerate(names):
        spelt = name if name == "current" else f"SM{name.replace('.', '')}"
        capability = made.member("ComputeCapability", spelt)
        made.config.set_compute_capability(capability, index)
        made.expect("compute_capabilities", made.config.get_compute_capability(index), capability)


def _chosen(attribute: str, enum: str) -> Callable[[Configuration, Any], None]:
    return lambda made, name: made.attribute(made.config, attribute, made.member(enum, name))


def _debug(made: Configuration, value: bool) -> None:
    """Mark what leaves each module: TensorRT gives it to a debug listener while the engine runs."""
    graph, emit = made.emit.graph, made.emit
    marked = {emit.tensors[op] for op in graph.inputs} | {emit.tensors[v] for v in graph.outputs.values()}
    for op in graph.ops:
        leaves = op.loc and not graph.is_constant(op) and any(user.loc != op.loc for user in graph.users[op])
        if leaves and (tensor := emit.tensors[op]) not in marked:
            marked.add(tensor)
            made.expect("enable_debug_output", bool(emit.network.mark_debug(tensor)), True)


def _refittable(made: Configuration, options: Options) -> None:
    """Mark the checkpoint's weights, and no other constant, as those to exchange, where the version can."""
    network, emit = made.emit.network, made.emit
    marks = hasattr(network, "mark_weights_refittable")   # from 10.2
    for name in (item.name for item in weights(emit.graph)):
        if not network.set_weights_name(emit.as_weights(emit.arrays[name]), name):
            raise emit.diagnostics.refusal(None, f"{name} got no name to be exchanged by")
        if marks:
            made.expect(f"refit of {name}", bool(network.mark_weights_refittable(name)), True)
    made.flag("REFIT_INDIVIDUAL" if marks else "REFIT")
    if options.strip_plan:
        made.flag("STRIP_PLAN")


SETTERS: Mapping[str, Callable[[Configuration, Any], None]] = {
    "weight_streaming": _flag("WEIGHT_STREAMING"),
    "version_compatible": _flag("VERSION_COMPATIBLE"),
    "weight_sparsity": _flag("SPARSE_WEIGHTS"),
    "monitor_memory": _flag("MONITOR_MEMORY"),
    "hardware_compatible": _chosen("hardware_compatibility_level", "HardwareCompatibilityLevel"),
    "profiling_verbosity": _chosen("profiling_verbosity", "ProfilingVerbosity"),
    "compute_capabilities": _capabilities,
    "optimization_level": lambda made, level: made.attribute(made.config, "builder_optimization_level", level),
    "workers": lambda made, count: made.attribute(made.builder, "max_threads", count),
    "workspace": _workspace,
    "tactic_sources": _tactics,
    "enable_debug_output": _debug,
    "input_timing_cache": lambda made, file: load_timing_cache(made.config, made.emit.diagnostics, Path(file)),
}
"""How each option is set; the others are profiles, or done apart."""
