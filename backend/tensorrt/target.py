"""The targets ``tensorrt`` and ``tensorrt-rtx``: what each version takes, and what is done for it before."""

from __future__ import annotations

from dataclasses import replace

from trtc.backend.tensorrt.api import KNOWN, RTX, TENSORRT, Api, api_of, dotted, probed
from trtc.backend.tensorrt.attention_rules import ALIGNED, WIDEST, attention_rules
from trtc.backend.tensorrt.bindings import installed_version, module
from trtc.backend.tensorrt.conditions import conditions, floats
from trtc.backend.tensorrt.plugin_rules import plugin_rules
from trtc.backend.tensorrt.plugins import FEATURE
from trtc.backend.tensorrt.workarounds import needs
from trtc.ir.errors import IRError
from trtc.ir.target import TARGETS, Target

SUMMARIES = {
    TENSORRT: "TensorRT plans: built and run on NVIDIA GPUs.",
    RTX: "TensorRT-RTX plans: built on any machine, run on GeForce RTX and RTX PRO GPUs.",
}
CANDIDATES = 64   # of the greatest logits that an engine returns, apart from all of them


def record(product: str, version: str) -> Target:
    """The record of a product in a version; of the installed one, or else of the newest known, where empty.

    Args:
        version: such as ``10.16``; ``10.16/sm100`` for GPUs of that compute capability, ``10.16/sm100+plugins`` with
            trtc's own kernels where they help.
    """
    version, plus, extra = version.partition("+")
    if plus and extra != "plugins":
        fix = f"help: {product}:{version}+plugins"
        raise IRError(f"{product}:{version} is asked for with {extra}, but can have plugins", fix)
    version, _, capability = version.partition("/")
    installed = installed_version(product)
    found = installed or dotted(KNOWN[product][-1])
    if version and not f"{found}.".startswith(f"{version}."):
        found = version
    api = api_of(product, found, capability)
    if found == installed and not f"{found}.".startswith(f"{dotted(api.version)}."):   # newer than every record
        api = replace(api, found=probed(module(product)))
    if plus and (reason := api.lacks(FEATURE)):
        raise IRError(f"plugins are asked for, but {reason}")
    return Target(
        name=product,
        version=found,
        capability=capability,
        summary=SUMMARIES[product],
        native=conditions(api),
        plugins=(attention_rules(api), plugin_rules(api, bool(plus))),
        prepare=_prepared(api),
        fixed=("M",) if api.has("KV cache update layers") else (),
        floats=floats(api),
        kernels=bool(plus),
    )


def _prepared(api: Api) -> tuple[str, ...]:
    """The passes for what the runtime wants, and for caches that no step copies."""
    found = [f"choose-next{{count={CANDIDATES}}}"]
    if needs(api, "whole-caches"):
        found.append("split-attention")
    if needs(api, "copied-caches"):
        found.append(f"pad-caches{{multiple={ALIGNED} widest={WIDEST}}}")
    return tuple(found)


def tensorrt(version: str) -> Target:
    """The record of TensorRT in a version."""
    return record(TENSORRT, version)


def tensorrt_rtx(version: str) -> Target:
    """The record of TensorRT-RTX in a version."""
    return record(RTX, version)


def api(target: Target) -> Api:
    """The API that a target's record was made for."""
    return api_of(target.name, target.version, target.capability)


TARGETS[TENSORRT] = tensorrt
TARGETS[RTX] = tensorrt_rtx
