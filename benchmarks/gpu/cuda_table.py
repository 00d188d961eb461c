"""The table of a run of cuda_speed.py, from what it printed.

    python benchmarks/gpu/cuda_table.py OUTPUT [--layers 32]

The floor of a decode step is the bytes of weights and caches at the speed of a copy; that of a prefill the operations
of its products and attention at the rate of a large product, or the bytes of weights where those take longer.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

from shapes import HEAD, HIDDEN, INNER, KV_HEADS, QKV, VOCABULARY

LAYERS = 32
LAYER = HIDDEN * (QKV + HIDDEN + 3 * INNER)   # weights of a layer's products
LAST = HIDDEN * VOCABULARY                    # of lm_head's
DECODE = re.compile(r"decode, batch (\d+), behind (\d+) tokens, capacity (\d+): ([\d.]+) ms")
PREFILL = re.compile(r"^prefill of (\d+) x (\d+) tokens: ([\d.]+) ms", re.MULTILINE)
THEIRS = re.compile(
    r"eager: prefill of (\d+) x (\d+) tokens ([\d.]+) ms\n.*?eager: decode ([\d.]+) ms"
    r"(?:\n.*?torch\.compile: decode ([\d.]+) ms)?"
)


def table(said: str, layers: int = LAYERS) -> str:
    """Markdown: ours, transformers' best of the same run, both floors.

    Errors:
        ValueError: the output lacks the speed of copies or of products.
    """
    copies, rate = re.search(r"copies move ([\d.]+) TB/s", said), re.search(r"makes ([\d.]+) TFLOP/s", said)
    if not copies or not rate:
        raise ValueError("no speed of copies and products in this output, but cuda_speed.py bandwidth prints both")
    lines = ["| | ours, ms | transformers, ms | ratio | floor, ms | share |", "|---|---:|---:|---:|---:|---:|"]
    theirs = {int(found[0]): found for found in THEIRS.findall(said)}
    speeds = float(copies[1]), float(rate[1])
    rows = [*decodes(said, theirs, layers, speeds[0]), *prefills(said, theirs, layers, *speeds)]
    for name, ours, other, how, floor in rows:
        beside = f"{other:.2f} ({how}) | {other / ours:.2f}" if other else "|"
        lines.append(f"| {name} | {ours:.2f} | {beside} | {floor:.2f} | {floor / ours:.0%} |")
    return "\n".join(lines)


Row = tuple[str, float, float, str, float]
Theirs = dict[int, tuple[str, ...]]


def decodes(said: str, theirs: Theirs, layers: int, terabytes: float) -> Iterator[Row]:
    """Each decode step; beside those behind 1,024 tokens transformers'."""
    for batch, tokens, capacity, ours in DECODE.findall(said):
        caches = 4 * int(batch) * layers * KV_HEADS * HEAD * int(tokens)
        floor = (2 * (layers * LAYER + LAST) + caches) / terabytes / 1e9
        found = theirs.get(int(batch)) if tokens == "1024" else None
        eager, compiled = (found[3], found[4]) if found else ("", "")
        other, how = float(compiled or eager or 0), "torch.compile" if compiled else "eager"
        yield f"decode, batch {batch}, {int(tokens):,} tokens in {int(capacity):,}", float(ours), other, how, floor


def prefills(said: str, theirs: Theirs, layers: int, terabytes: float, teraflops: float) -> Iterator[Row]:
    """Each prefill, whose lm_head is that of one token a prompt."""
    for batch, tokens, ours in PREFILL.findall(said):
        b, s = int(batch), int(tokens)
        attention = 4 * HIDDEN * b * s * (s + 1) // 2
        work = (layers * (2 * b * s * LAYER + attention) + 2 * b * LAST) / teraflops
        floor = max(work, 2 * (layers * LAYER + LAST) / terabytes) / 1e9
        other = next((float(found[2]) for found in theirs.values() if found[:2] == (batch, tokens)), 0.0)
        yield f"prefill, {b} x {s:,}", float(ours), other, "eager", floor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--layers", type=int, default=LAYERS)
    arguments = parser.parse_args()
    print(table(arguments.output.read_text(encoding="utf-8"), arguments.layers))


if __name__ == "__main__":
    main()
