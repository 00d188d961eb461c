"""The options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ModelDir = Annotated[Path, typer.Argument(metavar="MODEL_DIR", help="A checkpoint of any form that trtc reads.")]
TargetName = Annotated[str, typer.Option(metavar="TARGET", help="name or name:version; see trtc targets.")]
DType = Annotated[str, typer.Option(metavar="DTYPE", help="float32, float16 or bfloat16; by default the model's.")]
MaxBatchSize = Annotated[int, typer.Option(metavar="N", help="Sequences of a batch at most.")]
MaxInputLen = Annotated[int, typer.Option(metavar="N", help="New tokens of a sequence in one call; 0: --max-seq-len.")]
MaxSeqLen = Annotated[int, typer.Option(metavar="N", help="Tokens of a sequence at most; 0: the model's, up to 4096.")]
Passes = Annotated[str, typer.Option("--passes", "-p", metavar="PIPELINE", help="Passes, by commas; see trtc passes.")]
Load = Annotated[list[Path] | None, typer.Option(metavar="FILE", help="Python: passes, kernels, families; repeatable.")]
AllLogits = Annotated[bool, typer.Option("--all-logits", help="Logits of every token, not of each sequence's last.")]
Explain = Annotated[bool, typer.Option("--explain", help="Say which rules applied and which skipped, and why.")]
Check = Annotated[bool, typer.Option("--check", help="Evaluate before and after each pass and compare.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
