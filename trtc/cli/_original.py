"""How TensorRT-LLM's scripts spelt the options of ``trtc convert``: other names, those without need, those refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from trtc.errors import TrtcError


def _spelt(*names: str) -> Any:
    return typer.Option(*(f"--{name}" for name in names), hidden=True)   # `_` and `-` are the same in every name


@dataclass
class Original:
    """The options that ``--help`` does not show, each under all the names that it had."""

    model_dir: Annotated[Path | None, _spelt("model-dir", "nemo-ckpt-path", "quant-ckpt-path")] = None
    meta_ckpt_dir: Annotated[Path | None, _spelt("meta-ckpt-dir")] = None
    output_dir: Annotated[Path | None, _spelt("output-dir", "output-model-dir")] = None
    world_size: Annotated[int | None, _spelt("world-size")] = None

    # it is always so
    as_ever: Annotated[
        bool, _spelt("load-model-on-cpu", "load-by-shard", "load-nemo-on-gpu", "use-embedding-sharing")
    ] = False

    # the checkpoint says it, or --verbose, or it chose what calculated
    told: Annotated[str, _spelt(
        "ckpt-type", "model-type", "gpt-variant", "qwen-type", "chatglm-version", "tokenizer-dir", "moe-num-experts",
        "moe-top-k", "moe-renorm-mode", "log-level", "decoder-type", "device", "device-map", "weight-data-type",
        "dataset-cache-dir",
    )] = ""   # fmt: skip

    # `refuse` says what there is instead
    sizes: Annotated[str, _spelt(
        "vocab-size", "n-positions", "n-layer", "n-head", "n-kv-head", "n-embd", "inter-size", "multiple-of",
        "ffn-dim-multiplier", "rms-norm-eps", "hidden-act", "rotary-base",
    )] = ""   # fmt: skip
    quantize_by: Annotated[str, _spelt(
        "weight-only-precision", "use-weight-only-with-precision", "smoothquant", "group-size", "calib-dataset",
        "calib-size", "calib-max-seq-length", "qformat", "kv-cache-dtype", "awq-block-size", "autoq-format",
        "auto-quantize-bits", "calib-tp-size", "calib-pp-size", "tokenizer-max-seq-length", "batch-size", "seed",
        "export-format",
    )] = ""   # fmt: skip
    quantize: Annotated[bool, _spelt(
        "use-weight-only", "use-smooth-quant", "per-group", "per-channel", "per-token", "int8-kv-cache",
        "fp8-kv-cache", "use-fp8", "enable-fp8", "use-nvfp4", "use-fp8-rowwise", "use-qserve",
        "use-meta-fp8-rowwise-recipe", "disable-weight-only-quant-plugin", "use-int8-weight-only-embedding",
        "quantize-lm-head",
    )] = False   # fmt: skip
    drafts: Annotated[str, _spelt(
        "num-medusa-heads", "num-medusa-layers", "medusa-model-dir", "medusa-hidden-act", "max-draft-len",
        "eagle-model-dir", "num-eagle-layers", "max-non-leaves-per-layer",
    )] = ""   # fmt: skip
    prompts: Annotated[bool, _spelt("use-prompt-tuning")] = False
    config_only: Annotated[bool, _spelt("save-config-only")] = False
    fewer_heads: Annotated[bool, _spelt("remove-duplicated-kv-heads")] = False
    renamed: Annotated[str, _spelt("nemo-rename-key")] = ""

    def refuse(self) -> None:
        """Raise an error that says what there is in the place of options that are none any more, if one is given."""
        for name, said in REFUSED.items():
            if getattr(self, name):
                raise TrtcError(*said)


QUANTIZES = (
    "options that quantise (use_weight_only and so on) are no options: convert only casts",
    "help: give a quantised one as SRC, as ModelOpt, AutoAWQ and GPTQ make them; see docs/sources.md",
)
REFUSED: Mapping[str, tuple[str, ...]] = {
    "sizes": (
        "sizes of a model (vocab_size, n_layer and so on) are no options: SRC has them",
        "help: trtc convert SRC -o CKPT; no checkpoint is made up of sizes alone",
    ),
    "quantize_by": QUANTIZES,
    "quantize": QUANTIZES,
    "drafts": ("drafts of other models (Medusa, EAGLE) are no option: engines do not check them",),
    "prompts": ("use_prompt_tuning is no option: engines take no embeddings of prompts",),
    "config_only": ("save_config_only is no option: a checkpoint is written whole",),
    "fewer_heads": ("remove_duplicated_kv_heads is no option: heads of keys and values stay as SRC has them",),
    "renamed": ("nemo_rename_key is no option: the names of NeMo's and of Megatron's tensors are known",),
}   # fmt: skip
