"""The layers of a built plan, and the ops that each was made of.

TensorRT fuses layers as it builds. What an engine layer comes from, it says itself: each layer of a network bears the
place and kind of its op (`trtc.backend.tensorrt.origins`), which the inspector gives as ``Metadata``, and the text in a
TensorRT-RTX plan as ``layers``. Where there is none (8.6), the names that it gives to what it has fused are read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

from trtc.backend.tensorrt.origins import origins
from trtc.backend.tensorrt.weights import constants
from trtc.errors import TrtcError
from trtc.ir.graph import Graph
from trtc.ir.op import Op

Profiles: TypeAlias = Sequence[Sequence["EngineLayer"]]


@dataclass(frozen=True)
class EngineLayer:
    """One layer of an engine: what runs in one go, a kernel mostly.

    Args:
        name: TensorRT's, by which it is timed.
        kind: TensorRT's word for it.
        ops: what it was made of, in the graph's order; none where it only moves or converts data.
    """

    name: str
    kind: str
    ops: tuple[Op, ...]


_SCHEDULE = b"header {\n  version ="   # begins the text of one profile, and of one fused kernel's inside
_INSIDE = b"region = { name=runtime-fusion-consts"
_KERNEL = re.compile(rb'\b(function|fully_connected|runtime_fusion)=\{ name=("[^"\n]*"|\S+)([^\n]*)')
_FROM = re.compile(rb'\blayers="([^"\n]*)"')
_PROFILE = re.compile(r" \[profile (\d+)\]$")
_JOINED = re.compile(r"[\x1e\x1f]")   # between the sources of one layer
_RANGE = re.compile(r"\{ForeignNode\[(.+)\.\.\.(.+)\]\}")
_BETWEEN = re.compile(r" \+ |, |[()\[\]{}]| to ")


def plan_layers(plan: bytes, graph: Graph) -> Profiles:
    """The layers of a TensorRT-RTX plan by profile, from its own text: no GPU is needed.

    Errors:
        TrtcError: it has no such text.
    """
    by_origin, found = Origins(graph), list[list[EngineLayer]]()
    for text in plan.split(_SCHEDULE)[1:]:
        if _INSIDE in text[:4096]:
            continue
        layers: list[EngineLayer] = []
        for kind, name, rest in _KERNEL.findall(text):
            said = _FROM.search(rest)
            ops = by_origin.joined(said[1].decode(errors="replace")) if said else ()
            layers.append(EngineLayer(name.decode(errors="replace").strip('"'), kind.decode(), ops))
        found.append(layers)
    if not any(found):
        raise TrtcError("the plan does not say what its layers are", "help: only plans of TensorRT-RTX do so here")
    return found


def inspected_layers(document: Mapping[str, Any], graph: Graph) -> Profiles:
    """The layers of an engine by profile, from what ``EngineInspector`` says of it in JSON.

    Args:
        document: of ``get_engine_information(JSON)``: layers are objects where the plan was built with
            ``profiling_verbosity`` detailed, and names otherwise.
    """
    by_origin, found = Origins(graph), dict[int, list[EngineLayer]]()
    for entry in cast("list[Any]", document.get("Layers", [])):
        said = cast("dict[str, Any]", entry if isinstance(entry, dict) else {"Name": entry})
        name = str(said.get("Name", ""))
        number = _PROFILE.search(name)
        plain = _PROFILE.sub("", name)
        ops = by_origin.joined(str(said.get("Metadata") or "")) or by_origin.named(plain)
        layer = EngineLayer(plain, str(said.get("LayerType", "")), ops)
        found.setdefault(int(number[1]) if number else 0, []).append(layer)
    return [found[n] for n in sorted(found)]


class Origins:
    """The ops of a graph by what their layers say."""

    def __init__(self, graph: Graph) -> None:
        self.ops = {origin: op for op, origin in origins(graph).items()}
        self.order = {op: number for number, op in enumerate(self.ops.values())}
        readers = ((item.name, graph.users[item.value]) for item in constants(graph))
        self.readers = {name: users[0] for name, users in readers if users}   # of each constant that the plan stores

    def joined(self, text: str) -> tuple[Op, ...]:
        """The ops that some metadata lists."""
        return self._sorted(self.ops.get(part) for part in _JOINED.split(text))

    def named(self, name: str) -> tuple[Op, ...]:
        """The ops that an engine layer's name lists, such as ``a + b``, ``PWN(a, b)`` or ``{ForeignNode[a...b]}``."""
        if match := _RANGE.fullmatch(name):
            ends = [self.op_of(part.strip()) for part in match.groups()]
            if ends[0] and ends[1]:
                first, last = sorted(self.order[op] for op in ends if op)
                return tuple(op for op, number in self.order.items() if first <= number <= last)
        return self._sorted(self.op_of(part.strip()) for part in _BETWEEN.split(name))

    def op_of(self, layer: str) -> Op | None:
        """The op that a layer of the network was made for, by the layer's name; of a constant's layer, its reader."""
        base = re.sub(r"(?<=/)([\w.]*?)(\.\w+)?(#\d+)?$", r"\1", layer)
        return self.ops.get(layer) or self.ops.get(base) or self.readers.get(layer)

    def _sorted(self, ops: Iterable[Op | None]) -> tuple[Op, ...]:
        return tuple(sorted({op for op in ops if op}, key=self.order.__getitem__))


def spelt(ops: Sequence[Op]) -> str:
    """Ops by place and kind, in one line; what all places begin with is said once.

    ``transformer.layers.0.mlp: fc/linear, act/silu``
    """
    places = [op.loc.split(".") for op in ops]
    common = 0
    while places and all(len(p) > common + 1 and p[common] == places[0][common] for p in places):
        common += 1
    parts: dict[str, list[str]] = {}
    for op, place in zip(ops, places, strict=True):
        kinds = parts.setdefault(".".join(place[common:]), [])
        if op.name not in kinds:
            kinds.append(op.name)
    shown = ", ".join(f"{place}/{'+'.join(kinds)}" if place else "+".join(kinds) for place, kinds in parts.items())
    return f"{'.'.join(places[0][:common])}: {shown}" if common else shown
