"""Passes and text on LLaMA shapes without weights: seconds for 32 and 80 layers, and how they grow.

    python benchmarks/passes.py [--target onnx]
"""

from __future__ import annotations

import argparse
import time
from itertools import pairwise

from trtc.backend.targets import TARGETS
from trtc.frontend import Limits, build_decoder
from trtc.frontend.config import DecoderConfig, RopeConfig
from trtc.ir import Graph, TensorType, Value, f16, parse
from trtc.ir.ops import Weight
from trtc.passes import Pipeline


def shape(layers: int) -> DecoderConfig:
    """LLaMA-3-70B's shape, but for the number of layers."""
    return DecoderConfig(
        architecture="LlamaForCausalLM", hidden_size=8192, intermediate_size=28672, num_hidden_layers=layers,
        num_attention_heads=64, num_key_value_heads=8, head_dim=128, vocab_size=128256, max_position_embeddings=8192,
        norm_eps=1e-5, rope=RopeConfig(500000.0, 128), hidden_act="silu",
        tie_word_embeddings=False,
    )   # fmt: skip


def imported(layers: int) -> Graph:
    def weight(role: str, *sizes: int) -> Value:
        return Weight(role, TensorType(f16, sizes))

    return build_decoder(shape(layers), weight, Limits(8, 4096, 8192), f16)


def measure(layers: int, pipeline: str) -> list[float]:
    """Seconds to build the graph, run the passes, print it and parse it."""
    times = [time.perf_counter()]
    graph = imported(layers)
    times.append(time.perf_counter())
    lowered = Pipeline.parse(pipeline).run(graph)
    times.append(time.perf_counter())
    text = str(lowered)
    times.append(time.perf_counter())
    assert str(parse(text)) == text
    times.append(time.perf_counter())
    return [b - a for a, b in pairwise(times)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="onnx", choices=TARGETS)
    pipeline = f"fuse,lower{{target={parser.parse_args().target}}}"
    print(f"pipeline: {pipeline}\n")
    print("| layers | import s | passes s | print s | parse s | all s | ms a layer |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    measure(2, pipeline)   # the first run imports and compiles
    for layers in (8, 16, 32, 80):
        times = measure(layers, pipeline)
        cells = [f"{t:.2f}" for t in (*times, sum(times))]
        print(f"| {layers} | {' | '.join(cells)} | {sum(times) / layers * 1e3:.1f} |")


if __name__ == "__main__":
    main()
