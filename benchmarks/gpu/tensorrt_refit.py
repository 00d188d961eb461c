"""Weights of another checkpoint in a built TensorRT engine, on this machine's GPU.

    python benchmarks/gpu/tensorrt_refit.py MODEL_DIR [--work FOLDER] [--target TARGET]

Another checkpoint is made of MODEL_DIR's, with each weight off by up to a tenth. Engines are built: of the other
checkpoint as usual, and of MODEL_DIR with ``--weightless``, which `trtc refit` then gives the other's weights. Its
greedy text is compared with the plainly built one's.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

files: Any = import_module("safetensors.numpy")

NEW_TOKENS = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--work", type=Path, default=Path("/tmp/tensorrt_refit"))
    parser.add_argument("--target", default="tensorrt")
    arguments = parser.parse_args()
    model, work = arguments.model, arguments.work
    work.mkdir(parents=True, exist_ok=True)
    other = changed(model, work / "other")
    common = ("--target", arguments.target, "--dtype", "float16", "--max-batch-size", "1", "--max-seq-len", "128")
    plans = {"plain": (other,), "weightless": (model, "--weightless")}
    with ThreadPoolExecutor(2) as pool:
        made = [pool.submit(trtc, "compile", *of, *common, "-o", work / name) for name, of in plans.items()]
        for name, future in zip(plans, made, strict=True):
            print(f"{name}: {future.result()}", flush=True)
    before = {name: text(work / name, model) for name in plans}
    done = trtc("refit", work / "weightless", other, "-o", work / "refitted")
    print(f"trtc refit: {done}", flush=True)
    tell("refitted", text(work / "refitted", model), before["plain"])
    tell("as built", before["weightless"], before["plain"])


def changed(model: Path, out: Path) -> Path:
    """A checkpoint of the same shape, each weight off by up to a tenth."""
    shutil.copytree(model, out, dirs_exist_ok=True)
    random: Any = np.random.default_rng(0)
    tensors: dict[str, Any] = files.load_file(out / "model.safetensors")
    for name, array in tensors.items():
        tensors[name] = (array * random.uniform(0.9, 1.1, array.shape)).astype(array.dtype)
    files.save_file(tensors, out / "model.safetensors", {"format": "pt"})
    return out


def text(engine: Path, model: Path) -> list[list[int]]:
    """What follows each prompt of GOLDEN.json, by ``trtc run``."""
    golden = json.loads((model / "GOLDEN.json").read_text(encoding="utf-8"))
    prompts = [part for g in golden for part in ("--prompt-ids", ",".join(map(str, g["input_ids"])))]
    file = engine.with_suffix(".json")
    trtc("run", engine, *prompts, "--max-new-tokens", NEW_TOKENS, "--output-json", file)
    return [one["token_ids"] for one in json.loads(file.read_text(encoding="utf-8"))]


def tell(what: str, have: list[list[int]], want: list[list[int]]) -> None:
    """Print how many texts are equal, and how much of each."""
    alike = [next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), len(b))
             for a, b in zip(have, want, strict=True)]   # fmt: skip
    equal = sum(a == b for a, b in zip(have, want, strict=True))
    print(f"{what}: {equal} of {len(want)} texts equal those of the other checkpoint's own engine; "
          f"equal tokens of each: {alike}", flush=True)   # fmt: skip


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
