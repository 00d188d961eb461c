"""Speed of a TensorRT engine on this machine's GPU.

    python benchmarks/gpu/tensorrt_speed.py ENGINE_DIR [--tokens 100,980,4000]

Printed: the milliseconds of the prefill and of a greedy decode step behind so many tokens, as the GPU's own events
measure them, and those of the step by the host's clock. tensorrt_build.py builds engines.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from trtc.runtime.bundle import EngineBundle
from trtc.runtime.gpu.stream import Event
from trtc.runtime.session import SessionOptions, open_session

STEPS, PREFILLS = 30, 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", type=Path)
    parser.add_argument("--tokens", default="980")
    arguments = parser.parse_args()
    run(arguments.engine, [int(n) for n in arguments.tokens.split(",")])


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
    for _ in range(PREFILLS if bundle.limits.max_input_len > 1 else 1):   # one token at a time takes seconds
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
