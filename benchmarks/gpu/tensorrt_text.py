"""Text of TensorRT engines on this machine's GPU, beside that of transformers.

    python benchmarks/gpu/tensorrt_text.py MODEL_DIR [--work FOLDER]

MODEL_DIR holds a checkpoint and GOLDEN.json: prompts, and what transformers continues them with greedily in f32.
An engine is built in f16 and generates: each prompt alone, four at a time, without CUDA graphs, with the prompt in
chunks; and so does a version-compatible engine, by the full and by the lean runtime. Where tokens differ, the place is
written to FOLDER/NAME.differ.json, for text_gaps.py to explain by transformers' own logits.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import trtc
from trtc.backend.tensorrt.options import Options

Tokens = list[list[int]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--work", type=Path, default=Path("/tmp/tensorrt_text"))
    parser.add_argument("--lean", type=Path, help="print the tokens of this engine by the lean runtime")
    arguments = parser.parse_args()
    golden = json.loads((arguments.model / "GOLDEN.json").read_text(encoding="utf-8"))
    if arguments.lean:
        sys.modules["tensorrt"] = None   # type: ignore[assignment]
        print(json.dumps(generate(trtc.load(arguments.lean), golden)))
        return
    arguments.work.mkdir(parents=True, exist_ok=True)
    compare(arguments.model, arguments.work, golden)


def compare(model: Path, work: Path, golden: list[dict[str, Any]]) -> None:
    """Build engines, generate, and print what is equal."""
    longest = max(len(g["input_ids"]) + len(g["greedy_new_ids"]) for g in golden)
    plain, compatible = work / model.name, work / f"{model.name}-compatible"
    build(model, plain, longest, Options())
    engine = trtc.load(plain)
    alone = generate(engine, golden)
    differ = Differences(model.name, golden)
    differ.tell("transformers in f32", alone, [g["greedy_new_ids"] for g in golden])
    differ.tell("four at a time", generate(engine, golden, together=4), alone)
    differ.tell("without CUDA graphs", generate(trtc.load(plain, cuda_graphs=False), golden), alone)
    differ.tell("prompts in chunks of 3", generate(trtc.load(plain, prefill_chunk=3), golden), alone)
    build(model, compatible, longest, Options(version_compatible=True))
    differ.tell("version-compatible", generate(trtc.load(compatible), golden), alone)
    command = [sys.executable, __file__, str(model), "--lean", str(compatible)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{model.name}: the lean runtime fails: {done.stderr.strip()[-600:]}", flush=True)
    else:
        differ.tell("lean runtime alone", json.loads(done.stdout.splitlines()[-1]), alone)
    (work / f"{model.name}.differ.json").write_text(json.dumps(differ.found))


def build(model: Path, out: Path, longest: int, options: Options) -> None:
    start = time.perf_counter()
    limits: dict[str, Any] = {"max_batch_size": 4, "max_seq_len": longest}
    trtc.compile(model, out, target="tensorrt", dtype="float16", tensorrt=options, **limits)
    size = (out / "rank0/model.plan").stat().st_size
    print(f"{model.name}: {out.name} built in {time.perf_counter() - start:.1f} s, {size / 1e6:.1f} MB", flush=True)


def generate(engine: Any, golden: list[dict[str, Any]], together: int = 1) -> Tokens:
    """The tokens that follow each prompt, so many prompts at a time."""
    found: Tokens = []
    for first in range(0, len(golden), together):
        some = golden[first : first + together]
        most = max(len(g["greedy_new_ids"]) for g in some)
        completions = engine.generate([g["input_ids"] for g in some], max_new_tokens=most)
        pairs = zip(completions, some, strict=True)
        found += [c.token_ids[: len(g["greedy_new_ids"])] for c, g in pairs]
    return found


class Differences:
    """Where tokens differ from others; each is printed."""

    def __init__(self, name: str, golden: list[dict[str, Any]]) -> None:
        self.name, self.golden, self.found = name, golden, list[dict[str, Any]]()

    def tell(self, what: str, have: Tokens, want: Tokens) -> None:
        """Compare the tokens that follow each prompt."""
        equal = tokens = 0
        for golden, a, b in zip(self.golden, have, want, strict=True):
            place = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
            equal, tokens = equal + (place is None), tokens + len(b)
            if place is not None:
                ids = golden["input_ids"] + b[:place]
                self.found.append({"what": what, "place": place, "ids": ids, "have": a[place], "want": b[place]})
        print(f"{self.name}: {what}: {equal} of {len(want)} texts equal, {tokens} tokens", flush=True)


if __name__ == "__main__":
    main()
