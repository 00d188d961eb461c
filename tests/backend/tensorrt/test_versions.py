"""Networks for every version use only what its bindings have, and mean what the model's graph means.

Each version of TensorRT is stood in for by its names (tensorrt_standin.py); what it records is evaluated.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fuzz
import numpy as np
import pytest
from models import KNOWN, every
from tensorrt_api import VERSIONS
from tensorrt_evaluator import network_of
from tensorrt_families import FIRST, agrees, target_of
from tensorrt_standin import standin

from trtc.backend.bundle import bundle
from trtc.backend.tensorrt import build as building
from trtc.backend.tensorrt.api import KNOWN as RECORDED
from trtc.backend.tensorrt.api import dotted
from trtc.backend.tensorrt.lower import LOWERINGS
from trtc.frontend import FAMILIES
from trtc.ir import Graph, f32
from trtc.ir.ops import Input, Neg
from trtc.ir.target import target

GENERATIONS = {
    "8.6": "float16", "10.0": "bfloat16", "10.14": "float16", "10.15": "bfloat16", "10.16": "float16",
    "11.0": "bfloat16", "11.4": "float16",
}   # fmt: skip
"""A version of each API, and what a model is computed in there."""
OTHERS = [v for v in VERSIONS if v not in GENERATIONS]
ELSEWHERE = {"BaiChuanForCausalLM", "BaichuanForCausalLM", "MPTForCausalLM"}   # which transformers has no models of


def test_there_is_a_table_and_a_record_of_every_version() -> None:
    known = [*map(dotted, RECORDED["tensorrt"]), *(f"rtx {dotted(v)}" for v in RECORDED["tensorrt-rtx"])]
    assert known == list(VERSIONS)


def test_there_is_a_case_of_every_family() -> None:
    assert {FAMILIES[a].name for a in {*FIRST, *ELSEWHERE}} == {family.name for family in FAMILIES.values()}


def generations(case: Any) -> list[str]:
    """Versions to try a case on: 8.6, one of 10 and one of 11, other ones for the next family; all with TRTC_FUZZ=1."""
    if fuzz.ALL:
        return list(GENERATIONS)
    number = [each.name for each in FIRST.values()].index(case.name)
    tens, elevens = ([v for v in GENERATIONS if v.startswith(major)] for major in ("10.", "11."))
    return ["8.6", tens[number % len(tens)], elevens[number % len(elevens)]]


@every({case.name: case for case in FIRST.values()})
def test_every_family_on_a_version_of_each_major_one(case: Any) -> None:
    for version in generations(case):
        agrees(case, GENERATIONS[version], target_of(version), standin(version))


@pytest.mark.parametrize("version", OTHERS)
def test_a_model_on_every_other_version(version: str) -> None:
    agrees(KNOWN["mixtral-window5-3of5-tied"], "float16", target_of(version), standin(version))


NATIVE = {
    "8.6": set[str](), "10.0": set[str](), "10.14": set[str](),
    "10.15": {"KV_CACHE_UPDATE", "ROTARY_EMBEDDING", "ATTENTION_OUTPUT"},
    "11.0": {"KV_CACHE_UPDATE", "ROTARY_EMBEDDING", "ATTENTION_OUTPUT"},
}   # fmt: skip


@pytest.mark.parametrize(("version", "layers"), NATIVE.items())
def test_layers_that_a_version_has_are_used(version: str, layers: set[str]) -> None:
    _, _, network = agrees(KNOWN["gqa-tied-head16"], "float16", target_of(version), standin(version))
    found = network.kinds()
    assert found & {"KV_CACHE_UPDATE", "ROTARY_EMBEDDING", "ATTENTION_OUTPUT"} == layers


@pytest.mark.parametrize("version", ["10.15", "10.16", "11.4", "rtx 1.4"])
@pytest.mark.parametrize(("name", "size"), [("deepseek-v2-lite", 16), ("mqa-bias-head20", 24), ("gqa-tied-head16", 16)])
def test_no_cache_is_copied(version: str, name: str, size: int) -> None:
    """Only updates read caches, and only attention reads those: of two head sizes, an odd one, and a usual one."""
    _, graph, network = agrees(KNOWN[name], "float16", target_of(version), standin(version))
    caches = [i for i in graph.inputs if i.key.endswith("_cache")]
    assert {i.shape[3] for i in caches} == {size}
    readers = [reader for cache in caches for update in graph.users[cache] for reader in graph.users[update]]
    assert {op.name for op in readers} == {"attention"} and len(readers) == len(caches)
    assert {"KV_CACHE_UPDATE", "ATTENTION_OUTPUT"} <= network.kinds()


@pytest.mark.parametrize("version", GENERATIONS)
def test_a_build_uses_what_the_builder_has(version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def module(product: str) -> Any:
        return standin(version)

    monkeypatch.setattr(building, "module", module)
    x = Input("x", f32["B", 4])
    graph = Graph("g", (x,), {"y": Neg(x)}, {"B": (1, 4)})
    with bundle(tmp_path / "engine", 0) as writer:
        building.build(graph, {}, writer, "rank0", target=target(target_of(version)))
        assert list(writer.files) == ["rank0/model.plan"]


def test_a_name_that_a_version_lacks_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def anew(op: Neg, emit: Any) -> Any:
        return emit.add("squeeze", emit[op.x], emit.constant(np.array([0], np.int32)))

    monkeypatch.setitem(LOWERINGS, Neg, anew)
    x = Input("x", f32[1, 4])
    graph = Graph("g", (x,), {"y": Neg(x)}, {})
    with pytest.raises(AttributeError, match="'INetworkDefinition' object has no attribute 'add_squeeze'"):
        network_of(graph, {}, trt=standin("10.6"))
