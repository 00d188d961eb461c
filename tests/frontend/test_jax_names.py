"""Gemma's own library and MaxText: the same model as in Hugging Face's form.

Both are written as the published converters go from Hugging Face's names to theirs, or back.
"""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
from models import LIMITS, Case
from orbax_files import write_orbax
from sources import same_weights

import trtc
from trtc.errors import TrtcError
from trtc.frontend import Limits, open_checkpoint
from trtc.ir.types import bf16, f32

pytest.importorskip("tensorstore")
load_file: Any = import_module("safetensors.torch").load_file
Tree = dict[tuple[str, ...], Any]
SMALL = {"hidden_size": 32, "head_dim": 16, "num_attention_heads": 4, "intermediate_size": 48, "vocab_size": 96}
TANH = {"hidden_act": "gelu_pytorch_tanh", "tie_word_embeddings": True}
GEMMA = Case("gemma-1", {**SMALL, **TANH, "num_key_value_heads": 1}, model="Gemma")
HEADS = Case("gemma-1-heads", {**SMALL, **TANH, "num_key_value_heads": 4, "intermediate_size": 32}, dtype="bfloat16",
             model="Gemma")   # fmt: skip
GEMMA2 = Case("gemma-2", {
    **SMALL, **TANH, "num_key_value_heads": 2, "sliding_window": 4, "query_pre_attn_scalar": 16,
}, model="Gemma2")   # fmt: skip
SQUARE = Case("gemma-2-square", {**SMALL, **TANH, "num_key_value_heads": 2, "intermediate_size": 32}, model="Gemma2")
GEMMA3 = Case("gemma-3", {
    **SMALL, **TANH, "num_key_value_heads": 2, "sliding_window": 4, "query_pre_attn_scalar": 16,
}, model="Gemma3", head="ForCausalLM")   # fmt: skip


def arrays_of(hf: Path) -> dict[str, Any]:
    """Hugging Face's tensors as arrays of their own types."""
    tensors = load_file(hf / "model.safetensors")
    return {k: t.float().numpy().astype(np.dtype(str(t.dtype).removeprefix("torch."))) for k, t in tensors.items()}


def gemma_tree(hf: Path, config: dict[str, Any], *, direct: bool = False) -> Tree:
    """The tree of Gemma's library.

    Args:
        direct: the arrays of the feed-forward block are called as the modules are, without ``w`` below.
    """
    t, later = arrays_of(hf), "Gemma" in config["architectures"][0] and config["architectures"][0] != "GemmaForCausalLM"
    heads, groups, size, hidden = (
        config[key] for key in ("num_attention_heads", "num_key_value_heads", "head_dim", "hidden_size")
    )
    made: Tree = {("transformer/embedder", "input_embedding"): t["model.embed_tokens.weight"],
                  ("transformer/final_norm", "scale"): t["model.norm.weight"]}   # fmt: skip
    for n in range(config["num_hidden_layers"]):
        theirs, ours = f"model.layers.{n}", f"transformer/layer_{n}"
        q, k, v = (
            t[f"{theirs}.self_attn.{part}_proj.weight"].reshape(count, size, hidden).transpose(0, 2, 1)
            for part, count in (("q", heads), ("k", groups), ("v", groups))
        )
        if heads == groups:
            made[f"{ours}/attn/qkv_einsum", "w"] = np.stack([q, k, v])
        else:
            made[f"{ours}/attn/q_einsum", "w"] = q
            made[f"{ours}/attn/kv_einsum", "w"] = np.stack([k, v])
        out = t[f"{theirs}.self_attn.o_proj.weight"]
        made[f"{ours}/attn/attn_vec_einsum", "w"] = out.T.reshape(heads, size, hidden)
        gate, up, down = (t[f"{theirs}.mlp.{part}_proj.weight"] for part in ("gate", "up", "down"))
        gating = np.stack([gate, up]) if later else np.stack([gate.T, up.T])
        made[(f"{ours}/mlp", "gating_einsum") if direct else (f"{ours}/mlp/gating_einsum", "w")] = gating
        made[(f"{ours}/mlp", "linear") if direct else (f"{ours}/mlp/linear", "w")] = np.ascontiguousarray(down.T)
        norms = {"pre_attention_norm": "input_layernorm", "pre_ffw_norm": "post_attention_layernorm"}
        if later:
            norms |= {"post_attention_norm": "post_attention_layernorm", "pre_ffw_norm": "pre_feedforward_layernorm",
                      "post_ffw_norm": "post_feedforward_layernorm"}   # fmt: skip
        if f"{theirs}.self_attn.q_norm.weight" in t:
            norms |= {"attn/_query_norm": "self_attn.q_norm", "attn/_key_norm": "self_attn.k_norm"}
        made |= {(f"{ours}/{name}", "scale"): t[f"{theirs}.{other}.weight"] for name, other in norms.items()}
    return made


def write_gemma(case: Case, folder: Path, *, stated: bool = True, **form: Any) -> tuple[Path, Path]:
    hf, made = models.write(case, folder / "hf"), folder / "gemma"
    config = json.loads((hf / "config.json").read_text())
    write_orbax(gemma_tree(hf, config, direct=form.pop("direct", False)), made, **form)
    if stated:
        (made / "config.json").write_bytes((hf / "config.json").read_bytes())
    return hf, made


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("case", [GEMMA, HEADS, GEMMA2, SQUARE, GEMMA3], ids=lambda case: case.name)
def test_gemma_is_that_of_the_hugging_face_form(case: Case, direct: bool, tmp_path: Path) -> None:
    hf, made = (open_checkpoint(path) for path in write_gemma(case, tmp_path, direct=direct, database=not direct))
    assert made.format == "jax" and made.config == hf.config and made.dtype == hf.dtype
    same_weights(hf, made)


def test_gemma_without_a_config(tmp_path: Path) -> None:
    """Of the first Gemma, shapes and what all of them share say everything."""
    case = Case("gemma-bare", {
        **SMALL, **TANH, "num_key_value_heads": 1, "max_position_embeddings": 8192, "rms_norm_eps": 1e-6,
        "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0,
    }, model="Gemma")   # fmt: skip
    hf, made = (open_checkpoint(path) for path in write_gemma(case, tmp_path, stated=False))
    assert made.config == hf.config and made.generation == hf.generation
    same_weights(hf, made)


PUBLISHED: list[tuple[str, dict[str, Any]]] = [
    ("Gemma2", {"num_hidden_layers": 26, "sliding_window": 4096, "query_pre_attn_scalar": 256}),
    ("Gemma3", {"num_hidden_layers": 26, "sliding_window": 512, "query_pre_attn_scalar": 256,
                "max_position_embeddings": 32768}),
    ("Gemma3", {"num_hidden_layers": 34, "sliding_window": 1024, "query_pre_attn_scalar": 256,
                "max_position_embeddings": 131072, "rope_parameters": {
                    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
                }}),
]   # fmt: skip


@pytest.mark.parametrize(("model", "config"), PUBLISHED)
def test_published_gemmas_without_a_config(model: str, config: dict[str, Any], tmp_path: Path) -> None:
    """transformers' defaults are those of the published models but for what is stated."""
    case = Case("published", {
        "hidden_size": 16, "head_dim": 8, "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 96,
        "intermediate_size": 24, "max_position_embeddings": 8192, "rms_norm_eps": 1e-6, **TANH, **config,
    }, model=model)   # fmt: skip
    hf, made = (models.opened(path).config for path in write_gemma(case, tmp_path, stated=False))
    if made.local_rope and hf.local_rope:
        made, hf = (replace(c, local_rope=replace(c.local_rope, parameters=None)) for c in (made, hf) if c.local_rope)
    assert made == hf


def test_gemmas_of_no_published_size(tmp_path: Path) -> None:
    _, made = write_gemma(GEMMA2, tmp_path, stated=False)
    assert error_of(made) == (
        "there is no config.json beside JAX, and its 2 layers are not those of a published Gemma: 26, 42, 46"
    )


def maxtext_tree(hf: Path, config: dict[str, Any], *, scanned: bool = True) -> Tree:
    """The tree of MaxText, as its converters make it."""
    t, gemma = arrays_of(hf), config["model_type"] == "gemma"
    heads, groups, hidden = (config[key] for key in ("num_attention_heads", "num_key_value_heads", "hidden_size"))
    size, rope = config["head_dim"], config["rope_parameters"]["rope_type"]
    root = ("params", "params")
    before, after = (f"{side}_self_attention_layer_norm" for side in ("pre", "post"))
    before, after = ("pre_self_attention_norm", "pre_ffw_norm") if gemma else (before, after)
    norm = {"input_layernorm": before, "post_attention_layernorm": after}
    added, factor = (1, hidden**0.5) if gemma else (0, 1)
    pad = np.zeros((32, hidden), t["model.embed_tokens.weight"].dtype)
    made: Tree = {
        (*root, "token_embedder", "embedding"): np.concatenate([t["model.embed_tokens.weight"] * factor, pad]),
        (*root, "decoder", "decoder_norm", "scale"): t["model.norm.weight"] + added,
    }   # fmt: skip
    if "lm_head.weight" in t:
        made[(*root, "decoder", "logits_dense", "kernel")] = np.ascontiguousarray(t["lm_head.weight"].T)
    layers: list[dict[tuple[str, ...], Any]] = []
    for n in range(config["num_hidden_layers"]):
        own = f"model.layers.{n}"
        q, k, v = (
            t[f"{own}.self_attn.{part}_proj.weight"].T.reshape(hidden, count, size)
            for part, count in (("q", heads), ("k", groups), ("v", groups))
        )
        if rope == "llama3":   # permute_to_match_maxtext_rope
            q, k = (np.stack(np.split(x, 2, -1), -1).reshape(x.shape) for x in (q, k))
        layers.append({
            ("self_attention", "query", "kernel"): q / np.asarray(size**0.5, q.dtype),
            ("self_attention", "key", "kernel"): k, ("self_attention", "value", "kernel"): v,
            ("self_attention", "out", "kernel"): t[f"{own}.self_attn.o_proj.weight"].T.reshape(heads, size, hidden),
            **{("mlp", name, "kernel"): t[f"{own}.mlp.{part}_proj.weight"].T
               for name, part in (("wi_0", "gate"), ("wi_1", "up"), ("wo", "down"))},
            **{(name, "scale"): t[f"{own}.{part}.weight"] + added for part, name in norm.items()},
        })   # fmt: skip
    for path in layers[0]:
        if scanned:
            made[(*root, "decoder", "layers", *path)] = np.stack([layer[path] for layer in layers], 1)
            continue
        for n, layer in enumerate(layers):
            made[(*root, "decoder", f"layers_{n}", *path)] = np.ascontiguousarray(layer[path])
    return made


LLAMA3 = {"rope_parameters": {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}}   # fmt: skip
MAXTEXT = {
    case.name: case for case in (
        Case("maxtext-llama", {**SMALL, "num_key_value_heads": 2}),
        Case("maxtext-llama-3.1", {**SMALL, **LLAMA3, "num_key_value_heads": 2}, dtype="bfloat16"),
        Case("maxtext-mistral", {**SMALL, "num_key_value_heads": 2, "sliding_window": 8}, model="Mistral"),
        Case("maxtext-gemma", {**SMALL, **TANH, "num_key_value_heads": 1, "hidden_size": 64}, model="Gemma"),
    )
}   # fmt: skip
"""Heads of 16 and a hidden size of 64, so that the factors are powers of two, and lose nothing."""


def write_maxtext(case: Case, folder: Path, **form: Any) -> tuple[Path, Path]:
    hf, made = models.write(case, folder / "hf"), folder / "maxtext"
    if case.model == "Gemma":   # norms that lose nothing by the 1
        save: Any = import_module("safetensors.torch").save_file
        rounded = load_file(hf / "model.safetensors")
        save({k: (v * 256).round() / 256 if "norm" in k else v for k, v in rounded.items()}, hf / "model.safetensors",
             {"format": "pt"})   # fmt: skip
    config = json.loads((hf / "config.json").read_text())
    write_orbax(maxtext_tree(hf, config, **form), made / "0/items")
    (made / "config.json").write_bytes((hf / "config.json").read_bytes())
    return hf, made


@pytest.mark.parametrize("scanned", [True, False], ids=["scanned", "apart"])
@pytest.mark.parametrize("case", MAXTEXT.values(), ids=MAXTEXT)
def test_maxtext_is_that_of_the_hugging_face_form(case: Case, scanned: bool, tmp_path: Path) -> None:
    hf, made = (open_checkpoint(path) for path in write_maxtext(case, tmp_path, scanned=scanned))
    assert made.format == "jax" and made.config == hf.config and made.dtype == hf.dtype
    same_weights(hf, made)


@pytest.mark.parametrize("form", ["maxtext-llama-3.1", "gemma-2"])
def test_an_engine_gives_the_logits_of_transformers(form: str, tmp_path: Path) -> None:
    case = MAXTEXT.get(form, GEMMA2)
    hf, made = write_maxtext(case, tmp_path) if form in MAXTEXT else write_gemma(case, tmp_path)
    expected = np.stack(models.fresh_reference(hf, case, "float32"))
    bundle = trtc.compile(made, tmp_path / "engine", target="onnx", dtype="float32", **LIMITS)
    np.testing.assert_allclose(models.engine_logits(bundle, case), expected, rtol=0, atol=2e-4)   # orders of sums


def test_a_layer_of_a_scanned_array_is_read_alone(tmp_path: Path) -> None:
    source = open_checkpoint(write_maxtext(MAXTEXT["maxtext-llama"], tmp_path)[1]).source
    name = "params/params/decoder/layers/mlp/wi_0/kernel"
    assert source[name].shape == (32, 2, 48)
    for n in range(2):
        np.testing.assert_array_equal(source[f"{name}/{n}"], source[name][:, n])


def error_of(folder: Path) -> str:
    with pytest.raises(TrtcError) as error:
        open_checkpoint(folder).graph(Limits(2, 8, 16), f32)
    return str(error.value).replace(str(folder), "JAX").removeprefix("error: ")


def change(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_what_does_not_fit(tmp_path: Path) -> None:
    _, made = write_maxtext(MAXTEXT["maxtext-llama"], tmp_path)
    change(made, num_hidden_layers=3)
    assert error_of(made) == (
        "array params/params/decoder/layers/pre_self_attention_layer_norm/scale is f32[32, 2], but the config asks for "
        "3 layers, along axis 1"
    )
    change(made, num_hidden_layers=2, architectures=["Qwen2ForCausalLM"])
    assert error_of(made) == (
        "JAX/0/items holds a Qwen2ForCausalLM of MaxText, whose names are not known\n"
        "  = help: read are LlamaForCausalLM, MistralForCausalLM, GemmaForCausalLM; others by MaxText's own "
        "to_huggingface.py"
    )
    (made / "config.json").unlink()
    assert error_of(made) == "config.json is missing from JAX"


def test_gemma_arrays_of_other_axes(tmp_path: Path) -> None:
    hf = models.write(GEMMA, tmp_path / "hf")
    tree = gemma_tree(hf, json.loads((hf / "config.json").read_text()))
    tree["transformer/layer_0/attn/attn_vec_einsum", "w"] = np.zeros((4, 4), bf16.numpy)
    write_orbax(tree, tmp_path / "made")
    assert error_of(tmp_path / "made") == (
        "array transformer/layer_0/attn/attn_vec_einsum/w is bf16[4, 4], but must have 3 axes"
    )
