"""Small models of random weights, whose sizes the fast kernels take: checkpoints written by transformers."""

from __future__ import annotations

import copy
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:] = [p for p in sys.path if Path(p).resolve() != HERE]   # lest transformers takes kernels.py for a package
torch: Any = import_module("torch")
transformers: Any = import_module("transformers")

SMALL: dict[str, Any] = {
    "vocab_size": 2000, "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 3, "num_attention_heads": 8,
    "num_key_value_heads": 2, "head_dim": 64, "max_position_embeddings": 2048, "tie_word_embeddings": False,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None,
}   # fmt: skip
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama-head128": ("Llama", {"head_dim": 128, "num_attention_heads": 4, "num_key_value_heads": 1}),
    "qwen2-bias": ("Qwen2", {}),
    "qwen3": ("Qwen3", {"head_dim": 128}),
    "gemma2": ("Gemma2", {"head_dim": 64, "sliding_window": 32, "tie_word_embeddings": True}),
    "phi3": ("Phi3", {}),
    "mixtral": ("Mixtral", {"num_local_experts": 8, "num_experts_per_tok": 2}),
}
"""By name: the class in transformers, and what differs from ``SMALL``."""


def make(name: str, folder: Path) -> Path:
    """Write one of them, and return its folder."""
    family, differs = MODELS[name]
    kind = getattr(transformers, f"{family}ForCausalLM")
    torch.manual_seed(0)
    model = kind(kind.config_class(**copy.deepcopy({**SMALL, **differs})))
    for parameter in model.parameters():
        if parameter.dim() > 1:   # logits that lie apart, which the usual small weights do not give
            parameter.data.normal_(0, 1.5 / parameter.shape[-1] ** 0.5)
    model.save_pretrained(folder, save_original_format=True)
    return folder
