"""How TensorRT-LLM's scripts spelt the options of ``trtc convert``: other names, those without need, those refused."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trtc.errors import TrtcError

# `_` and `-` are the same in every name
ModelDir = Annotated[
    Path | None, typer.Option("--model-dir", "--nemo-ckpt-path", "--quant-ckpt-path", hidden=True)
]   # fmt: skip
MetaDir = Annotated[Path | None, typer.Option("--meta-ckpt-dir", hidden=True)]
OutputDir = Annotated[Path | None, typer.Option("--output-dir", "--output-model-dir", hidden=True)]
WorldSize = Annotated[int | None, typer.Option("--world-size", hidden=True)]

# it is always so
AsEver = Annotated[
    bool, typer.Option("--load-model-on-cpu", "--load-by-shard", "--use-embedding-sharing", hidden=True)
]   # fmt: skip
# the checkpoint says it, or --verbose
Told = Annotated[
    str, typer.Option(
        "--ckpt-type", "--model-type", "--gpt-variant", "--qwen-type", "--chatglm-version", "--tokenizer-dir",
        "--moe-num-experts", "--moe-top-k", "--moe-renorm-mode", "--log-level",
        hidden=True,
    ),
]   # fmt: skip


# `refuse` says what there is instead
Sizes = Annotated[str, typer.Option(
    "--vocab-size", "--n-positions", "--n-layer", "--n-head", "--n-kv-head", "--n-embd", "--inter-size",
    "--multiple-of", "--ffn-dim-multiplier", "--rms-norm-eps", "--hidden-act", "--rotary-base",
    hidden=True,
)]   # fmt: skip
QuantizeBy = Annotated[str, typer.Option(
    "--weight-only-precision", "--use-weight-only-with-precision", "--smoothquant", "--group-size",
    "--calib-dataset", "--calib-size", "--calib-max-seq-length",
    hidden=True,
)]   # fmt: skip
Quantize = Annotated[bool, typer.Option(
    "--use-weight-only", "--use-smooth-quant", "--per-group", "--per-channel", "--per-token", "--int8-kv-cache",
    "--fp8-kv-cache", "--use-fp8", "--enable-fp8", "--use-nvfp4", "--use-fp8-rowwise", "--use-qserve",
    "--use-meta-fp8-rowwise-recipe", "--disable-weight-only-quant-plugin",
    hidden=True,
)]   # fmt: skip


def refuse(*, sizes: bool, quantize: bool) -> None:
    """Raise an error that says what there is in the place of options that are none any more, where one is given."""
    if sizes:
        note = "help: trtc convert SRC -o CKPT; no checkpoint is made up of sizes alone"
        raise TrtcError("sizes of a model (vocab_size, n_layer and so on) are no options: SRC has them", note)
    if quantize:
        note = "help: give a quantised one as SRC, as ModelOpt, AutoAWQ and GPTQ make them; see docs/sources.md"
        raise TrtcError("options that quantise (use_weight_only and so on) are no options: convert only casts", note)
