"""Tokens a second on the CPU: `trtc` beside transformers and onnxruntime-genai, f32, random LLaMA shapes.

    pip install onnxruntime-genai onnx-ir      # besides trtc[onnx,dev]
    python benchmarks/decode.py [--shapes 8M 110M] [--batches 1 8] [--rounds 20]

Every engine runs in a process of its own on the same weights and prompts (128 tokens, 64 new ones, greedy, end token
ignored); the processes take turns, and the best round of each counts, since other load on a machine only slows.
trtc's engines are compiled for the batch they run (`--max-batch-size`); ids go in and ids come out, everywhere.
First token: from the call with token ids to the first new token. Decode: tokens after the first, by their time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

SHAPES: dict[str, dict[str, int]] = {
    "8M": {
        "hidden_size": 256, "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 4,
        "intermediate_size": 688, "vocab_size": 4096,
    },
    "110M": {
        "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "num_key_value_heads": 4,
        "intermediate_size": 2048, "vocab_size": 32000,
    },
}   # fmt: skip
PROMPT, NEW, THREADS = 128, 64, 2
Run = Callable[[list[list[int]]], list[float]]
"""Generate NEW tokens for these prompts; the times of the start and of each step's tokens."""


def make_model(folder: Path, shape: str) -> None:
    """Save a random LLaMA, and a tokenizer of as many words, which genai's builder asks for."""
    from tokenizers import Tokenizer, models

    torch: Any = import_module("torch")
    transformers: Any = import_module("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        **SHAPES[shape], max_position_embeddings=512, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    words = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"t{i}": i for i in range(3, SHAPES[shape]["vocab_size"])}
    Tokenizer(models.WordLevel(words, unk_token="<unk>")).save(str(folder / "tokenizer.json"))
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))


def trtc_runner(folder: Path) -> Run:
    import trtc

    loaded: dict[int, Any] = {}

    def load(batch: int) -> Any:
        bundle = folder / f"trtc{batch}"
        trtc.compile(folder, bundle, target="onnx", max_seq_len=512, max_batch_size=batch)
        engine = json.loads((bundle / "engine.json").read_text())
        engine["generation"]["eos_token_ids"] = []   # a random model ends at random
        engine["tokenizer"] = None
        (bundle / "engine.json").write_text(json.dumps(engine))
        return trtc.load(bundle, threads=THREADS)

    def run(prompts: list[list[int]]) -> list[float]:
        engine = loaded.get(len(prompts)) or loaded.setdefault(len(prompts), load(len(prompts)))
        times = [time.perf_counter()]
        for event in engine.stream(prompts, max_new_tokens=NEW):
            if event.index == len(prompts) - 1:
                times.append(time.perf_counter())
        return times

    return run


def transformers_runner(folder: Path) -> Run:
    import torch

    torch.set_num_threads(THREADS)
    auto: Any = import_module("transformers").AutoModelForCausalLM
    model = auto.from_pretrained(folder, dtype=torch.float32).eval()

    def run(prompts: list[list[int]]) -> list[float]:
        ids = torch.tensor(prompts)
        times = [time.perf_counter()]

        def clock(_: Any, scores: Any) -> Any:   # a logits processor is called once a step
            times.append(time.perf_counter())
            return scores

        with torch.inference_mode():
            model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=NEW, min_new_tokens=NEW,
                pad_token_id=0, eos_token_id=None, logits_processor=[clock],
            )   # fmt: skip
        return times

    return run


def genai_runner(folder: Path) -> Run:
    og: Any = import_module("onnxruntime_genai")
    out = folder / "genai"
    builder = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(folder), "-o", str(out)]
    subprocess.run([*builder, "-p", "fp32", "-e", "cpu", "-c", str(folder / "cache")], check=True, capture_output=True)
    config = og.Config(str(out))
    config.clear_providers()
    config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": THREADS}}}}))
    model = og.Model(config)

    def run(prompts: list[list[int]]) -> list[float]:
        length, ids = PROMPT + NEW, np.array(prompts, np.int32)
        times = [time.perf_counter()]
        parameters = og.GeneratorParams(model)
        parameters.set_search_options(
            do_sample=False, max_length=length, min_length=length, batch_size=len(ids), past_present_share_buffer=True
        )
        generator = og.Generator(model, parameters)
        generator.append_tokens(ids if len(ids) > 1 else ids[0])
        for _ in range(NEW):
            generator.generate_next_token()
            times.append(time.perf_counter())
        return times

    return run


RUNNERS = {"trtc": trtc_runner, "transformers": transformers_runner, "onnxruntime-genai": genai_runner}


def serve(kind: str, folder: Path, vocab: int) -> None:
    """The process of one engine: for each batch size on stdin, (first-token s, decode tokens/s) on stdout."""
    run = RUNNERS[kind](folder)
    print("ready", flush=True)
    for line in sys.stdin:
        batch = int(line)
        prompts = np.random.default_rng(1).integers(3, vocab, (batch, PROMPT)).tolist()
        times = run(prompts)
        assert len(times) == NEW + 1, f"{kind} made {len(times) - 1} tokens"
        print(json.dumps([times[1] - times[0], batch * (NEW - 1) / (times[-1] - times[1])]), flush=True)


class Peer:
    """One engine in a process of its own."""

    def __init__(self, kind: str, shape: str) -> None:
        self.home = tempfile.TemporaryDirectory()
        make_model(Path(self.home.name), shape)
        command = [sys.executable, __file__, "--serve", kind, self.home.name, str(SHAPES[shape]["vocab_size"])]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._line()

    def measure(self, batch: int) -> tuple[float, float]:
        assert self.process.stdin
        self.process.stdin.write(f"{batch}\n")
        self.process.stdin.flush()
        first, rate = json.loads(self._line())
        time.sleep(0.05)   # its worker threads spin for a while
        return first, rate

    def _line(self) -> str:
        assert self.process.stdout
        if not (line := self.process.stdout.readline()):
            raise SystemExit("an engine's process ended")
        return line

    def close(self) -> None:
        self.process.communicate()
        self.home.cleanup()


def table(shape: str, batches: list[int], rounds: int) -> None:
    peers = {kind: Peer(kind, shape) for kind in RUNNERS}
    for batch in batches:
        found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in peers}
        for _ in range(rounds + 1):
            for kind, peer in peers.items():
                found[kind].append(peer.measure(batch))
        first = {kind: min(f for f, _ in runs[1:]) for kind, runs in found.items()}   # the first round warms up
        rate = {kind: max(r for _, r in runs[1:]) for kind, runs in found.items()}
        others = [kind for kind in peers if kind != "trtc"]
        for kind in peers:
            print(f"| {shape} | {batch} | {kind} | {first[kind] * 1e3:.1f} | {rate[kind]:.0f} |", end=" ")
            print(f"{first[kind] / first['trtc']:.2f} | {rate['trtc'] / rate[kind]:.2f} |", flush=True)
        quick, best = min(first[k] for k in others), max(rate[k] for k in others)
        ratios = f"{quick / first['trtc']:.2f} | {rate['trtc'] / best:.2f}"
        print(f"| | | best of the others | {quick * 1e3:.1f} | {best:.0f} | {ratios} |")
    for peer in peers.values():
        peer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        kind, folder, vocab = options.serve
        serve(kind, Path(folder), int(vocab))
        return
    print("| shape | batch | engine | first token ms | decode tokens/s | first: x trtc's | decode: trtc's is x |")
    print("|---|---:|---|---:|---:|---:|---:|")
    for shape in options.shapes:
        table(shape, options.batches, options.rounds)


if __name__ == "__main__":
    main()
