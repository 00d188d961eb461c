"""NeMo's archives of GPT and LLaMA models: the config in YAML, Megatron's names, tensor and pipeline parallel ranks.

Source: nemo/collections/nlp/models/language_modeling/megatron_gpt_model.py and scripts/checkpoint_converters of NeMo 1,
whose models are in two forms: NeMo's own (``encoder.layers``), and Megatron Core's (``decoder.layers``).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from trtc.errors import TrtcError
from trtc.frontend.checkpoint import Checkpoint, Format
from trtc.frontend.config import DecoderConfig, Keys
from trtc.frontend.merged import qkv_parts, stored
from trtc.frontend.nemo_config import nemo_config, read_norm
from trtc.frontend.sources.nemo import CONFIG, NemoSource
from trtc.frontend.sources.tar import Member
from trtc.frontend.weights import Entry, Fetch, Wanted, named, through
from trtc.ir.op import Value
from trtc.ir.ops import Add, Concat, Reshape, Slice, scalar

LAYER = "transformer.layers.{n}"
MAX_TOKENIZER = 64 << 20   # bytes
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

def open_nemo(path: Path) -> Checkpoint:
    """The checkpoint of an archive, or of a folder of what was in it."""
    source = NemoSource(path)
    raw = source.config()
    layout = layout_of(source)
    keys = Keys(raw, CONFIG)
    config = nemo_config(
        keys, layout.words, ranks=source.tensor_parallel, stages=source.stages, core=layout.core
    )
    weights = through(named(layout.names(config, read_norm(keys)[1]), config, source.entries), layout.tensor(config))
    packed = _tokenizer(raw, source)
    return Checkpoint(path, "nemo", raw, config, source, weights, lambda: _generation(packed), packed)


FORMAT = Format(
    CONFIG, lambda path: (path.suffix == ".nemo" and path.is_file()) or (path / CONFIG).is_file(), open_nemo
)


@dataclass(frozen=True)
class Layout:
    """How the tensors of an archive are named and split.

    Args:
        root: what stands before all names.
        core: whether they are Megatron Core's.
        fused_norms: whether norms lie with the projections behind them.
        two_projections: whether the feed-forward block's first two lie apart.
        words: rows of the embedding, padding included.
    """

    root: str
    core: bool
    fused_norms: bool
    two_projections: bool
    tensor_parallel: int
    stages: int
    words: int

    def names(self, config: DecoderConfig, added: int) -> dict[str, Entry]:
        """The entries of the name map, over whole tensors.

        Args:
            added: to the weights of norms.
        """
        block = f"{self.root}{'decoder' if self.core else 'encoder'}"
        layer = f"{block}.layers.{{n}}"
        qkv, dense, first, second, after = (f"{layer}.{name}" for name in (CORE if self.core else OWN))
        norms = f"{layer}.input_layernorm.", f"{after}."
        if self.fused_norms:
            norms = f"{qkv}.layer_norm_", f"{first}.layer_norm_"
        fc, gate = Stacked(first, 0, self.tensor_parallel), Stacked(first, 1, self.tensor_parallel)
        if not config.gated or self.two_projections:
            fc, gate = first, f"{first}_2"
        return {
            "transformer.vocab_embedding": f"{self.root}{WORDS}",
            "transformer.position_embedding": f"{self.root}embedding.position_embeddings",
            **qkv_parts(LAYER, stored(qkv), grouped=True),
            f"{LAYER}.attention.dense": dense,
            f"{LAYER}.mlp.fc": fc,
            f"{LAYER}.mlp.gate": gate,
            f"{LAYER}.mlp.proj": second,
            f"{LAYER}.input_layernorm": _norm(norms[0], added),
            f"{LAYER}.post_layernorm": _norm(norms[1], added),
            "transformer.ln_f": _norm(f"{block}.final_layernorm.", added),
            "lm_head": f"{self.root}output_layer",
        }

    def tensor(self, config: DecoderConfig) -> Callable[[str, tuple[int, ...], Fetch], Value]:
        """A whole tensor, its layer counted from the first stage's, of the ranks' parts."""
        each = config.num_hidden_layers // self.stages

        def tensor(key: str, shape: tuple[int, ...], fetch: Fetch) -> Value:
            stem, _, kind = key.rpartition(".")
            layer = re.search(r"\.layers\.(\d+)\.", key)
            stage = 0 if stem.endswith("_embeddings") else self.stages - 1
            if layer:
                stage = int(layer[1]) // each
                key = key.replace(layer[0], f".layers.{int(layer[1]) % each}.")
            axis = 0 if stem.endswith(ROWS) and kind in ("weight", "bias") else 1
            ranks = self.tensor_parallel if axis == 0 or (stem.endswith(COLUMNS) and kind == "weight") else 1
            sizes = [size // ranks if i == axis else size for i, size in enumerate(shape)]
            parts = tuple(fetch(f"tp{rank}_pp{stage}/{key}", *sizes) for rank in range(ranks))
            return parts[0] if len(parts) == 1 else Concat(parts, axis)

        return tensor


@dataclass(frozen=True)
class Stacked:
    """One of two projections in a tensor of both, one after the other in each rank's part.

    Args:
        index: 0 for the one that is activated.
    """

    key: str
    index: int
    ranks: int

    def __call__(self, wanted: Wanted) -> Value:
        width, *rest = wanted.shape
        both = wanted.fetch(f"{self.key}.{wanted.kind}", 2 * width, *rest)
        by_rank = Reshape(both, (self.ranks, 2, width // self.ranks, *rest))
        return Reshape(Slice(by_rank, 1, self.index, 1), wanted.shape)


def _norm(key: str, added: int) -> Callable[[Wanted], Value]:
    """A norm's weight or bias, of which weights may be stored less 1."""

    def entry(wanted: Wanted) -> Value:
        value = wanted.fetch(f"{key}{wanted.kind}", *wanted.shape)
        return Add(value, scalar(added, value.dtype)) if added and wanted.kind == "weight" else value

    return entry


def layout_of(source: NemoSource) -> Layout:
    """What the names and shapes in the first rank's file say."""
    first = "tp0_pp0/"
    found = next((key for key in source if key.startswith(first) and key.endswith(f"{WORDS}.weight")), None)
    if found is None:
        raise TrtcError(f"tensor {WORDS}.weight is missing from {source.folder}")
    root = found.removeprefix(first).removesuffix(f"{WORDS}.weight")
    rows = source.type(found).shape[0]
    assert isinstance(rows, int)
    layer = f"{first}{root}decoder.layers.0"
    return Layout(
        root,
        core=not root.endswith("language_model."),
        fused_norms=f"{layer}.self_attention.linear_qkv.layer_norm_weight" in source.entries,
        two_projections=f"{first}{root}encoder.layers.0.mlp.dense_h_to_4h_2.weight" in source.entries,
        tensor_parallel=source.tensor_parallel,
        stages=source.stages,
        words=rows * source.tensor_parallel,
    )


def _tokenizer(raw: dict[str, Any], source: NemoSource) -> tuple[Member, ...]:
    """The SentencePiece model that the config names and the archive holds, under the name that the runtime knows."""
    section: Any = raw.get("tokenizer")
    stated = cast("dict[str, Any]", section) if isinstance(section, dict) else {}
    own = stated.get("library") == "sentencepiece"
    name = str(stated.get("model")).removeprefix("nemo:").rpartition("/")[2] if own else ""
    found = [member for member in source.members.values() if member.name == name]
    return tuple(replace(member, name="tokenizer.model") for member in found[:1])


def _generation(packed: tuple[Member, ...]) -> dict[str, Any]:
    """The ids that the tokenizer has; none where there is no tokenizer."""
    ids = [-1, -1, -1]
    if packed:
        sentencepiece: Any = import_module("sentencepiece")
        try:
            model: Any = sentencepiece.SentencePieceProcessor(model_proto=packed[0].read(MAX_TOKENIZER))
        except RuntimeError as error:
            raise TrtcError(f"{packed[0].file.name}: the tokenizer cannot be read: {error}") from None
        ids = [model.bos_id(), model.eos_id(), model.pad_id()]
    bos, eos, pad = (i if i >= 0 else None for i in ids)
    return {"bos_token_id": bos, "eos_token_ids": [] if eos is None else [eos], "pad_token_id": pad}
