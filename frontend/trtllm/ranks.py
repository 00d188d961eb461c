"""The tensors of each rank over a model's weights, and a model's weights over the tensors of ranks."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass

from trtc.frontend.trtllm.layout import EMBEDDING, Cut, Layout, joint_axis, stored_dtype
from trtc.frontend.weights import Fetch
from trtc.ir.op import Value
from trtc.ir.ops import Cast, Concat, Constant, Slice
from trtc.ir.types import DType, TensorType

OLDER = {f"{EMBEDDING}.weight": "transformer.embedding.vocab_embedding.weight"}
"""Names that the first checkpoints had."""


def rank_tensors(layout: Layout, weights: Mapping[str, Value], dtype: DType, file: int) -> dict[str, Value]:
    """The tensors of one file, by name: of a rank, or of several context-parallel ones.

    Args:
        weights: those of the whole model by role, in order of use.
        dtype: what they are stored in, but for routers.
    """
    stage, place = divmod(file, layout.mapping.tp)
    found: dict[str, Value] = {}
    last = 0   # what comes before the layers is of the first stage, what comes after them of the last
    for role, weight in weights.items():
        home = layout.home(role)
        last = layout.mapping.pp - 1 if home else last
        where, name = home or (last, role)
        if where == stage:
            part, to = weight, stored_dtype(role, dtype)
            for cut in layout.cuts(role, sizes_of(weight)):
                part = _part(part, cut, place)
            found[name] = part if part.dtype == to else Cast(part, to)
    return _merged(layout, found)


def _part(weight: Value, cut: Cut, place: int) -> Value:
    shape = sizes_of(weight)
    if missing := cut.size - shape[cut.axis]:
        zeros = TensorType(weight.dtype, (*shape[: cut.axis], missing, *shape[cut.axis + 1 :]))
        weight = Concat((weight, Constant((0.0,), zeros)), cut.axis)
    return Slice(weight, cut.axis, *cut.share(place))


def _merged(layout: Layout, tensors: Mapping[str, Value]) -> dict[str, Value]:
    """The same tensors, those that lie in one joined, in the place of the first of them."""
    found: dict[str, Value] = {}
    for name, value in tensors.items():
        whole, parts = layout.container(name, value.type.rank)
        if whole and all(part in tensors for part in parts):
            found.setdefault(whole, Concat(tuple(map(tensors.__getitem__, parts)), joint_axis(whole, value.type.rank)))
        else:
            found[name] = value
    return found


@dataclass(frozen=True)
class RankWeights:
    """Weights of the whole model over the tensors of the ranks' files, whose keys begin with ``rank0/``.

    Args:
        keys: of all files.
    """

    layout: Layout
    keys: Container[str]

    def __call__(self, role: str, shape: tuple[int, ...], fetch: Fetch) -> Value:
        cuts = self.layout.cuts(role, shape)
        stage, name = self.layout.home(role) or self._outside(role)

        def joined(left: tuple[Cut, ...], place: int) -> Value:
            if not left:
                return self._stored(name, shape, cuts, place, stage * self.layout.mapping.tp + place, fetch)
            cut, *rest = left
            parts = tuple(joined(tuple(rest), place + holder) for holder in cut.holders)
            whole = parts[0] if len(parts) == 1 else Concat(parts, cut.axis)
            return whole if cut.size == shape[cut.axis] else Slice(whole, cut.axis, 0, shape[cut.axis])

        return joined(cuts, 0)

    def _outside(self, role: str) -> tuple[int, str]:
        """The stage and the name of a weight outside the layers: the first stage has it, else the last."""
        mapping = self.layout.mapping
        for stage in (0, mapping.pp - 1):
            for name in (role, OLDER.get(role, role)):
                if f"rank{stage * mapping.tp}/{name}" in self.keys:
                    return stage, name
        return 0 if role.startswith(EMBEDDING) else mapping.pp - 1, role

    def _stored(
        self, name: str, shape: tuple[int, ...], cuts: tuple[Cut, ...], place: int, rank: int, fetch: Fetch
    ) -> Value:
        """A rank's part of a weight: a tensor of its file, or some rows of one."""
        own = _resized(shape, cuts, place)
        whole, parts = self.layout.container(name, len(shape))
        if not whole or (whole not in parts and f"rank{rank}/{whole}" not in self.keys):
            return fetch(f"rank{rank}/{name}", *own)
        axis = joint_axis(whole, len(shape))
        rows = [self._rows(part, shape, axis, place) for part in parts]
        joined = fetch(f"rank{rank}/{whole}", *own[:axis], sum(rows), *own[axis + 1 :])
        index = parts.index(name)
        return Slice(joined, axis, sum(rows[:index]), rows[index])

    def _rows(self, part: str, shape: tuple[int, ...], axis: int, place: int) -> int:
        """How many rows a rank has of one of the weights in a merged tensor, all of one shape but for their rows."""
        config, name = self.layout.config, part.split(".")[-2]
        heads = {"q": config.num_attention_heads, "k": config.num_key_value_heads, "v": config.num_key_value_heads}
        size = heads[name] * config.head_dim if name in heads else shape[axis]
        full = (*shape[:axis], size, *shape[axis + 1 :])
        return _resized(full, self.layout.cuts(part, full), place)[axis]


def _resized(shape: tuple[int, ...], cuts: tuple[Cut, ...], place: int) -> tuple[int, ...]:
    sizes = {cut.axis: cut.share(place)[1] for cut in cuts}
    return tuple(sizes.get(axis, size) for axis, size in enumerate(shape))


def sizes_of(value: Value) -> tuple[int, ...]:
    """The shape of a weight, whose sizes are numbers."""
    return tuple(size for size in value.shape if isinstance(size, int))
