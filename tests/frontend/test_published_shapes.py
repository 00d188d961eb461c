"""Published sizes of the families that came before LLaMA: every tensor of transformers' model is read, in its shape.

The files hold no numbers: they are as large as the models' first two layers, and sparse.
"""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from trtc.compiler import read_model
from trtc.ir.ops import Weight

torch: Any = import_module("torch")
transformers: Any = import_module("transformers")
NEW = {"new_decoder_architecture": True, "vocab_size": 65024}
RW = {"alibi": True, "multi_query": False, "parallel_attn": False, "bias": True, "vocab_size": 50304}
TURNED: Any = {"rope_type": "default", "rope_theta": 10000.0}
PUBLISHED: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2LMHead", {}),
    "gpt2-xl": ("GPT2LMHead", {"n_embd": 1600, "n_head": 25}),
    "starcoder": ("GPTBigCode", {"n_embd": 6144, "n_head": 48, "n_inner": 24576, "n_positions": 8192}),
    "opt-125m": ("OPT", {}),
    "opt-350m": ("OPT", {
        "hidden_size": 1024, "num_attention_heads": 16, "ffn_dim": 4096, "word_embed_proj_dim": 512,
        "do_layer_norm_before": False,
    }),
    "opt-66b": ("OPT", {
        "hidden_size": 9216, "num_attention_heads": 72, "ffn_dim": 36864, "word_embed_proj_dim": 9216,
    }),
    "bloom-560m": ("Bloom", {"hidden_size": 1024, "n_head": 16}),
    "bloom": ("Bloom", {"hidden_size": 14336, "n_head": 112}),
    "mpt-7b": ("Mpt", {"d_model": 4096, "n_heads": 32, "vocab_size": 50432}),
    "mpt-30b": ("Mpt", {"d_model": 7168, "n_heads": 64, "max_seq_len": 8192, "vocab_size": 50432}),
    "falcon-7b": ("Falcon", {}),
    "falcon-40b": ("Falcon", {**NEW, "hidden_size": 8192, "num_attention_heads": 128, "num_kv_heads": 8}),
    "falcon-11b": ("Falcon", {
        **NEW, "hidden_size": 4096, "num_attention_heads": 32, "num_kv_heads": 8, "ffn_hidden_size": 16384,
        "num_ln_in_parallel_attn": 1, "tie_word_embeddings": False,
    }),
    "falcon-rw-1b": ("Falcon", {**RW, "hidden_size": 2048, "num_attention_heads": 32}),
    "gpt-j-6b": ("GPTJ", {}),
    "gpt-neox-20b": ("GPTNeoX", {}),
    "pythia-70m": ("GPTNeoX", {"hidden_size": 512, "num_attention_heads": 8, "intermediate_size": 2048}),
    "phi-1_5": ("Phi", {}),
    "phi-2": ("Phi", {
        "hidden_size": 2560, "intermediate_size": 10240, "rope_parameters": {**TURNED, "partial_rotary_factor": 0.4},
    }),
    "nemotron-4-15b": ("Nemotron", {"num_key_value_heads": 8}),
    "minitron-4b": ("Nemotron", {
        "hidden_size": 3072, "num_attention_heads": 24, "num_key_value_heads": 8, "intermediate_size": 9216,
    }),
    "stablelm-2-12b": ("StableLm", {
        "hidden_size": 5120, "intermediate_size": 13824, "num_attention_heads": 32, "num_key_value_heads": 8,
        "qk_layernorm": True, "use_parallel_residual": True, "vocab_size": 100352,
    }),
}   # fmt: skip
SAVED = {"GPTNeoX": ("lm_head.", "embed_out.")}   # what transformers calls otherwise when it saves


def sparse(folder: Path, kind: str, values: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Write a checkpoint that holds no numbers; the shapes of its tensors."""
    name = kind if kind.endswith("LMHead") else f"{kind}ForCausal"
    config = getattr(transformers, f"{kind.removesuffix('LMHead')}Config")(**values, num_hidden_layers=2)
    with torch.device("meta"):
        model = getattr(transformers, f"{name}{'Model' if name.endswith('Head') else 'LM'}")(config)
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set[str]()
    shapes = {key.replace(*SAVED.get(kind, ("", ""))): tuple(t.shape)
              for key, t in model.state_dict().items() if key not in tied}   # fmt: skip
    header, end = dict[str, Any](), 0
    for key, shape in shapes.items():
        start, end = end, end + 2 * torch.Size(shape).numel()
        header[key] = {"dtype": "F16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    config.architectures = [type(model).__name__]
    config.to_json_file(folder / "config.json", use_diff=False)
    return shapes


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_tensor_is_read(name: str, tmp_path: Path) -> None:
    shapes = sparse(tmp_path, *PUBLISHED[name])
    graph = read_model(tmp_path, max_batch_size=1, max_seq_len=16).graph
    read = {op.key: op.shape for op in graph.ops if isinstance(op, Weight)}
    assert read == shapes
