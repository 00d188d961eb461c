"""Train a small LLaMA and its tokenizer on any text file.

``python examples/train.py TEXT_FILE -o DIR`` learns a byte-level BPE vocabulary and a LlamaForCausalLM (grouped-query
attention, tied embeddings) from UTF-8 text and writes a Hugging Face directory:

    config.json, generation_config.json, model.safetensors    float16 weights of the best validation loss
    tokenizer.json, tokenizer_config.json                     with <s>, put before every text, and </s>
    GOLDEN.json                                               prompts and their texts by transformers' greedy generate
    TRAINING.json                                             settings, losses, versions, device, seconds

It needs torch, transformers and tokenizers, and uses a CUDA GPU where there is one. With the defaults, 1 MB of text
takes about 2 minutes on an H200 and 75 on two CPU cores. One seed on one machine gives one model.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import platform
import random
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor

torch: Any = import_module("torch")
tokenizers: Any = import_module("tokenizers")
transformers: Any = import_module("transformers")

BOS, EOS = 0, 1
SPECIAL = ["<s>", "</s>"]  # tokens 0 and 1
HELD_OUT = 0.1  # the last tenth of the text is for validation and golden prompts
EVALUATIONS = 20  # how often the validation loss is taken; the weights of the best are kept
GOLDEN_WORDS = (1, 2, 4, 8, 16, 32)  # length of each golden prompt
GOLDEN_TRIES = 24  # prompts tried for each length
GOLDEN_GAP = 0.02  # wanted between the best two logits: far above the rounding error of any float32 implementation


class TooShort(Exception):
    """Too little text to hold a window of it out."""


def option(default: Any, about: str) -> Any:
    return field(default=default, metadata={"help": f"{about} (default: {default})"})


@dataclass(frozen=True)
class Settings:
    """What is trained and how; every field is an option of the command line."""

    vocab: int = option(1024, "tokens in the vocabulary, of them 256 bytes, <s> and </s>")
    hidden: int = option(128, "width of the residual stream")
    layers: int = option(7, "decoder layers")
    heads: int = option(4, "query heads, a multiple of the key and value heads")
    kv_heads: int = option(2, "key and value heads")
    intermediate: int = option(352, "width of the MLP")
    context: int = option(512, "tokens of a training window, and max_position_embeddings")
    steps: int = option(2500, "optimizer steps")
    batch: int = option(16, "windows in a step")
    lr: float = option(2e-3, "peak learning rate, after a warm-up of 5%% and before a cosine to nothing")
    weight_decay: float = option(0.5, "AdamW's, on matrices only")
    dropout: float = option(0.25, "of the embeddings and of what each block adds to them")
    golden_tokens: int = option(96, "new tokens in each golden text")
    seed: int = option(0, "of initial weights, batches, dropout and golden prompts")


def make_tokenizer(text: str, settings: Settings) -> Any:
    """A byte-level BPE tokenizer of ``text`` that puts <s> before every text."""
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=settings.vocab, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(text.splitlines(keepends=True), trainer)
    bpe.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    return bpe


def save_tokenizer(bpe: Any, folder: Path, settings: Settings) -> None:
    """Write what transformers' AutoTokenizer loads, in any version."""
    bpe.save(str(folder / "tokenizer.json"))
    names = {"bos_token": SPECIAL[BOS], "eos_token": SPECIAL[EOS], "pad_token": SPECIAL[EOS]}
    others = {"model_max_length": settings.context, "clean_up_tokenization_spaces": False}
    dump(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **names, **others})


def make_model(vocab: int, settings: Settings) -> Any:
    """A LlamaForCausalLM with random weights and, which LLaMA has not, dropout on what joins the residual stream."""
    config = transformers.LlamaConfig(
        vocab_size=vocab,
        hidden_size=settings.hidden,
        intermediate_size=settings.intermediate,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.kv_heads,
        max_position_embeddings=settings.context,
        tie_word_embeddings=True,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=EOS,
    )
    model = transformers.LlamaForCausalLM(config)

    def drop(module: Any, _: Any, output: Tensor) -> Tensor:
        return torch.dropout(output, settings.dropout, module.training)

    for name, module in model.named_modules():
        if name.endswith(("embed_tokens", "o_proj", "down_proj")):
            module.register_forward_hook(drop)
    return model


def windows(ids: Tensor, starts: Tensor, settings: Settings) -> Tensor:
    """int64[len(starts), context]: <s> and the tokens of ``ids`` from each start on."""
    return torch.nn.functional.pad(ids[starts[:, None] + torch.arange(settings.context - 1)], (1, 0), value=BOS)


def loss_of(model: Any, batch: Tensor) -> Any:
    """The mean cross-entropy of the next token, in nats; matrix products in bfloat16 on a GPU."""
    batch = batch.to(model.device)
    with torch.autocast(model.device.type, torch.bfloat16, enabled=model.device.type == "cuda"):
        return model(input_ids=batch, labels=batch).loss


def validate(model: Any, ids: Tensor, settings: Settings) -> float:
    """The mean loss over ``ids``, cut into windows that do not overlap."""
    starts = torch.arange(0, len(ids) - settings.context + 2, settings.context - 1)
    model.eval()
    with torch.no_grad():
        losses = [loss_of(model, windows(ids, part, settings)) * len(part) for part in starts.split(settings.batch)]
    model.train()
    return float(sum(losses)) / len(starts)


def train(model: Any, ids: Tensor, held_out: Tensor, settings: Settings) -> dict[str, float]:
    """Train ``model`` in place, leave the weights of the best validation loss in it, and give the losses there."""
    matrices, vectors = ([p for p in model.parameters() if (p.ndim > 1) == wide] for wide in (True, False))
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.lr, total_steps=settings.steps + 1, pct_start=0.05, cycle_momentum=False
    )
    best: dict[str, float] = {"validation_loss": math.inf}
    weights: dict[str, Tensor] = {}
    recent: list[Any] = []
    model.train()
    for step in range(1, settings.steps + 1):
        starts = torch.randint(len(ids) - settings.context + 2, (settings.batch,))
        loss = loss_of(model, windows(ids, starts, settings))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        recent.append(loss.detach())
        if step % max(1, settings.steps // EVALUATIONS) == 0 or step == settings.steps:
            now = {"step": step, "train_loss": float(sum(recent)) / len(recent)}
            now["validation_loss"] = validate(model, held_out, settings)
            recent.clear()
            print(*(f"{name} {value:.5g}" for name, value in now.items()), sep=", ", flush=True)
            if now["validation_loss"] < best["validation_loss"]:
                best, weights = now, {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(weights)
    return best


def greedy(model: Any, tokenizer: Any, prompt: str, count: int) -> dict[str, Any]:
    """What ``generate`` makes of ``prompt`` without sampling, and the least gap of the best two logits on the way."""
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    out = model.generate(ids, max_new_tokens=count, do_sample=False, return_dict_in_generate=True, output_logits=True)
    top = torch.cat(out.logits).topk(2).values
    new: list[int] = out.sequences[0, ids.shape[1] :].tolist()
    return {
        "prompt": prompt,
        "input_ids": ids[0].tolist(),
        "greedy_new_ids": new,
        "text": tokenizer.decode(new, skip_special_tokens=True),
        "min_top2_logit_gap": round(float((top[:, 0] - top[:, 1]).min()), 5),
    }


def golden(folder: Path, held_out: str, settings: Settings) -> list[dict[str, Any]]:
    """A greedy text for each of GOLDEN_WORDS, in float32 on the CPU, from the float16 weights in ``folder``.

    The prompts begin lines of ``held_out``. Of GOLDEN_TRIES, those with a gap above GOLDEN_GAP go first, and of them
    the one whose text has the most different tokens, for greedy texts like to run in circles.
    """
    model = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    torch.set_num_threads(1)  # more only slow down matrices this small
    pick = random.Random(settings.seed)
    chosen: list[dict[str, Any]] = []
    for words in GOLDEN_WORDS:
        prompts = [match.group() for match in re.finditer(rf"^\S+(\s+\S+){{0,{words - 1}}}", held_out, re.M)]
        tried = [
            greedy(model, tokenizer, prompt, settings.golden_tokens)
            for prompt in pick.sample(prompts, min(GOLDEN_TRIES, len(prompts)))
        ]
        chosen.append(
            max(tried, key=lambda one: (one["min_top2_logit_gap"] > GOLDEN_GAP, len(set(one["greedy_new_ids"]))))
        )
    return chosen


def run(text: str, folder: Path, settings: Settings) -> dict[str, Any]:
    """Train on ``text``, write the model, its tokenizer and GOLDEN.json into ``folder``, and give the numbers."""
    torch.manual_seed(settings.seed)
    cut = int(len(text) * (1 - HELD_OUT))
    bpe = make_tokenizer(text[:cut], settings)
    ids, held_out = (torch.tensor(bpe.encode(part).ids[1:]) for part in (text[:cut], text[cut:]))
    if len(held_out) < settings.context:
        raise TooShort(
            f"last tenth of the text: {len(held_out)} tokens, but must be at least --context {settings.context}"
        )
    model = make_model(bpe.get_vocab_size(), settings).to("cuda" if torch.cuda.is_available() else "cpu")
    best = train(model, ids, held_out, settings)
    best["validation_bits_per_byte"] = best["validation_loss"] / math.log(2) * len(held_out) / len(text[cut:].encode())
    model.cpu().half().save_pretrained(folder)
    save_tokenizer(bpe, folder, settings)
    lines = (json.dumps(one, ensure_ascii=False) for one in golden(folder, text[cut:], settings))
    (folder / "GOLDEN.json").write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")
    return {"parameters": model.num_parameters(), "tokens": len(ids), "validation_tokens": len(held_out), "best": best}


def write(text: str, folder: Path, settings: Settings) -> None:
    """Run, the same way whenever the seed and the machine are, and write TRAINING.json about it."""
    started = time.monotonic()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS is not deterministic
    torch.use_deterministic_algorithms(True)
    transformers.logging.disable_progress_bar()
    report = {
        "settings": asdict(settings),
        "text": {"bytes": len(text.encode()), "sha256": hashlib.sha256(text.encode()).hexdigest()},
        **run(text, folder, settings),
        "versions": {module.__name__: str(module.__version__) for module in (torch, transformers, tokenizers)},
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "seconds": round(time.monotonic() - started, 1),
    }
    dump(folder / "TRAINING.json", report)


def dump(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("train.py", description="Train a small LLaMA and its tokenizer on any text file.")
    parser.add_argument("text", type=Path, metavar="TEXT_FILE", help="UTF-8 text")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="where the model goes")
    for one in fields(Settings):
        kind = float if isinstance(one.default, float) else int
        name, about = "--" + one.name.replace("_", "-"), one.metadata["help"]
        parser.add_argument(name, type=kind, default=one.default, metavar="N", help=about)
    options = vars(parser.parse_args(arguments))
    source, output = options.pop("text"), options.pop("output")
    settings = Settings(**options)
    if settings.heads % settings.kv_heads:
        parser.error(f"--heads: {settings.heads}, but must be a multiple of --kv-heads {settings.kv_heads}")
    if settings.hidden % (2 * settings.heads):
        parser.error(f"--hidden: {settings.hidden}, but must be a multiple of twice --heads {settings.heads}")
    try:
        text = source.read_text(encoding="utf-8")
        output.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=output) as folder:
            write(text, Path(folder), settings)
            for path in Path(folder).iterdir():
                path.replace(output / path.name)
    except (OSError, UnicodeDecodeError, TooShort) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
