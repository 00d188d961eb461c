"""Text of engines of target cuda on this machine's GPU, beside that of transformers.

    python benchmarks/gpu/cuda_text.py [MODEL ...] [--dtypes float32,float16,bfloat16] [--work FOLDER] [--jobs 4]

A MODEL is a folder with a checkpoint, or the name of one of random_models.py; by default all of those. Each is compiled
in each type and continues prompts greedily: each alone, four at a time, without CUDA graphs, with the prompts in
chunks, with its caches in pages. In f32 all must be what transformers says on the CPU; in 16 bits, where tokens first
differ, what counts is how far apart the two tokens' logits are in transformers (f32 arithmetic over weights rounded
alike). Steps without graphs and caches in pages must give the same tokens as steps with them and caches in one piece.
Every model and type is a process of its own. PYTHONPATH may be a checkout: trtc need not be installed.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import random_models
from random_models import torch, transformers

import trtc

NEW, BATCH = 48, 4   # tokens that follow each prompt; prompts at a time
Tokens = list[list[int]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=list(random_models.MODELS))
    parser.add_argument("--dtypes", default="float32,float16,bfloat16")
    parser.add_argument("--work", type=Path, default=Path("/tmp/cuda_text"))
    parser.add_argument("--seconds", type=int, default=150, help="for one model in one type")
    parser.add_argument("--jobs", type=int, default=4, help="so many at a time")
    parser.add_argument("--here", action="store_true", help="in this process: one model, one type")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    if arguments.here:
        compare(arguments.models[0], arguments.dtypes, arguments.work)
        return
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for model in arguments.models:
            for dtype in arguments.dtypes.split(","):
                pool.submit(apart, model, dtype, arguments.work, arguments.seconds)


def apart(model: str, dtype: str, work: Path, seconds: int) -> None:
    """Compare in a process of its own, and print what it said."""
    command = [sys.executable, __file__, model, "--dtypes", dtype, "--work", str(work), "--here"]
    try:
        done = subprocess.run(
            command, timeout=seconds, check=False, text=True, capture_output=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},   # many beside each other
        )   # fmt: skip
        said = "FAILED" if done.returncode else "done"
        lines = done.stdout.splitlines() + (done.stderr.splitlines()[-15:] if done.returncode else [])
    except subprocess.TimeoutExpired as error:
        said, lines = f"FAILED: no end within {seconds} s", [str(error.stdout or "")]
    print("\n".join([*lines, f"== {Path(model).name} {dtype}: {said}"]), flush=True)


def compare(model: str, dtype: str, work: Path) -> None:
    """Build an engine, generate, and print what is equal."""
    folder = Path(model) if Path(model).is_dir() else random_models.make(model, work / dtype / model)
    reference = Reference(folder, dtype)
    prompts = reference.prompts()
    want = [reference.greedy(prompt) for prompt in prompts]
    out, said = work / f"{folder.name}-{dtype}", Said()
    paged, longest = work / f"{out.name}-paged", max(map(len, prompts)) + NEW
    build(folder, out, dtype, longest)
    build(folder, paged, dtype, longest, paged_kv_cache=True)
    start = time.perf_counter()
    engine = trtc.load(out)
    print(f"{out.name}: loaded in {time.perf_counter() - start:.2f} s", flush=True)
    tell = Teller(out.name, reference, prompts, exact=dtype == "float32")
    alone, together = generate(engine, prompts, 1), generate(engine, prompts, BATCH)
    tell("transformers", alone, want)
    tell("four at a time", together, want)
    tell("without CUDA graphs", generate(trtc.load(out, cuda_graphs=False), prompts, 1), alone, exact=True)
    tell("prompts in chunks of 3", generate(trtc.load(out, prefill_chunk=3), prompts, 1), want)
    pages = trtc.load(paged)
    tell("caches in pages", generate(pages, prompts, 1), alone, exact=True)
    tell("caches in pages, four at a time", generate(pages, prompts, BATCH), together, exact=True)
    print(f"{out.name}: {'; '.join(said.lines) or 'every decode step was a CUDA graph'}", flush=True)
    if tell.failed:
        raise SystemExit(f"{out.name}: FAILED: {', '.join(tell.failed)}")


class Said(logging.Handler):
    """What the runtime says of steps that it cannot record."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        logging.getLogger("trtc.gpu").addHandler(self)
        logging.getLogger("trtc.gpu").setLevel(logging.INFO)

    def emit(self, record: logging.LogRecord) -> None:
        if "without a CUDA graph" in record.getMessage():
            self.lines.append(record.getMessage())


class Reference:
    """transformers on the CPU: weights rounded to a type, arithmetic in f32."""

    def __init__(self, folder: Path, dtype: str) -> None:
        self._folder = folder
        self._model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        for weight in self._model.parameters():
            weight.data = weight.data.to(getattr(torch, dtype)).float()
        ends: Any = self._model.generation_config.eos_token_id
        self._ends = {int(end) for end in np.ravel(ends if ends is not None else -1)}

    def prompts(self) -> Tokens:
        """Those of the model's own file; else of random tokens."""
        file = self._folder / "GOLDEN.json"
        if file.exists():
            return [golden["input_ids"] for golden in json.loads(file.read_text(encoding="utf-8"))]
        generator = torch.Generator().manual_seed(1)
        sizes = [1, 7, 40, 90, 33]
        return [torch.randint(3, 1990, (size,), generator=generator).tolist() for size in sizes]

    def greedy(self, prompt: list[int]) -> list[int]:
        """What follows a prompt."""
        found, past, ids = list[int](), None, torch.tensor([prompt])
        while len(found) < NEW and not (found and found[-1] in self._ends):
            with torch.no_grad():
                out = self._model(ids, past_key_values=past, use_cache=True)
            past, best = out.past_key_values, int(out.logits[0, -1].argmax())
            found.append(best)
            ids = torch.tensor([[best]])
        return found

    def gap(self, ids: list[int], a: int, b: int) -> float:
        """How far apart the logits of two tokens are behind others."""
        with torch.no_grad():
            logits = self._model(torch.tensor([ids])).logits[0, -1]
        return abs(float(logits[a] - logits[b]))


def build(model: Path, out: Path, dtype: str, longest: int, **options: Any) -> None:
    start = time.perf_counter()
    limits: dict[str, Any] = {"max_batch_size": BATCH, "max_seq_len": longest, "max_input_len": longest - NEW}
    trtc.compile(model, out, target="cuda", dtype=dtype, **limits, **options)
    took, peak = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    size = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    print(f"{out.name}: built in {took:.1f} s, {size / 1e6:.1f} MB, peak host memory {peak:.2f} GB", flush=True)


def generate(engine: Any, prompts: Tokens, together: int) -> Tokens:
    """The tokens that follow each prompt, so many prompts at a time."""
    found: Tokens = []
    for first in range(0, len(prompts), together):
        completions = engine.generate(prompts[first : first + together], max_new_tokens=NEW)
        found += [completion.token_ids for completion in completions]
    return found


class Teller:
    """Prints whether tokens are others', and how far apart logits are where they first are not."""

    def __init__(self, name: str, reference: Reference, prompts: Tokens, *, exact: bool) -> None:
        self._name, self._reference, self._prompts, self._exact = name, reference, prompts, exact
        self.failed: list[str] = []

    def __call__(self, what: str, have: Tokens, want: Tokens, exact: bool = False) -> None:
        gaps = list[float]()
        for prompt, a, b in zip(self._prompts, have, want, strict=True):
            place = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
            if place is not None:
                gaps.append(self._reference.gap(prompt + b[:place], a[place], b[place]))
            elif len(a) != len(b):
                gaps.append(float("inf"))
        said = f", first differences of logits {', '.join(f'{gap:.4f}' for gap in gaps)} apart" if gaps else ""
        print(f"{self._name}: {what}: {len(want) - len(gaps)} of {len(want)} texts equal{said}", flush=True)
        if gaps and (exact or self._exact):
            self.failed.append(what)


if __name__ == "__main__":
    main()
