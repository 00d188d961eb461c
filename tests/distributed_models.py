"""Models that distributed checkpoints are of, under Megatron Core's names."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import distributed_files
import models
import nemo_files
import pytest
from models import Case

from trtc.errors import TrtcError
from trtc.frontend import Limits, open_checkpoint
from trtc.ir.types import f32

torch: Any = import_module("torch")
load_file: Any = import_module("safetensors.torch").load_file


LLAMA = Case("distributed", {"num_key_value_heads": 2, "vocab_size": 96})
TIED = Case("distributed-tied-bf16", {"tie_word_embeddings": True, "num_hidden_layers": 4, "vocab_size": 96},
            dtype="bfloat16")   # fmt: skip
EXPERTS = Case("distributed-experts", {
    "vocab_size": 96, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None,
    "num_key_value_heads": 2, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}, model="Mixtral")   # fmt: skip
WINDOWS = Case("distributed-windows", {
    "vocab_size": 96, "sliding_window": 6, "num_key_value_heads": 2,
}, model="Mistral")   # fmt: skip
SCALED = Case("distributed-llama3", {
    "vocab_size": 96, "rope_parameters": {
        "rope_type": "llama3", "rope_theta": 500000.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
})   # fmt: skip
NORMS = Case("distributed-qk-norms", {"vocab_size": 96, "head_dim": 16, "num_key_value_heads": 2}, model="Qwen3")
BIASED = Case("distributed-biases", {
    "num_key_value_heads": 2, "use_bias": True, "sliding_window": None, "norm_epsilon": 1e-5,
    "tie_word_embeddings": False, "vocab_size": 96,
}, model="Starcoder2")   # fmt: skip


def state_of(case: Case, folder: Path, *, stack: bool, **form: Any) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """Hugging Face's folder, its config, and the same model's tensors under Megatron Core's names."""
    hf = models.write(case, folder / "hf")
    config = json.loads((hf / "config.json").read_text())
    tensors = load_file(hf / "model.safetensors")
    ((state,),) = nemo_files.Writer(tensors, config, core=True, fused_norms=True, **form).write()
    plain = {key: tensor for key, tensor in state.items() if isinstance(tensor, torch.Tensor)}
    return hf, config, distributed_files.stacked(plain) if stack else plain


def error_of(path: Path) -> str:
    with pytest.raises(TrtcError) as error:
        open_checkpoint(path).graph(Limits(2, 8, 16), f32)
    return str(error.value).replace(str(path), "NEMO").removeprefix("error: ")
