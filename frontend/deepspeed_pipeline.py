"""Pipeline modules that DeepSpeed saved, a file a layer and model-parallel rank.

The files do not name the model's modules: a layer is known by its place in the pipeline alone. So they are read for the
two models whose pipelines are published, BLOOM (Megatron-DeepSpeed) and GPT-NeoX.

Source: transformers' convert_bloom_original_checkpoint_to_pytorch.py; megatron/model/gpt2_model.py of GPT-NeoX.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from trtc.errors import TrtcError
from trtc.frontend.combined import combined
from trtc.frontend.config import DecoderConfig
from trtc.frontend.sources.deepspeed import passed_over
from trtc.frontend.sources.deepspeed_rules import Join
from trtc.frontend.sources.mapped import Entry
from trtc.frontend.sources.torch_zip import TorchSource, read_torch
from trtc.frontend.weights import Fetch
from trtc.ir.op import Value

FILE = re.compile(r"layer_(\d{2,6})-model_(\d{2,6})-model_states\.pt")
LAYER = re.compile(r"(?:transformer\.h|gpt_neox\.layers)\.(\d+)\.(.+)")
COLUMNS = ("dense_4h_to_h.weight", "self_attention.dense.weight")
ROWS = ("query_key_value.weight", "query_key_value.bias", "dense_h_to_4h.weight", "dense_h_to_4h.bias",
        "word_embeddings.weight")   # fmt: skip
"""What ranks split by columns, and by rows; of the others each has all, and the mean is taken."""


@dataclass(frozen=True)
class Pipeline:
    """Where the pipeline of a model has what.

    Args:
        first: the number of the file of the first layer.
        outer: the file and the name there of what comes before the layers, by Hugging Face's name.
        behind: the same of what comes after them; 0 is the file behind the last layer's.
        most: the number of model-parallel ranks whose parts can be joined.
    """

    first: int
    outer: Mapping[str, tuple[int, str]]
    behind: Mapping[str, tuple[int, str]]
    most: int


PIPELINES = {
    "BloomForCausalLM": Pipeline(3, {
        "transformer.word_embeddings.weight": (1, "word_embeddings.weight"),
        **{f"transformer.word_embeddings_layernorm.{kind}": (1, f"word_embeddings.norm.{kind}")
           for kind in ("weight", "bias")},
    }, {f"transformer.ln_f.{kind}": (1, kind) for kind in ("weight", "bias")}, 1 << 10),
    "GPTNeoXForCausalLM": Pipeline(2, {"gpt_neox.embed_in.weight": (0, "word_embeddings.weight")}, {
        **{f"gpt_neox.final_layer_norm.{kind}": (1, f"norm.{kind}") for kind in ("weight", "bias")},
        "embed_out.weight": (2, "final_linear.weight"),
    }, 1),
}   # fmt: skip
"""By architecture. Behind the last layer is one of no weights; GPT-NeoX's ranks each have a share of some biases."""


def has_layers(step: Path) -> bool:
    """Whether a step's folder holds the files of a pipeline."""
    return any(FILE.fullmatch(file.name) for file in step.glob("layer_*.pt"))


class PipelineSource(TorchSource):
    """The tensors of the files; ``3.1/mlp.dense_h_to_4h.weight`` is of layer 3 in the pipeline, rank 1."""

    def __init__(self, step: Path) -> None:
        super().__init__(step, [])
        self.files: list[str] = []
        self.ranks = 1
        for file in sorted(step.glob("layer_*.pt")):
            if not (match := FILE.fullmatch(file.name)):
                continue
            self.files.append(file.name)
            self.ranks = max(self.ranks, int(match[2]) + 1)
            value = read_torch(file, inert=passed_over)
            every = cast("dict[Any, Any]", value).items() if isinstance(value, dict) else ()
            place = f"{int(match[1])}.{int(match[2])}"
            self.entries.update((f"{place}/{key}", entry) for key, entry in every if isinstance(entry, Entry))


class PipelineTensors:
    """Tensors by Hugging Face's names, over those of the pipeline."""

    def __init__(self, pipeline: Pipeline, layers: int, source: PipelineSource) -> None:
        self.pipeline, self.layers, self.source = pipeline, layers, source
        self.known = {*pipeline.outer, *pipeline.behind}

    def __call__(self, key: str, shape: tuple[int, ...], fetch: Fetch) -> Value:
        file, name = self._place(key)
        keys = [f"{file}.{rank}/{name}" for rank in range(self.source.ranks)]
        if len(keys) == 1 or any(one not in self.source for one in keys):
            return fetch(next((one for one in keys if one not in self.source), keys[0]), *shape)
        parts = [fetch(one, *self.source.type(one).shape) for one in keys]
        join: Join = "columns" if name.endswith(COLUMNS) else "rows" if name.endswith(ROWS) else "mean"
        return combined(name, parts, join, shape, padded=name == "word_embeddings.weight")

    def _place(self, key: str) -> tuple[int, str]:
        if key in self.pipeline.outer:
            return self.pipeline.outer[key]
        if key in self.pipeline.behind:
            behind, name = self.pipeline.behind[key]
            return self.pipeline.first + self.layers + behind, name
        layer = LAYER.fullmatch(key)
        return (self.pipeline.first + int(layer[1]), layer[2]) if layer else (0, key)


def pipeline_names(config: DecoderConfig, source: PipelineSource) -> PipelineTensors:
    """The tensors of a pipeline by Hugging Face's names.

    Errors:
        TrtcError: the pipeline of the architecture is not known, or its ranks cannot be joined.
    """
    pipeline = PIPELINES.get(config.architecture)
    if pipeline is None:
        known = f"help: read are those of {', '.join(PIPELINES)}; save the model with save_pretrained instead"
        raise TrtcError(f"{source.folder} holds a pipeline of {config.architecture}, whose layers have no names", known)
    if source.ranks > pipeline.most:
        join = "help: GPT-NeoX's convert_neox_to_hf.py joins them"
        raise TrtcError(f"{source.folder} has {source.ranks} model-parallel ranks, but must have one", join)
    return PipelineTensors(pipeline, config.num_hidden_layers, source)
