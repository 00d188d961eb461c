"""Megatron's names: what each weight is of the tensors of a model, in NeMo's own form and in Megatron Core's."""

from __future__ import annotations

import re
from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Protocol

from trtc.errors import TrtcError
from trtc.frontend.config import DecoderConfig
from trtc.frontend.experts import PARTS
from trtc.frontend.merged import qkv_parts, stored
from trtc.frontend.sources.mapped import MappedSource
from trtc.frontend.sources.megatron import DistributedSource
from trtc.frontend.sources.nemo import NemoSource
from trtc.frontend.tiled import Boxes
from trtc.frontend.weights import Entry, Fetch, Wanted
from trtc.ir.op import Value
from trtc.ir.ops import Add, Concat, Reshape, Slice, scalar

LAYER = "transformer.layers.{n}"
WORDS = "embedding.word_embeddings"
OWN = (
    "self_attention.query_key_value", "self_attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h",
    "post_attention_layernorm",
)   # fmt: skip
CORE = (
    "self_attention.linear_qkv", "self_attention.linear_proj", "mlp.linear_fc1", "mlp.linear_fc2", "pre_mlp_layernorm",
)   # fmt: skip
"""What a layer's projections and second norm are called, in NeMo's own form and in Megatron Core's."""
ROWS = (".word_embeddings", ".query_key_value", ".dense_h_to_4h", ".dense_h_to_4h_2", ".linear_qkv", ".linear_fc1",
        "output_layer")   # fmt: skip
COLUMNS = (".self_attention.dense", ".dense_4h_to_h", ".linear_proj", ".linear_fc2")
"""What ranks split by rows, with its biases, and by columns; each rank has all of the others."""
NUMBER, EXPERT = re.compile(r"\.layers\.(\d+)\."), re.compile(r"\.local_experts\.(\d+)\.")


class Tensors(Container[object], Protocol):
    """The whole tensors of a model, made of what the files have.

    ``tensors(key, shape, fetch)`` is one of them; layers and experts count through.
    """

    root: str
    words: int
    ranks: int

    def __call__(self, key: str, shape: tuple[int, ...], fetch: Fetch) -> Value: ...


class Ranks:
    """Tensors whose parts lie in the files of ranks and stages.

    Args:
        layers: of the model.

    ``root`` is what stands before all names, ``words`` the rows of the embedding, padding included.
    """

    def __init__(self, source: NemoSource, layers: int) -> None:
        self.source, self.ranks, self.each = source, source.tensor_parallel, layers // source.stages
        self.root, rows = root_of(source, "tp0_pp0/")
        self.words = rows * self.ranks

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and "tp0_pp{}/{}".format(*self._place(key)) in self.source

    def __call__(self, key: str, shape: tuple[int, ...], fetch: Fetch) -> Value:
        stem, _, kind = key.rpartition(".")
        stage, local = self._place(key)
        axis = 0 if stem.endswith(ROWS) and kind in ("weight", "bias") else 1
        ranks = self.ranks if axis == 0 or (stem.endswith(COLUMNS) and kind == "weight") else 1
        sizes = [size // ranks if i == axis else size for i, size in enumerate(shape)]
        parts = tuple(fetch(f"tp{rank}_pp{stage}/{local}", *sizes) for rank in range(ranks))
        return parts[0] if len(parts) == 1 else Concat(parts, axis)

    def _place(self, key: str) -> tuple[int, str]:
        """The stage that has a tensor, and its key there: layers are counted from the first of the stage."""
        layer = NUMBER.search(key)
        if not layer:
            first = key.rpartition(".")[0].endswith("_embeddings")
            return 0 if first else self.source.stages - 1, key
        return int(layer[1]) // self.each, key.replace(layer[0], f".layers.{int(layer[1]) % self.each}.")


class Stacks:
    """Whole tensors of a distributed checkpoint; those of all layers, or of all experts, may be stacked in one."""

    ranks = 1

    def __init__(self, source: DistributedSource) -> None:
        self.boxes = Boxes(source, source.tiles)
        self.root, self.words = root_of(source, "", self.boxes)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._found(key)[0] in self.boxes

    def __call__(self, key: str, shape: tuple[int, ...], fetch: Fetch) -> Value:
        found, index = self._found(key)
        if found not in self.boxes or not index:
            return self.boxes.whole(found, shape, fetch)
        of = tuple(size for size in self.boxes.type(found).shape[: len(index)] if isinstance(size, int))
        if len(of) < len(index) or any(at >= size for at, size in zip(index, of, strict=True)):
            of = tuple(at + 1 for at in index)   # what there must be at least, for the message
        return self.boxes.at(found, index, shape, fetch, of)

    def _found(self, key: str) -> tuple[str, tuple[int, ...]]:
        """The tensor that holds this one, and where in it."""
        layer, expert = NUMBER.search(key), EXPERT.search(key)
        homes = [(key, tuple[int, ...]())]
        if expert:
            homes += [(key.replace(expert[0], f".experts.{expert[1]}."), ())]
            homes += [(key.replace(expert[0], ".experts."), (int(expert[1]),))]
        if layer:
            homes += [(name.replace(layer[0], ".layers."), (int(layer[1]), *index)) for name, index in homes]
        return next((home for home in homes if home[0] in self.boxes), homes[0])


def root_of(source: MappedSource, before: str, boxes: Boxes | None = None) -> tuple[str, int]:
    """What stands before all names, and the rows of the embedding.

    Args:
        before: what stands before the names of the first rank.
    """
    every = [*source, *(boxes.tiles if boxes else ())]
    found = next((key for key in every if key.startswith(before) and key.endswith(f"{WORDS}.weight")), None)
    if found is None:
        raise TrtcError(f"tensor {WORDS}.weight is missing from {source.folder}")
    stored = (boxes or source).type(found)
    rows = stored.shape[0] if stored.rank == 2 else None
    if not isinstance(rows, int):
        raise TrtcError(f"tensor {found} is {stored}, but must have 2 axes")
    return found.removeprefix(before).removesuffix(f"{WORDS}.weight"), rows


@dataclass(frozen=True)
class Names:
    """The name map of a model.

    Args:
        core: whether the names are Megatron Core's.
        added: to the weights of norms.
    """

    tensors: Tensors
    core: bool
    added: int

    def entries(self, config: DecoderConfig) -> dict[str, Entry]:
        """By role, over whole tensors."""
        root, form = self.tensors.root, CORE if self.core else OWN
        block = f"{root}{'decoder' if self.core else 'encoder'}"
        layer = f"{block}.layers.{{n}}"
        qkv, dense, first, second, after = (f"{layer}.{name}" for name in form)
        return {
            "transformer.vocab_embedding": f"{root}{WORDS}",
            "transformer.position_embedding": f"{root}embedding.position_embeddings",
            **qkv_parts(LAYER, stored(qkv), grouped=True),
            f"{LAYER}.attention.dense": dense,
            f"{LAYER}.attention.q_layernorm": self._norm(f"{layer}.self_attention.q_layernorm."),
            f"{LAYER}.attention.k_layernorm": self._norm(f"{layer}.self_attention.k_layernorm."),
            **self._experts_or_dense(layer, first, second, config),
            f"{LAYER}.mlp.router": f"{layer}.mlp.router",
            f"{LAYER}.input_layernorm": self._norm(f"{layer}.input_layernorm.", f"{qkv}.layer_norm_"),
            f"{LAYER}.post_layernorm": self._norm(f"{after}.", f"{first}.layer_norm_"),
            "transformer.ln_f": self._norm(f"{block}.final_layernorm."),
            "lm_head": f"{root}output_layer",
        }

    def _experts_or_dense(self, layer: str, first: str, second: str, config: DecoderConfig) -> dict[str, Entry]:
        ranks = self.tensors.ranks
        if config.moe:
            expert = f"{layer}.mlp.experts.local_experts"
            return {f"{LAYER}.mlp.{part}": Expert(expert, i, ranks) for i, part in enumerate(PARTS)}
        fc, gate = (Stacked(first, i, ranks) if config.gated else first for i in range(2))
        return {f"{LAYER}.mlp.fc": fc, f"{LAYER}.mlp.gate": gate, f"{LAYER}.mlp.proj": second}

    def _norm(self, *stems: str) -> Callable[[Wanted], Value]:
        """A norm's weight or bias, by itself or with the projection behind it; weights may be stored less 1."""

        def entry(wanted: Wanted) -> Value:
            known = [stem for stem in stems if wanted.has(f"{stem}{wanted.kind}")]
            value = wanted.fetch(f"{(known or stems)[0]}{wanted.kind}", *wanted.shape)
            return Add(value, scalar(self.added, value.dtype)) if self.added and wanted.kind == "weight" else value

        return entry


@dataclass(frozen=True)
class Stacked:
    """One of two projections: in a tensor of both, one after the other in each rank's part; or each its own.

    Args:
        index: 0 for the one that is activated.
    """

    key: str
    index: int
    ranks: int

    def __call__(self, wanted: Wanted) -> Value:
        width, *rest = wanted.shape
        if wanted.has(f"{self.key}_2.{wanted.kind}"):
            return wanted.fetch(f"{self.key}{'_2' * self.index}.{wanted.kind}", *wanted.shape)
        if wanted.has(f"{self.key}.{wanted.kind}_w"):   # singleton_local_shards of Megatron Core
            return wanted.fetch(f"{self.key}.{wanted.kind}_{'wv'[self.index]}", *wanted.shape)
        both = wanted.fetch(f"{self.key}.{wanted.kind}", 2 * width, *rest)
        by_rank = Reshape(both, (self.ranks, 2, width // self.ranks, *rest))
        return Reshape(Slice(by_rank, 1, self.index, 1), wanted.shape)


@dataclass(frozen=True)
class Expert:
    """A projection of all experts, each of which has tensors of its own.

    Args:
        part: fc, gate or proj, by its number.
    """

    key: str
    part: int
    ranks: int

    def __call__(self, wanted: Wanted) -> Value:
        count, *sizes = wanted.shape
        return Concat(tuple(Reshape(self._one(wanted, e, *sizes), (1, *sizes)) for e in range(count)), 0)

    def _one(self, wanted: Wanted, expert: int, rows: int, columns: int) -> Value:
        if self.part == 2:
            return wanted.fetch(f"{self.key}.{expert}.linear_fc2.weight", rows, columns)
        own = Wanted("weight", (rows, columns), wanted.config, wanted.fetch, wanted.has)
        return Stacked(f"{self.key}.{expert}.linear_fc1", self.part, self.ranks)(own)
