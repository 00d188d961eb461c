"""Time and memory of a TensorRT build, and where the time goes, from the seconds between the builder's verbose lines.

    python benchmarks/gpu/tensorrt_build.py MODEL_DIR ENGINE_DIR [--level 0] [--capacity 1152] [--input 1024]
        [--weightless] [--cache FILE]

With ``--input 1`` the plan has one profile, that of decode. A timing cache is read where the file exists, and written.
Printed: seconds in all, of the CPU, and peak memory of the host; then the lines that most time passes after, and how
often a whole network was compiled: once for each profile and each format of its inputs and outputs that is tried.
SIGTERM ends a build, and what it came to is printed, too.
"""

from __future__ import annotations

import argparse
import logging
import re
import resource
import time
from collections import Counter, defaultdict
from pathlib import Path

import trtc

NUMBER = re.compile(r"0x[0-9a-f]+|[\d.]+")
SHOWN = 8


class Lines(logging.Handler):
    """Keeps each line, with the second that it came at."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[float, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append((time.perf_counter(), record.getMessage()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--target", default="tensorrt")
    parser.add_argument("--level", type=int, default=0)
    parser.add_argument("--capacity", type=int, default=1152)
    parser.add_argument("--input", type=int, default=1024)
    parser.add_argument("--weightless", action="store_true")
    parser.add_argument("--cache", type=Path)
    asked = parser.parse_args()
    lines, log = Lines(), logging.getLogger("trtc.tensorrt")
    log.addHandler(lines)
    log.setLevel(logging.DEBUG)
    log.propagate = False
    start, did = time.perf_counter(), "NOT built"
    try:
        build(asked)
        did = f"plan {(asked.out / 'rank0/model.plan').stat().st_size / 1e6:.1f} MB, built"
    finally:
        end, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
        took, peak = f"{end - start:.1f} s, CPU {used.ru_utime + used.ru_stime:.1f} s", used.ru_maxrss / 1e6
        print(f"{asked.out.name}: level {asked.level}, capacity {asked.capacity}, {did} in {took}, "
              f"peak host memory {peak:.2f} GB", flush=True)   # fmt: skip
        tell(lines.found, end)


def build(asked: argparse.Namespace) -> None:
    """Compile; a timing cache that is there is read."""
    cache = asked.cache or ""
    options = trtc.TensorRTOptions(
        optimization_level=asked.level, weightless=asked.weightless, output_timing_cache=cache,
        input_timing_cache=cache if cache and cache.exists() else "",
    )   # fmt: skip
    trtc.compile(
        asked.model, asked.out, target=asked.target, dtype="float16", max_batch_size=1,
        max_input_len=min(asked.input, asked.capacity), max_seq_len=asked.capacity, tensorrt=options,
    )   # fmt: skip


def tell(lines: list[tuple[float, str]], end: float) -> None:
    """Print what the time passes after."""
    seconds, count = defaultdict[str, float](float), Counter[str]()
    for (at, line), (after, _) in zip(lines, [*lines[1:], (end, "")], strict=True):
        key = NUMBER.sub("#", re.sub(r"(Timing Runner).*\((.*)\)", r"\1: \2", line))[:80]
        seconds[key] += after - at
        count[key] += 1
    for _, line in lines:
        if "timing cache" in line and "is not used" in line:
            print(line, flush=True)
    for key, passed in sorted(seconds.items(), key=lambda pair: -pair[1])[:SHOWN]:
        print(f"{passed:7.1f} s after {count[key]:5} x {key}", flush=True)
    compiled = sum("Set user's cuda kernel library" in line for _, line in lines)
    print(f"whole networks compiled: {compiled}", flush=True)


if __name__ == "__main__":
    main()
