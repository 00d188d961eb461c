"""``trtc run``: generate text with an engine."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trtc.cli._debug import detailed
from trtc.cli._shared import detail, write_atomically
from trtc.errors import TrtcError

if TYPE_CHECKING:
    from trtc.runtime.generate import Completion, Engine
    from trtc.runtime.options import LoadOptions
    from trtc.runtime.sampling import SamplingOptions
    from trtc.runtime.sequence import TokenEvent

EngineDir = Annotated[Path, typer.Argument(metavar="ENGINE_DIR", help="What trtc compile made.")]
Texts = Annotated[list[str] | None, typer.Option(metavar="TEXT", help="A text to continue; may be repeated.")]
Ids = Annotated[list[str] | None, typer.Option(metavar="IDS", help="Token ids instead: 1,15,27; may be repeated.")]
InputFile = Annotated[Path | None, typer.Option(metavar="FILE", help="More texts to continue, one a line.")]
MaxNewTokens = Annotated[int, typer.Option(metavar="N", help="The most tokens to generate for each prompt.")]
Temperature = Annotated[float, typer.Option(metavar="T", help="Divides the logits; 0 takes the likeliest token.")]
TopK = Annotated[int, typer.Option(metavar="K", help="Draw from the K likeliest tokens; 0 is off.")]
TopP = Annotated[float, typer.Option(metavar="P", help="Draw from the likeliest tokens of probability P; 1 is off.")]
Penalty = Annotated[float, typer.Option(metavar="R", help="Divides the logits of tokens seen before; 1 is off.")]
Seed = Annotated[int, typer.Option(metavar="S", help="The same seed draws the same tokens.")]
Stops = Annotated[list[str] | None, typer.Option(metavar="TEXT", help="End before this text; may be repeated.")]
Logprobs = Annotated[bool, typer.Option("--logprobs", help="Put log-probabilities into --output-json.")]
Chat = Annotated[bool, typer.Option("--chat", help="Put each text into the model's chat template.")]
CheckNumerics = Annotated[bool, typer.Option("--check-numerics", help="Check every logit of every step.")]
Threads = Annotated[int | None, typer.Option(metavar="N", help="CPU threads; by default one a core.")]
Device = Annotated[int, typer.Option(metavar="N", help="The GPU, for engines that run on one; counted from 0.")]
PrefillChunk = Annotated[
    int, typer.Option(metavar="N", help="Prompts are run in pieces of N tokens; 0: as long as the engine takes.")
]
KVCacheTokens = Annotated[
    int, typer.Option(metavar="N", help="Tokens of all sequences that a paged cache holds; 0: what a batch may need.")
]
NoGraphs = Annotated[bool, typer.Option("--no-cuda-graphs", help="Launch each decode step call by call.")]
OutputJson = Annotated[Path | None, typer.Option(metavar="FILE", help="Also write prompts and results as JSON.")]


def run(
    engine_dir: EngineDir,
    prompt: Texts = None,
    prompt_ids: Ids = None,
    input_file: InputFile = None,
    max_new_tokens: MaxNewTokens = 128,
    temperature: Temperature = 0.0, top_k: TopK = 0, top_p: TopP = 1.0,
    repetition_penalty: Penalty = 1.0, seed: Seed = 0, stop: Stops = None,
    logprobs: Logprobs = False, check_numerics: CheckNumerics = False,
    chat: Chat = False, threads: Threads = None, device: Device = 0, prefill_chunk: PrefillChunk = 0,
    kv_cache_tokens: KVCacheTokens = 0, no_cuda_graphs: NoGraphs = False, output_json: OutputJson = None,
) -> None:   # fmt: skip
    """Generate text with an engine.

    Prompts come in the order --prompt, --prompt-ids, --input-file and share batches. Each is printed with the text
    that follows it, as it comes; with --chat only the answer is.
    """
    from trtc.runtime.generate import load

    prompts = [*(prompt or []), *map(_parse_ids, prompt_ids or []), *(_lines(input_file) if input_file else [])]
    if not prompts:
        raise TrtcError("there is no prompt, but one of --prompt, --prompt-ids and --input-file must give one")
    if output_json:
        _check_place(output_json)
    options: SamplingOptions = {
        "max_new_tokens": max_new_tokens, "temperature": temperature, "top_k": top_k, "top_p": top_p,
        "repetition_penalty": repetition_penalty, "seed": seed, "stop": stop or [],
        "logprobs": logprobs, "check_numerics": check_numerics,
    }   # fmt: skip
    how: LoadOptions = {
        "threads": threads, "device": device, "prefill_chunk": prefill_chunk, "kv_cache_tokens": kv_cache_tokens,
        "cuda_graphs": not no_cuda_graphs,
    }   # fmt: skip
    with detailed("trtc.gpu", "trtc.tensorrt"):
        engine = load(engine_dir, **how)
        completions = [_begin(engine, each, chat) for each in prompts]
        events = engine.stream([c.prompt_token_ids for c in completions], **options)
        _follow(events, engine, completions, _Printer(["" if chat else _shown(engine, c) for c in completions]))
    if output_json:
        write_atomically(output_json, json.dumps(list(map(_record, completions)), ensure_ascii=False, indent=1) + "\n")


def _parse_ids(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",") if text]
    except ValueError:
        raise TrtcError(f"--prompt-ids is {text!r}, but must be integers with commas between them") from None


def _check_place(file: Path) -> None:
    """Before anything is generated: whether the results can be written there."""
    if file.is_dir() or not file.parent.is_dir():
        wrong = "must be a file" if file.is_dir() else f"{file.parent} is not a folder"
        raise TrtcError(f"--output-json is {file}, but {wrong}")


def _lines(file: Path) -> list[str]:
    try:
        text = file.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError):
        raise TrtcError(f"--input-file is {file}, but there is no such file") from None
    except UnicodeDecodeError:
        raise TrtcError(f"--input-file is {file}, but must be UTF-8 text") from None
    return text.removesuffix("\n").split("\n") if text else []


def _begin(engine: Engine, prompt: str | list[int], chat: bool) -> Completion:
    from trtc.runtime.generate import Completion

    if isinstance(prompt, str):
        token_ids = engine.encode_chat([{"role": "user", "content": prompt}]) if chat else engine.encode(prompt)
        return Completion(prompt, token_ids)
    return Completion(None, prompt)


def _shown(engine: Engine, completion: Completion) -> str:
    """Return what is printed before the new text: the prompt, as ids if there is no tokenizer."""
    if completion.prompt is not None:
        return completion.prompt
    ids = completion.prompt_token_ids
    return engine.tokenizer.decode(ids) if engine.tokenizer else ",".join(map(str, ids))


class _Printer:
    """Prints texts one after the other: the first that has not ended as it comes, the later ones when it has.

    Args:
        texts: how each begins.
    """

    def __init__(self, texts: list[str]) -> None:
        self._waiting, self._ended, self._front = texts, [False] * len(texts), 0
        self.add(0, "", ended=False)

    def add(self, index: int, piece: str, ended: bool) -> None:
        """Append to one text."""
        self._waiting[index] += piece
        self._ended[index] = ended
        while self._front < len(self._waiting):
            sys.stdout.write(self._waiting[self._front])
            self._waiting[self._front] = ""
            if not self._ended[self._front]:
                break
            sys.stdout.write("\n")
            self._front += 1
        sys.stdout.flush()


def _follow(events: Iterator[TokenEvent], engine: Engine, completions: list[Completion], printer: _Printer) -> None:
    """Print and collect tokens as they come, and say how fast they came."""
    start = time.perf_counter()
    first = 0.0
    for event in events:
        first = first or time.perf_counter()
        completions[event.index].append(event)
        piece = event.text if engine.tokenizer else f",{event.token_id}"
        printer.add(event.index, piece, event.finish_reason is not None)
    end = time.perf_counter()
    tokens = sum(len(c.token_ids) for c in completions)
    decoded = tokens - min(len(completions), engine.bundle.limits.max_batch_size)   # less those of the first prefill
    rate = decoded / (end - first) if decoded else 0.0
    detail(
        f"first token after {(first - start) * 1e3:.1f} ms; {tokens} tokens in {end - start:.2f} s; "
        f"{rate:.1f} tokens/s after the first",
        first_token_seconds=first - start, tokens=tokens, seconds=end - start, decode_tokens_per_second=rate,
    )   # fmt: skip


def _record(completion: Completion) -> dict[str, Any]:
    record = asdict(completion)
    return record if completion.logprobs is not None else {k: v for k, v in record.items() if k != "logprobs"}
