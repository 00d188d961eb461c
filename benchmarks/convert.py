"""Conversion of random checkpoints made on the spot: peak memory, and time beside `cp` and transformers.

    python benchmarks/convert.py [--layers 4 22 41] [--dtype bfloat16] [--workers 2] [--turns 3]

Everything ends on the disk (fsync). For 2 GB, peak memory (RSS, mapped pages included) is to stay under 1.5 x the
largest tensor x workers + 400 MB and under a fifth of transformers', and time under 1.5 x that of `cp`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

from compile import BYTES, timed, write_checkpoint

TRANSFORMERS = """
import os, sys, torch
from transformers import AutoModelForCausalLM
AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype="auto").save_pretrained(sys.argv[2], max_shard_size="100GB")
for name in os.listdir(sys.argv[2]):
    os.fsync(os.open(os.path.join(sys.argv[2], name), os.O_RDONLY))
"""


def commands(model: Path, out: Path, workers: int) -> dict[str, list[str]]:
    """What is compared, by the name that the table shows."""
    trtc = [sys.executable, "-m", "trtc", "convert", str(model), "-o", str(out)]
    convert = [*trtc, "--workers", str(workers), "--quiet"]
    return {
        "cp, sync": ["sh", "-c", 'cp -r "$0" "$1" && sync "$1"/*', str(model), str(out)],
        "transformers: load, save, sync": [sys.executable, "-c", TRANSFORMERS, str(model), str(out)],
        "trtc convert": convert,
        "trtc convert --tp-size 2 --pp-size 2": [*convert, "--tp-size", "2", "--pp-size", "2"],
        "trtc convert --dtype float16": [*convert, "--dtype", "float16"],
    }


def measure(folder: Path, layers: int, dtype: str, workers: int, turns: int) -> None:
    """Print the rows of one model: the best time and the greatest memory of so many turns."""
    model, out = folder / "model", folder / "out"
    model.mkdir()
    largest = write_checkpoint(model, layers, dtype)
    size = (model / "model.safetensors").stat().st_size
    os.sync()
    seconds, peaks = dict[str, float](), dict[str, int]()
    for _ in range(turns):
        for name, command in commands(model, out, workers).items():
            took, peak = timed(command)
            seconds[name], peaks[name] = min(took, seconds.get(name, took)), max(peak, peaks.get(name, 0))
            shutil.rmtree(out)
    shutil.rmtree(model)
    copied, theirs = seconds["cp, sync"], peaks["transformers: load, save, sync"]
    limit = 1.5 * largest * workers + 400e6
    for name, took in seconds.items():
        peak = f"{peaks[name] / 1e6:.0f} | {theirs / peaks[name]:.1f}" if "cp" not in name else " | "
        print(f"| {size / 1e9:.2f} | {name} | {took:.2f} | {took / copied:.2f} | {peak} |", flush=True)
    print(f"| | allowed | {1.5 * copied:.2f} | 1.50 | {limit / 1e6:.0f} | 5.0 |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, nargs="+", default=[4, 22, 41])
    parser.add_argument("--dtype", choices=BYTES, default="bfloat16")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to work (a temporary folder of its own by default)")
    options = parser.parse_args()
    print("| GB | command | s | x cp | peak RSS MB | transformers' is x |\n|---:|---|---:|---:|---:|---:|")
    for layers in options.layers:
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            measure(Path(name), layers, options.dtype, options.workers, options.turns)


if __name__ == "__main__":
    main()
