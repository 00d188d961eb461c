"""Tiny random checkpoints, written by transformers, transformers' own logits for them, and ours."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from published import THEIRS, republish

from trtc import converter
from trtc.frontend import Checkpoint, open_checkpoint
from trtc.frontend.sources.mapped import MappedSource
from trtc.ir.graph import Graph
from trtc.ir.materialize import materialize
from trtc.ir.types import evaluate
from trtc.runtime.bundle import EngineBundle
from trtc.runtime.options import SessionOptions
from trtc.runtime.session import open_session

torch: Any = import_module("torch")
transformers: Any = import_module("transformers")

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]
DTYPES: dict[str, Any] = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
STEPS = 8   # decode steps after the prefill
EMBEDDINGS, QUERIES = ("embed", "lm_head", "wte", "wpe"), ("q_proj", "k_proj", "query_key_value", "c_attn", "Wqkv")


@dataclass(frozen=True)
class Case:
    """One tiny model.

    Args:
        config: what differs from the smallest model, by the names of transformers' config.
        dtype: of the saved tensors.
        old: config.json in the style before transformers 5: rope_theta, rope_scaling and torch_dtype at the top.
        shard: the size of one safetensors file at most, or one file for all.
        lengths: of the prompts of the ragged batch.
        model: transformers' class is ``<model><head>``.
        stacked: experts are saved in one tensor, as transformers 5 holds them, instead of one by one.
        published: the architecture whose keys and names the checkpoint has (published.py), if not transformers'.
    """

    name: str
    config: dict[str, Any] = field(default_factory=dict[str, Any])
    dtype: str = "float32"
    old: bool = False
    shard: str = ""
    lengths: tuple[int, ...] = (7, 1, 4)
    model: str = "Llama"
    head: str = "ForCausalLM"
    published: str = ""
    stacked: bool = False

    @property
    def architecture(self) -> str:
        return self.published or f"{self.model}{self.head}"


SMALLEST: dict[str, Any] = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 4, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None,
}   # fmt: skip

SMALLEST_EYE: dict[str, Any] = {
    "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "image_size": 8,
    "patch_size": 4,
}   # fmt: skip


def _rope(kind: str, theta: float = 10000.0, **parameters: Any) -> dict[str, Any]:
    return {"rope_type": kind, "rope_theta": theta, **parameters}


LLAMA3 = _rope(
    "llama3", 500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64
)
CASES = {
    case.name: case
    for case in (
        Case("mha", old=True),
        Case("gqa-tied-head16", {
            "num_key_value_heads": 2, "head_dim": 16, "tie_word_embeddings": True, "vocab_size": 1009,
        }, dtype="bfloat16"),
        Case("mqa-bias-head20", {"num_key_value_heads": 1, "head_dim": 20, "attention_bias": True}),
        Case("biases-gelu-head10", {
            "hidden_size": 40, "attention_bias": True, "mlp_bias": True, "hidden_act": "gelu",
            "num_key_value_heads": 2,
        }, dtype="float16"),
        Case("linear-gelu-tanh-sharded", {
            "rope_parameters": _rope("linear", factor=4.0), "hidden_act": "gelu_pytorch_tanh", "head_dim": 16,
        }, shard="20KB"),
        Case("dynamic-below", {"rope_parameters": _rope("dynamic", factor=2.0), "num_key_value_heads": 2}),
        Case("dynamic-beyond", {
            "rope_parameters": _rope("dynamic", factor=2.0), "head_dim": 16, "max_position_embeddings": 12,
        }, lengths=(10, 3, 14)),
        Case("dynamic-beyond-old-head6", {
            "rope_parameters": _rope("dynamic", 1000.0, factor=3.0), "head_dim": 6, "max_position_embeddings": 8,
            "num_key_value_heads": 1, "tie_word_embeddings": True,
        }, old=True, lengths=(5, 9)),
        Case("llama3-head64-old", {
            "rope_parameters": LLAMA3, "head_dim": 64, "num_key_value_heads": 1, "num_hidden_layers": 1,
        }, old=True, lengths=(20, 33)),
        Case("yarn", {
            "rope_parameters": _rope("yarn", factor=4.0, original_max_position_embeddings=16),
            "hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1,
        }, lengths=(30, 12)),
        Case("yarn-factor-untruncated", {
            "rope_parameters": _rope(
                "yarn", factor=2.5, original_max_position_embeddings=32, attention_factor=0.9, truncate=False,
                beta_fast=8.0, beta_slow=0.5,
            ),
            "head_dim": 16, "num_key_value_heads": 2,
        }, dtype="float16", lengths=(30, 2, 9)),
        Case("yarn-mscale-sharded", {
            "rope_parameters": _rope(
                "yarn", factor=8.0, original_max_position_embeddings=8, mscale=1.2, mscale_all_dim=0.7
            ),
            "head_dim": 8, "mlp_bias": True, "tie_word_embeddings": True, "vocab_size": 1009, "intermediate_size": 51,
        }, dtype="bfloat16", shard="30KB", lengths=(25, 6, 3, 1)),
    )
}   # fmt: skip
"""Every feature of the family once at least: heads, biases, activations, rope scalings, head sizes, file layouts."""

KNOWN = dict(CASES)   # and those of other families, once their module is imported

def every(cases: Mapping[str, Case]) -> pytest.MarkDecorator:
    """A test for each case. Those of one family run in one process, which imports and makes what they share."""
    return pytest.mark.parametrize("case", [
        pytest.param(case, id=name, marks=pytest.mark.xdist_group(name if case.model == "Llama" else case.model))
        for name, case in cases.items()
    ])   # fmt: skip


_FOLDER = tempfile.TemporaryDirectory(prefix="trtc-models-")   # gone when the tests end
LIMITS: dict[str, Any] = {"max_batch_size": 4, "max_input_len": 40, "max_seq_len": 48}


@cache
def checkpoint(name: str) -> Path:
    """The folder of one of the cases, written once."""
    return write(KNOWN[name], Path(_FOLDER.name) / name)


def write(case: Case, folder: Path, seed: int = 0) -> Path:
    """Save the model in ``folder``, and return it."""
    kind = getattr(transformers, f"{case.model}{case.head}")
    values = copy.deepcopy({**SMALLEST, **case.config})
    if "text_config" in kind.config_class.sub_configs:
        tied = values["tie_word_embeddings"]
        values = {"text_config": values, "vision_config": SMALLEST_EYE, "tie_word_embeddings": tied}
    model = kind(kind.config_class(**values))
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.named_parameters():
        tensor.data = _random(name, tensor.shape, generator)
        if is_norm(name) and case.model.startswith(("Gemma", "Nemotron")):   # adds the 1 itself
            tensor.data -= 1
    for name, tensor in model.named_buffers():
        if name.endswith("e_score_correction_bias"):
            tensor.data = torch.randn(tensor.shape, generator=generator) / 4
    shard = {"max_shard_size": case.shard} if case.shard else {}
    model.to(DTYPES[case.dtype]).save_pretrained(folder, **shard, save_original_format=not case.stacked)
    if case.old:
        _rewrite_config(folder / "config.json")
    if case.published:
        republish(folder, case.published)
    return folder


def _random(name: str, shape: tuple[int, ...], generator: Any) -> Any:
    """Numbers that keep activations near 1, logits near 1/2, and let attention choose."""
    noise = torch.randn(shape, generator=generator)
    if is_norm(name):
        return 1 + noise / 4
    if name.endswith("bias"):
        return noise / 2
    if any(part in name for part in EMBEDDINGS):   # where they are tied, the embedding makes the logits
        return noise / 2 / shape[1] ** 0.5
    return noise * (2 if any(part in name for part in QUERIES) else 1) / shape[-1] ** 0.5


def is_norm(name: str) -> bool:
    return "norm" in name or ".ln_" in name


def _rewrite_config(file: Path) -> None:
    """The same config as transformers 4 wrote it."""
    config = json.loads(file.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    kind = rope.pop("rope_type")
    config["rope_scaling"] = None if kind == "default" else {"type": kind, **rope}
    config["torch_dtype"] = config.pop("dtype")
    if config["head_dim"] * config["num_attention_heads"] == config["hidden_size"]:
        del config["head_dim"]
    file.write_text(json.dumps(config))


def torch_tensors(path: Path) -> dict[str, Any]:
    """The tensors of a file, or of a folder with one, as safetensors reads them for torch."""
    return import_module("safetensors.torch").load_file(path / "model.safetensors" if path.is_dir() else path)


def opened(path: Path) -> Checkpoint:
    """The checkpoint there, of a model that is the generic decoder."""
    checkpoint = open_checkpoint(path)
    assert isinstance(checkpoint, Checkpoint)
    return checkpoint


def weights_of_model(path: Path) -> dict[str, Any]:
    """Each weight that the decoder asks for, by role, as the checkpoint there has it."""
    checkpoint = opened(path)
    found = converter.recorded(checkpoint)
    return {role: np.ascontiguousarray(materialize(value, checkpoint.source)) for role, value in found.items()}


def tokens(case: Case, seed: int = 1) -> list[Ints]:
    """For each sequence its prompt, and the tokens that the decode steps are fed."""
    random = np.random.default_rng(seed)
    vocab = {**SMALLEST, **case.config}["vocab_size"]
    return [random.integers(0, vocab, length + STEPS).astype(np.int32) for length in case.lengths]


def reference(folder: Path, case: Case, dtype: str) -> list[Floats]:
    """transformers' logits of each sequence by itself: after the prompt, then after each decode step.

    Weights are rounded to ``dtype``, arithmetic is in f32.
    """
    return _reference(folder, case.name, dtype)


@cache
def _reference(folder: Path, name: str, dtype: str) -> list[Floats]:
    return fresh_reference(folder, KNOWN[name], dtype)


def fresh_reference(folder: Path, case: Case, dtype: str) -> list[Floats]:
    """What `reference` gives, of a case that is not among CASES."""
    model = load(folder, dtype)
    return [_decode(model, ids, length) for ids, length in zip(tokens(case), case.lengths, strict=True)]


def load(folder: Path, dtype: str = "float32") -> Any:
    """transformers' model of a checkpoint, weights rounded to ``dtype``, arithmetic in f32."""
    folder = folder / THEIRS if (folder / THEIRS).exists() else folder
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if model.config.model_type == "mpt":   # transformers 5 can take alibi_bias_max, but does not pass it
        build, greatest = model.transformer.build_mpt_alibi_tensor, model.config.attn_config.alibi_bias_max
        model.transformer.build_mpt_alibi_tensor = partial(build, alibi_bias_max=greatest)
    scales = [t for name, t in model.named_buffers() if name.endswith("embed_scale")]   # rounded as a tensor would be
    for weight in (*model.parameters(), *scales):   # not what it computes on its own, such as angles
        weight.data = weight.data.to(DTYPES[dtype]).float()
    return model.eval()


def _decode(model: Any, ids: Ints, prompt: int) -> Floats:
    for part in model.modules():
        if hasattr(part, "rotary_emb"):   # dynamic scaling remembers the longest sequence it has seen
            part.rotary_emb = type(part.rotary_emb)(model.config.get_text_config())
    past, rows = None, list[Floats]()
    with torch.no_grad():
        for part in (ids[:prompt], *ids[prompt:].reshape(-1, 1)):
            out = model(torch.tensor(part[None].astype(np.int64)), past_key_values=past, use_cache=True)
            past = out.past_key_values
            rows.append(out.logits[0, -1].numpy())
    return np.stack(rows)


def calls(case: Case) -> Iterator[tuple[Ints, Ints, Ints]]:
    """input_ids, input_lengths, past_lengths of each call: one prefill of all prompts, padded, then decode steps."""
    ids, lengths = tokens(case), np.array(case.lengths, np.int32)
    prompts = np.zeros((len(ids), max(case.lengths)), np.int32)
    for row, sequence, length in zip(prompts, ids, case.lengths, strict=True):
        row[:length] = sequence[:length]
    yield prompts, lengths, np.zeros_like(lengths)
    for step in range(STEPS):
        new = [[sequence[length + step]] for sequence, length in zip(ids, case.lengths, strict=True)]
        yield np.array(new, np.int32), np.ones_like(lengths), lengths + step


def graph_logits(graph: Graph, source: MappedSource, case: Case) -> Floats:
    """Logits [sequence, call, word] of the case's calls by the graph's own meaning."""
    sizes = {"B": len(case.lengths), "M": max(case.lengths) + STEPS}
    caches = {
        i.key: np.zeros([evaluate(s, sizes) for s in i.shape], i.dtype.numpy)
        for i in graph.inputs
        if i.key.endswith("_cache")
    }
    rows: list[Floats] = []
    for ids, lengths, past in calls(case):
        step = {"input_ids": ids, "input_lengths": lengths, "past_lengths": past}
        outputs = graph.evaluate({**source, **caches, **step})
        caches = {key: outputs[key] for key in caches}
        rows.append(outputs["logits"])
    return np.stack(rows, 1)


def engine_logits(bundle: EngineBundle, case: Case) -> Floats:
    """Logits [sequence, call, word] of the case's calls by the engine, as the runtime runs it."""
    session = open_session(bundle, SessionOptions(threads=2))
    session.start(len(case.lengths), max(case.lengths) + STEPS)
    return np.stack([session.forward(*call).copy() for call in calls(case)], 1)
