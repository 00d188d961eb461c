"""Weights of another checkpoint in a built TensorRT engine, on this machine's GPU.

    python benchmarks/gpu/tensorrt_refit.py make MODEL_DIR OTHER_DIR
    python benchmarks/gpu/tensorrt_refit.py run MODEL_DIR OTHER_DIR [--work FOLDER] [--target TARGET]

``make`` runs where torch and transformers are, and writes another checkpoint of the same shape: each weight off by up
to a half; and its GOLDEN.json: what transformers continues MODEL_DIR's prompts with in f32, as far as the best two
logits are apart by more than f16 is off. ``run`` builds an engine of MODEL_DIR with ``--weightless``, gives it the
other's weights by `trtc refit`, and compares its greedy text with transformers' before and after.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

files: Any = import_module("safetensors.numpy")

NEW_TOKENS = 48
CHANGE, APART = 0.5, 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("make", "run"))
    parser.add_argument("model", type=Path)
    parser.add_argument("other", type=Path)
    parser.add_argument("--work", type=Path, default=Path("/tmp/tensorrt_refit"))
    parser.add_argument("--target", default="tensorrt")
    asked = parser.parse_args()
    if asked.what == "make":
        make(asked.model, asked.other)
    else:
        run(asked.model, asked.other, asked.work, asked.target)


def make(model: Path, other: Path) -> None:
    """Write the other checkpoint, with its GOLDEN.json."""
    shutil.copytree(model, other, dirs_exist_ok=True)
    random: Any = np.random.default_rng(0)
    tensors: dict[str, Any] = files.load_file(other / "model.safetensors")
    for name, array in tensors.items():
        tensors[name] = (array * random.uniform(1 - CHANGE, 1 + CHANGE, array.shape)).astype(array.dtype)
    files.save_file(tensors, other / "model.safetensors", {"format": "pt"})
    golden = [{"input_ids": ids, "greedy_new_ids": greedy(other, ids)} for ids in prompts(model)]
    (other / "GOLDEN.json").write_text(json.dumps(golden), encoding="utf-8")
    print(f"{other}: texts of {', '.join(str(len(g['greedy_new_ids'])) for g in golden)} tokens", flush=True)


def greedy(folder: Path, ids: list[int]) -> list[int]:
    """What transformers continues a prompt with, up to where two logits nearly tie."""
    torch, transformers = (import_module(name) for name in ("torch", "transformers"))   # which ``run`` does without
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    found: list[int] = []
    while len(found) < NEW_TOKENS:
        with torch.no_grad():
            best = model(torch.tensor([ids + found])).logits[0, -1].topk(2)
        if best.values[0] - best.values[1] < APART:
            break
        found.append(int(best.indices[0]))
    return found


def run(model: Path, other: Path, work: Path, target: str) -> None:
    """Build, exchange the weights, and print what is equal."""
    work.mkdir(parents=True, exist_ok=True)
    common = ("--target", target, "--dtype", "float16", "--max-batch-size", "1", "--max-seq-len", "256")
    print(f"trtc compile: {trtc('compile', model, '--weightless', *common, '-o', work / 'built')}", flush=True)
    print(f"trtc refit: {trtc('refit', work / 'built', other, '-o', work / 'refitted')}", flush=True)
    for engine, of in (("built", model), ("refitted", other), ("refitted", model)):
        tell(f"{engine}, beside transformers of {of.name}", text(work / engine, prompts(of)), texts(of))


def prompts(model: Path) -> list[list[int]]:
    return [one["input_ids"] for one in json.loads((model / "GOLDEN.json").read_text(encoding="utf-8"))]


def texts(model: Path) -> list[list[int]]:
    """What transformers continues the prompts with."""
    return [one["greedy_new_ids"] for one in json.loads((model / "GOLDEN.json").read_text(encoding="utf-8"))]


def text(engine: Path, asked: list[list[int]]) -> list[list[int]]:
    """What follows each prompt, by ``trtc run``."""
    given = [part for ids in asked for part in ("--prompt-ids", ",".join(map(str, ids)))]
    file = engine.with_suffix(".json")
    trtc("run", engine, *given, "--max-new-tokens", NEW_TOKENS, "--output-json", file)
    return [one["token_ids"] for one in json.loads(file.read_text(encoding="utf-8"))]


def tell(what: str, have: list[list[int]], want: list[list[int]]) -> None:
    """Print how many texts are equal as far as both go, and how many tokens of each."""
    pairs = [list(zip(a, b, strict=False)) for a, b in zip(have, want, strict=True)]
    alike = [next((i for i, (x, y) in enumerate(pair) if x != y), len(pair)) for pair in pairs]
    equal = sum(n == len(pair) for n, pair in zip(alike, pairs, strict=True))
    print(f"{what}: {equal} of {len(want)} texts equal; equal tokens of each: {alike}", flush=True)


def trtc(*arguments: Any) -> str:
    """The last line that a command says, and its seconds."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "trtc", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = done.stderr.strip().splitlines() or ["nothing"]
    if done.returncode:
        raise SystemExit(f"trtc {arguments[0]}: exit {done.returncode}: {done.stderr.strip()}")
    return f"{said[-1]} ({time.perf_counter() - start:.1f} s in all)"


if __name__ == "__main__":
    main()
