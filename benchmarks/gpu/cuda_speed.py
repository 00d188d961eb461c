"""Speed of an engine of target cuda on this machine's GPU: LLaMA 3.1 8B's shape with random weights, in bf16.

    python benchmarks/gpu/cuda_speed.py all [--work FOLDER] [--layers 32] [--transformers 1 8 64]
    python benchmarks/gpu/cuda_speed.py build|check|load|run|profile|bandwidth [--work FOLDER]

``all`` makes the checkpoint, measures how fast the GPU copies and multiplies, builds the engine, compares its tokens
with transformers', loads it, times prefill and decode, says where the time of each goes, times transformers with
torch.compile, steps with weights of 8 and 4 bits, and each kernel, and prints a table. Each part is a process of its
own, which is ended after some minutes, so that none takes the others with it. Decode is timed by the GPU's events over
a run of steps, and by the host's clock. PYTHONPATH may be a checkout: trtc need not be installed.
"""

from __future__ import annotations

import argparse
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Timer
from typing import Any

import numpy as np
from cuda_table import table

HERE = Path(__file__).parent
STEPS, WARM = 30, 5
DECODES = ((1, 1024, 1152), (1, 1024, 8192), (8, 1024, 1152), (8, 1024, 8192), (64, 1024, 1152), (1, 8000, 8192))
"""Batch, tokens in the cache, capacity."""
PREFILLS = ((1, 1024), (8, 1024), (1, 128))
ENDS = (("steps", ("step.py",), 90), ("kernels", ("kernels.py", "time"), 120))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("all", *PARTS))
    parser.add_argument("--work", type=Path, default=Path("/tmp/cuda_speed"))
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--transformers", type=int, nargs="*", default=[1, 8, 64], help="batch sizes")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    if arguments.what == "all":
        everything(arguments.work, arguments.layers, arguments.transformers)
    else:
        PARTS[arguments.what](arguments.work)


def everything(work: Path, layers: int, batches: list[int]) -> None:
    """Run all parts; what fails or takes too long is said."""
    here, llama = [sys.executable, __file__], [sys.executable, str(HERE / "random_llama.py")]
    shape = ["--shape", "8b", "--layers", str(layers), "--dtype", "bfloat16"]
    theirs = [(f"transformers {b}", [*llama, "time", str(work / "model"), "--tokens", "1024", "--batch", str(b),
                                     "--dtype", "bfloat16"], 180) for b in batches]   # fmt: skip
    parts = [("checkpoint", [*llama, "make", str(work / "model"), *shape], 180)]
    seconds = {"bandwidth": 60, "build": 300, "check": 120, "load": 120, "run": 180, "profile": 90}
    parts += [(name, [*here, name, "--work", str(work)], most) for name, most in seconds.items()]
    ends = [(name, [sys.executable, str(HERE / command[0]), *command[1:]], most) for name, command, most in ENDS]
    said = "".join(part(*each) for each in [*parts, *theirs, *ends])
    print(table(said, layers), flush=True)


def part(name: str, command: list[str], most: float) -> str:
    """Run a command for so many seconds at most, and print and give what it prints."""
    start, lines = time.perf_counter(), list[str]()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        ended = Timer(most, process.kill)
        ended.start()
        for line in process.stdout or ():
            lines.append(line)
            print(line, end="", flush=True)
        ended.cancel()
    said = f"FAILED with {process.returncode}" if process.returncode else "done"
    print(f"== {name}: {said}, {time.perf_counter() - start:.0f} s of {most:.0f}", flush=True)
    return "".join(lines)


def bandwidth(work: Path) -> None:
    from device import copy_bandwidth, product_rate

    print(f"copies move {copy_bandwidth() / 1e12:.2f} TB/s, read and written", flush=True)
    print(f"a product of 8192 x 8192 x 8192 in bf16 makes {product_rate() / 1e12:.0f} TFLOP/s", flush=True)


def build(work: Path) -> None:
    import trtc

    start = time.perf_counter()
    trtc.compile(
        work / "model", work / "engine", target="cuda", dtype="bfloat16", max_batch_size=64, max_input_len=8192,
        max_seq_len=8192,
    )   # fmt: skip
    took, peak = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    size = sum(f.stat().st_size for f in (work / "engine").rglob("*") if f.is_file()) / 1e9
    print(f"built in {took:.1f} s, peak host memory {peak:.2f} GB, engine {size:.2f} GB", flush=True)


def load(work: Path) -> None:
    """Print how fast weights get to the GPU, and how long an engine takes to load without and with its hashes."""
    import trtc
    from trtc.runtime.cuda import weights

    upload: Callable[..., None] = weights.upload

    def timed(*arguments: Any) -> None:
        start = time.perf_counter()
        upload(*arguments)
        took, size = time.perf_counter() - start, (work / "engine/rank0/weights.safetensors").stat().st_size
        print(f"weights: {size / 1e9:.2f} GB in {took:.2f} s, {size / took / 1e9:.1f} GB/s", flush=True)

    weights.upload = timed
    for verify in (False, False, True):
        start = time.perf_counter()
        engine = trtc.load(work / "engine", verify=verify)
        print(f"loaded in {time.perf_counter() - start:.2f} s, verify={verify}", flush=True)
        del engine


def run(work: Path) -> None:
    session, bundle = opened(work)
    for batch, tokens in PREFILLS:
        prefill(session, bundle, batch, tokens)
    for batch, tokens, capacity in DECODES:
        if tokens + STEPS + WARM < bundle.limits.max_seq_len:
            decode(session, bundle, batch, tokens, capacity)


def check(work: Path) -> None:
    """Continue ragged prompts greedily; print which tokens transformers would have said, here and in bf16."""
    import trtc

    random, new = np.random.default_rng(1), 32
    prompts = [random.integers(3, 30000, size).tolist() for size in (1, 60, 500, 1024)]
    engine = trtc.load(work / "engine", verify=False)
    texts = [completion.token_ids for completion in engine.generate(prompts, max_new_tokens=new)]
    del engine
    gaps, count = list[float](), 0
    for prompt, text, logits in zip(prompts, texts, their_logits(work / "model", prompts, texts), strict=True):
        said = logits[len(prompt) - 1 : -1]
        below = said.max(-1).values - said[range(len(text)), text]
        gaps += [float(gap) for gap in below if gap > 0]
        count += len(text)
    said = ", ".join(f"{gap:.4f}" for gap in sorted(gaps)) or "-"
    print(f"{count - len(gaps)} of {count} tokens are those of transformers in bf16; the logits of others are "
          f"{said} below the greatest there", flush=True)   # fmt: skip


def their_logits(folder: Path, prompts: list[list[int]], texts: list[list[int]]) -> Iterator[Any]:
    """transformers' logits of each token of each prompt and its text: f32 of [tokens, vocabulary]."""
    from random_models import torch, transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, device_map="cuda")
    for prompt, text in zip(prompts, texts, strict=True):
        with torch.inference_mode():
            yield model(torch.tensor([prompt + text], device="cuda")).logits[0].float()


def opened(work: Path) -> tuple[Any, Any]:
    from trtc.runtime.bundle import EngineBundle
    from trtc.runtime.options import SessionOptions
    from trtc.runtime.session import open_session

    bundle = EngineBundle.open(work / "engine", verify=False)
    session: Any = open_session(bundle, SessionOptions())
    print(f"on {session.device}", flush=True)
    return session, bundle


def prompt(bundle: Any, batch: int, tokens: int) -> tuple[Any, Any]:
    ids = np.random.default_rng(0).integers(3, bundle.vocab_size, (batch, tokens)).astype(np.int32)
    return ids, np.full(batch, tokens, np.int32)


def prefill(session: Any, bundle: Any, batch: int, tokens: int) -> None:
    """Print the time of a prefill."""
    from trtc.runtime.gpu.stream import Event

    (ids, lengths), found, hosts = prompt(bundle, batch, tokens), list[float](), list[float]()
    session.start(batch, min(tokens + 64, bundle.limits.max_seq_len))
    for _ in range(5):
        begin, end = Event(session.device), Event(session.device)
        session.stream.synchronize()
        start = time.perf_counter()
        begin.record(session.stream)
        outcome = session.prefill(ids, lengths)
        hosts.append((time.perf_counter() - start) * 1e3)
        end.record(session.stream)
        outcome.best(0)
        end.synchronize()
        found.append(end.milliseconds_since(begin))
    print(f"prefill of {batch} x {tokens} tokens: {statistics.median(found):.2f} ms (first {found[0]:.2f}); "
          f"the host is busy for {statistics.median(hosts):.2f} ms of it", flush=True)   # fmt: skip


def decode(session: Any, bundle: Any, batch: int, tokens: int, capacity: int) -> None:
    """Print the time of a decode step behind so many tokens of each sequence."""
    from trtc.runtime.gpu.stream import Event

    ids, lengths = prompt(bundle, batch, tokens)
    try:
        session.start(batch, capacity)
    except Exception as error:   # the caches do not fit
        print(f"decode, batch {batch}, capacity {capacity}: {error}", flush=True)
        return
    outcome = session.prefill(ids, lengths)
    first = np.array([outcome.best(row).ids[0] for row in range(batch)], np.int32)
    session.advance(lengths, first)
    for step in range(1, WARM):
        session.advance(lengths + step, None)
    begin, end = Event(session.device), Event(session.device)
    session.stream.synchronize()
    begin.record(session.stream)
    wall = time.perf_counter()
    for step in range(STEPS):
        session.advance(lengths + WARM + step, None)
    end.record(session.stream)
    end.synchronize()
    host = (time.perf_counter() - wall) / STEPS * 1e3
    took = end.milliseconds_since(begin) / STEPS
    print(f"decode, batch {batch}, behind {tokens} tokens, capacity {capacity}: {took:.3f} ms by events, "
          f"{host:.3f} ms by the host's clock", flush=True)   # fmt: skip


def profile(work: Path) -> None:
    """Print where the time of a decode step and of a prefill goes, by the kind of step."""
    from trtc.runtime.bundle import EngineBundle
    from trtc.runtime.cuda.layers import times

    for batch, past, new in ((1, 1024, 1), (8, 1024, 1), (64, 1024, 1), (1, 0, 1024), (8, 0, 1024)):
        said = times(EngineBundle.open(work / "engine", verify=False), batch, past, new)
        sums: dict[str, list[float]] = {}
        for name, seconds in said["seconds"].items():
            sums.setdefault(re.sub(r"\.\d+\.", ".*.", name), []).extend(seconds)
        total = sum(map(sum, sums.values())) * 1e3
        print(f"batch {batch}, {new} new, {said['context']} keys: {total:.3f} ms in all", flush=True)
        for name, seconds in sorted(sums.items(), key=lambda item: -sum(item[1])):
            print(f"  {name:60} {len(seconds):4} x {1e6 * sum(seconds) / len(seconds):7.1f} us", flush=True)


PARTS: dict[str, Callable[[Path], None]] = {
    "bandwidth": bandwidth, "build": build, "check": check, "load": load, "run": run, "profile": profile,
}   # fmt: skip


if __name__ == "__main__":
    main()
