"""A LLaMA of random weights, as a checkpoint; and its speed in transformers, eager and compiled.

    python benchmarks/gpu/random_llama.py make FOLDER [--shape small] [--layers 16] [--dtype float16]
    python benchmarks/gpu/random_llama.py time FOLDER [--tokens 980] [--batch 1] [--dtype float16]

Runs where torch and transformers are. 16 layers of the shape small have 1.1 billion parameters, as have 4 of the shape
wide, which are those of LLaMA 3.1 8B; the shape 8b is that model's.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from random_models import torch, transformers

SHAPES: dict[str, dict[str, Any]] = {
    "small": {
        "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
        "num_key_value_heads": 8, "vocab_size": 32000, "max_position_embeddings": 8192,
    },
    "wide": {
        "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 4, "num_attention_heads": 32,
        "num_key_value_heads": 8, "vocab_size": 32000, "max_position_embeddings": 8192,
    },
    "8b": {
        "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 131072, "rope_parameters": {
            "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
        },
    },
}   # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("make", "time"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shape", choices=list(SHAPES), default="small")
    parser.add_argument("--layers", type=int, default=0)
    parser.add_argument("--tokens", type=int, default=980)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--dtype", default="float16")
    arguments = parser.parse_args()
    dtype = getattr(torch, arguments.dtype)
    if arguments.what == "make":
        make(arguments.folder, arguments.shape, arguments.layers, dtype)
    else:
        measure(arguments.folder, arguments.batch, arguments.tokens, dtype)


def make(folder: Path, shape: str, layers: int, dtype: Any) -> None:
    values = {**SHAPES[shape], **({"num_hidden_layers": layers} if layers else {})}
    config = transformers.LlamaConfig(**values, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2, dtype=dtype)
    torch.manual_seed(0)
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    with torch.device("cuda"):
        model = transformers.LlamaForCausalLM(config)
    torch.set_default_dtype(default)
    model.save_pretrained(folder)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e9:.2f} billion parameters in {folder}", flush=True)


def measure(folder: Path, batch: int, tokens: int, dtype: Any) -> None:
    kind = transformers.LlamaForCausalLM
    model: Any = kind.from_pretrained(folder, dtype=dtype, device_map="cuda")
    print(f"torch {torch.__version__} on {torch.cuda.get_device_name()}, batch {batch}", flush=True)
    ids = torch.randint(3, 30000, (batch, tokens), device="cuda")
    with torch.inference_mode():
        prefill = timed(lambda: model(ids, use_cache=True, logits_to_keep=1), 5)
        print(f"transformers, eager: prefill of {batch} x {tokens} tokens {prefill:.2f} ms", flush=True)
        print(f"transformers, eager: decode {decode(model, model, ids):.3f} ms", flush=True)
        start = time.perf_counter()
        step = torch.compile(model, mode="reduce-overhead", fullgraph=True)
        took = decode(model, step, ids)
        print(f"transformers, torch.compile: decode {took:.3f} ms ({time.perf_counter() - start:.0f} s to compile)",
              flush=True)   # fmt: skip


def decode(model: Any, step: Any, ids: Any) -> float:
    """Milliseconds of a greedy decode step behind these tokens, over a static cache of 1,152."""
    cache = transformers.StaticCache(config=model.config, max_cache_len=1152)
    out = model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
    token = out.logits[:, -1:].argmax(-1)
    place = torch.full((len(ids), 1), ids.shape[1], device="cuda")

    def once() -> None:
        logits = step(token, past_key_values=cache, use_cache=True, position_ids=place).logits
        token.copy_(logits[:, -1:].argmax(-1))
        place.add_(1)

    return timed(once, 20)


def timed(work: Callable[[], object], repeats: int) -> float:
    """Milliseconds of one of many runs: the median, by events."""
    for _ in range(5):
        work()
    found: list[float] = []
    for _ in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        end.synchronize()
        found.append(begin.elapsed_time(end))
    return statistics.median(found)


if __name__ == "__main__":
    main()
