"""Conversion of random checkpoints made on the spot: peak memory, and time beside `cp` and transformers.

    python benchmarks/convert.py [--layers 4 22 41] [--dtype bfloat16] [--workers 2] [--rounds 5]

In each round the commands take turns, and everything ends on the disk (fsync). What is asked of the same element type,
and printed with yes or no: time under 1.5 x that of `cp` and no longer than transformers', peak memory (RSS, mapped
pages included) under 1.5 x the largest tensor x workers + 400 MB and a fifth of transformers', and the same for a
larger model.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from compile import BYTES, timed, write_checkpoint

COPY, THEIRS, CAST = "cp, sync", "transformers: load, save, sync", "trtc convert --dtype float16"
TRANSFORMERS = """
import os, sys, torch
from transformers import AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar
disable_progress_bar()
AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype="auto").save_pretrained(sys.argv[2], max_shard_size="100GB")
for name in os.listdir(sys.argv[2]):
    os.fsync(os.open(os.path.join(sys.argv[2], name), os.O_RDONLY))
"""


def commands(model: Path, out: Path, workers: int) -> dict[str, list[str]]:
    """What is compared, by the name that the table shows."""
    trtc = [sys.executable, "-m", "trtc", "convert", str(model), "-o", str(out)]
    convert = [*trtc, "--workers", str(workers), "--quiet"]
    return {
        COPY: ["sh", "-c", 'cp -r "$0" "$1" && sync "$1"/*', str(model), str(out)],
        THEIRS: [sys.executable, "-c", TRANSFORMERS, str(model), str(out)],
        "trtc convert": convert,
        "trtc convert --tp-size 2 --pp-size 2": [*convert, "--tp-size", "2", "--pp-size", "2"],
        CAST: [*convert, "--dtype", "float16"],
    }


@dataclass
class Row:
    """One command over one model: seconds of each round, and the greatest peak memory in bytes."""

    seconds: list[float] = field(default_factory=list[float])
    peak: int = 0

    def add(self, seconds: float, peak: int) -> None:
        self.seconds.append(seconds)
        self.peak = max(peak, self.peak)


@dataclass(frozen=True)
class Model:
    """What was measured of one model.

    Args:
        size: bytes.
        limit: of peak memory, in bytes.
    """

    size: int
    limit: float
    rows: dict[str, Row]

    def show(self) -> None:
        copy, theirs = self.rows[COPY].seconds, self.rows[THEIRS].peak
        for name, row in self.rows.items():
            best = min(row.seconds) / min(copy)
            middle = median(a / b for a, b in zip(row.seconds, copy, strict=True))
            times = f"{min(row.seconds):.2f} | {best:.2f} | {middle:.2f}"
            peak = " | " if name == COPY else f"{row.peak / 1e6:.0f} | {theirs / row.peak:.1f}"
            print(f"| {self.size / 1e9:.2f} | {name} | {times} | {peak} |", flush=True)

    def judge(self, smaller: Model) -> None:
        """Print each demand with what was measured."""
        copy, theirs = min(self.rows[COPY].seconds), self.rows[THEIRS]
        for name, row in self.rows.items():
            if name in (COPY, THEIRS, CAST):
                continue
            best, growth = min(row.seconds), row.peak / smaller.rows[name].peak
            demands = {
                f"{best / copy:.2f} x cp's time of 1.50": best <= 1.5 * copy,
                f"{best / min(theirs.seconds):.2f} x transformers' time of 1.00": best <= min(theirs.seconds),
                f"{row.peak / 1e6:.0f} MB of {self.limit / 1e6:.0f}": row.peak <= self.limit,
                f"{theirs.peak / row.peak:.1f} x less than transformers of 5.0": theirs.peak >= 5 * row.peak,
                f"{growth:.2f} x the memory of {smaller.size / 1e9:.1f} GB of 1.10": growth <= 1.1,
            }
            said = "; ".join(f"{demand}: {'yes' if holds else 'NO'}" for demand, holds in demands.items())
            verdict = "holds" if all(demands.values()) else "DOES NOT HOLD"
            print(f"verdict: {name}, {self.size / 1e9:.2f} GB: {verdict} ({said})", flush=True)


def measure(folder: Path, layers: int, dtype: str, workers: int, rounds: int) -> Model:
    """So many rounds over one model."""
    model, out = folder / "model", folder / "out"
    model.mkdir()
    largest = write_checkpoint(model, layers, dtype)
    rows = {name: Row() for name in commands(model, out, workers)}
    for _ in range(rounds):
        for name, command in commands(model, out, workers).items():
            os.sync()   # what went before is no burden of this one
            rows[name].add(*timed(command))
            shutil.rmtree(out)
    return Model((model / "model.safetensors").stat().st_size, 1.5 * largest * workers + 400e6, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, nargs="+", default=[4, 22, 41])
    parser.add_argument("--dtype", choices=BYTES, default="bfloat16")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to work (a temporary folder of its own by default)")
    options = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)   # modules are compiled once, as where they are installed
    print("| GB | command | best s | x cp | x cp, median of rounds | peak RSS MB | transformers' is x |")
    print("|---:|---|---:|---:|---:|---:|---:|", flush=True)
    models = list[Model]()
    for layers in options.layers:
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            models.append(measure(Path(name), layers, options.dtype, options.workers, options.rounds))
            models[-1].show()
    for model in models[1:] or models:
        model.judge(models[0])


if __name__ == "__main__":
    main()
