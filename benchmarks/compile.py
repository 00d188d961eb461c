"""Compile of a 1.1B-parameter random checkpoint made on the spot: peak memory, and time beside `cp -r`.

    python benchmarks/compile.py [--layers 22] [--dtype bfloat16] [--threads 2] [--target onnx]

Peak memory (RSS, mapped pages included) is to stay under 1.5 x the largest tensor x threads + 400 MB.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

HIDDEN, INNER, HEADS, KV_HEADS, VOCAB = 2048, 5632, 32, 4, 32000   # TinyLlama 1.1B
BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
CODES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def tensors(layers: int) -> dict[str, tuple[int, ...]]:
    """The names and shapes of a LLaMA checkpoint."""
    kv = KV_HEADS * HIDDEN // HEADS
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCAB, HIDDEN)}
    shapes["lm_head.weight"] = (VOCAB, HIDDEN)
    for n in range(layers):
        stem = f"model.layers.{n}"
        for part, rows in zip("qkvo", (HIDDEN, kv, kv, HIDDEN), strict=True):
            shapes[f"{stem}.self_attn.{part}_proj.weight"] = (rows, HIDDEN)
        shapes |= {f"{stem}.mlp.{p}_proj.weight": (INNER, HIDDEN) for p in ("gate", "up")}
        shapes |= {f"{stem}.mlp.down_proj.weight": (HIDDEN, INNER)}
        shapes |= {f"{stem}.{p}_layernorm.weight": (HIDDEN,) for p in ("input", "post_attention")}
    return shapes | {"model.norm.weight": (HIDDEN,)}


def write_checkpoint(folder: Path, layers: int, dtype: str) -> int:
    """Write the checkpoint in one file; the bytes of its largest tensor."""
    shapes, header, end = tensors(layers), dict[str, object](), 0
    for name, shape in shapes.items():
        size = int(np.prod(shape)) * BYTES[dtype]
        header[name] = {"dtype": CODES[dtype], "shape": shape, "data_offsets": (end, end + size)}
        end += size
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "vocab_size": VOCAB,
        "intermediate_size": INNER, "num_hidden_layers": layers, "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "dtype": dtype,
    }   # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)   # as safetensors does it: tensors lie aligned
    block = np.random.default_rng(0).standard_normal(1 << 22).astype(np.float32)
    halved = (block.view(np.uint32) >> 16).astype(np.uint16)   # bf16 is the upper half of f32
    noise = (halved if dtype == "bfloat16" else block.astype(dtype)).tobytes()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for start in range(0, end, len(noise)):
            file.write(noise[: end - start])
    return max(int(np.prod(s)) for s in shapes.values()) * BYTES[dtype]


def timed(command: list[str]) -> tuple[float, int]:
    """Seconds and peak RSS in bytes of a command."""
    start = time.perf_counter()
    with subprocess.Popen(command) as process:
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command} failed")
    return time.perf_counter() - start, usage.ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument("--dtype", choices=BYTES, default="bfloat16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--target", default="onnx")
    parser.add_argument("--folder", type=Path, help="where to work (a temporary folder of its own by default)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        model, copy, engine = (Path(name) / part for part in ("model", "copy", "engine"))
        model.mkdir()
        largest = write_checkpoint(model, options.layers, options.dtype)
        size = (model / "model.safetensors").stat().st_size
        limit = 1.5 * largest * options.threads + 400e6
        os.sync()
        rows: list[tuple[str, float, int]] = []
        for turn in range(3):
            rows.append((f"cp -r ({turn})", *timed(["cp", "-r", str(model), str(copy)])))
            shutil.rmtree(copy)
            command = [sys.executable, "-m", "trtc", "compile", str(model), "-o", str(engine), "--quiet"]
            flags = ["--target", options.target, "--threads", str(options.threads)]
            rows.append((f"trtc compile ({turn})", *timed([*command, *flags])))
            shutil.rmtree(engine)
    copied, compiled = (min(r[1] for r in rows if r[0].startswith(kind)) for kind in ("cp", "trtc"))
    peak = max(r[2] for r in rows if r[0].startswith("trtc"))
    print(f"{options.dtype}, {size / 1e9:.2f} GB, largest tensor {largest / 1e6:.0f} MB, {options.threads} threads\n")
    print("| command | s | peak RSS MB |\n|---|---:|---:|")
    for command, seconds, rss in rows:
        print(f"| {command} | {seconds:.2f} | {rss / 1e6:.0f} |")
    print(f"\npeak RSS {peak / 1e6:.0f} MB of {limit / 1e6:.0f} MB allowed")
    print(f"{compiled / copied:.2f} x the time of cp -r (best of 3)")


if __name__ == "__main__":
    main()
