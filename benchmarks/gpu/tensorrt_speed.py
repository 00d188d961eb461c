"""Build time, memory and speed of a TensorRT engine on this machine's GPU.

    python benchmarks/gpu/tensorrt_speed.py build MODEL_DIR ENGINE_DIR --capacity 8192 [--level 0] [--weightless]
        [--cache FILE]
    python benchmarks/gpu/tensorrt_speed.py run ENGINE_DIR [--tokens 100,980,4000]

``run`` gives the milliseconds of the prefill and of a greedy decode step behind so many tokens, which the GPU's own
events measure, and the tokens per second that a caller of ``generate`` sees.
"""

from __future__ import annotations

import argparse
import logging
import resource
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

import trtc
from trtc.backend.tensorrt.options import Options
from trtc.runtime.bundle import EngineBundle
from trtc.runtime.gpu.stream import Event
from trtc.runtime.session import SessionOptions, open_session

STEPS = 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("build", "run"))
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--capacity", type=int, default=8192)
    parser.add_argument("--level", type=int, default=0)
    parser.add_argument("--weightless", action="store_true")
    parser.add_argument("--cache", default="")
    parser.add_argument("--tokens", default="980")
    arguments = parser.parse_args()
    if arguments.what == "build":
        build(arguments.folders[0], arguments.folders[1], arguments)
    else:
        run(arguments.folders[0], [int(n) for n in arguments.tokens.split(",")])


def build(model: Path, out: Path, arguments: Any) -> None:
    cache = arguments.cache
    used = cache if cache and Path(cache).exists() else ""
    options = Options(
        optimization_level=arguments.level, weightless=arguments.weightless,
        input_timing_cache=used, output_timing_cache=cache,
    )   # fmt: skip
    start = time.perf_counter()
    trtc.compile(
        model, out, target="tensorrt", dtype="float16", max_batch_size=1, max_input_len=1024,
        max_seq_len=arguments.capacity, tensorrt=options,
    )   # fmt: skip
    took, peak = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    size = (out / "rank0/model.plan").stat().st_size / 1e9
    kind = "weightless, " * arguments.weightless + ("with a timing cache" if used else "without a timing cache")
    print(f"capacity {arguments.capacity}, level {arguments.level}, {kind}: built in {took:.1f} s, "
          f"peak host memory {peak:.2f} GB, plan {size:.2f} GB", flush=True)   # fmt: skip


def run(folder: Path, lengths: list[int]) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    start = time.perf_counter()
    bundle = EngineBundle.open(folder, verify=False)
    session: Any = open_session(bundle, SessionOptions())
    print(f"{folder.name}: loaded in {time.perf_counter() - start:.1f} s on {session.device}", flush=True)
    for tokens in lengths:
        if tokens + STEPS + 10 <= bundle.limits.max_seq_len:
            measure(folder.name, session, tokens, bundle)


def measure(name: str, session: Any, tokens: int, bundle: EngineBundle) -> None:
    """Print the milliseconds of the prefill of so many tokens, and of a step behind them."""
    ids = np.random.default_rng(0).integers(3, bundle.vocab_size, (1, tokens)).astype(np.int32)
    lengths = np.array([tokens], np.int32)
    capacity, found, token = bundle.limits.max_seq_len, list[float](), lengths
    for _ in range(5):
        session.start(1, capacity)
        begin, end = Event(session.device), Event(session.device)
        begin.record(session.stream)
        outcome = session.prefill(ids, lengths)
        end.record(session.stream)
        token = outcome.best(0).ids[:1]
        end.synchronize()
        found.append(end.milliseconds_since(begin))
    session.advance(lengths, token.astype(np.int32))
    for step in range(1, 5):
        session.advance(lengths + step, None)
    begin, end = Event(session.device), Event(session.device)
    session.stream.synchronize()
    begin.record(session.stream)
    wall = time.perf_counter()
    for step in range(STEPS):
        session.advance(lengths + 5 + step, None)
        if step == STEPS - 1:
            end.record(session.stream)
    end.synchronize()
    host = (time.perf_counter() - wall) / STEPS * 1e3
    prefill, decode = statistics.median(found), end.milliseconds_since(begin) / STEPS
    print(f"{name}: behind {tokens} tokens: prefill {prefill:.2f} ms, decode {decode:.3f} ms by events, "
          f"{host:.3f} ms by the host's clock", flush=True)   # fmt: skip


if __name__ == "__main__":
    main()
