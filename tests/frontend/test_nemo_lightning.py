"""NeMo 2 and Megatron Bridge: the same model as in Hugging Face's form, its config as their classes dump it."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import distributed_files
import models
import pytest
from distributed_models import BIASED, EXPERTS, LLAMA, NORMS, SCALED, TIED, WINDOWS, error_of, state_of
from fuzz import cases
from hypothesis import given, settings
from hypothesis import strategies as st
from models import Case
from sources import same_weights

from trtc.errors import TrtcError
from trtc.frontend.nemo_config import nemo_config
from trtc.frontend.nemo_lightning import translated

pytest.importorskip("tensorstore")
yaml: Any = import_module("yaml")


def function(name: str) -> dict[str, Any]:
    return {"_call_": False, "_target_": name}


def lightning(config: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The fields of a config of NeMo 2 or Megatron Bridge, as both dump them."""
    rope = config["rope_parameters"]
    return {
        "_target_": "nemo.collections.llm.gpt.model.llama.Llama3Config8B", "activation_func": function(
            "torch.nn.functional.silu"
        ), "add_bias_linear": False, "add_qkv_bias": False, "bias_activation_fusion": True, "fp8": None,
        "gated_linear_unit": True, "hidden_size": config["hidden_size"], "kv_channels": config.get("head_dim"),
        "ffn_hidden_size": config["intermediate_size"], "layernorm_epsilon": 1e-5,
        "layernorm_zero_centered_gamma": False, "normalization": "RMSNorm",
        "num_attention_heads": config["num_attention_heads"], "num_layers": config["num_hidden_layers"],
        "num_query_groups": config.get("num_key_value_heads"),
        "moe_router_topk": 2, "num_moe_experts": None, "position_embedding_type": "rope", "qk_layernorm": False,
        "rotary_base": rope["rope_theta"], "rotary_interleaved": False, "rotary_percent": 1.0,
        "seq_len_interpolation_factor": None, "seq_length": 64, "softmax_scale": None, "window_size": None,
        "share_embeddings_and_output_weights": config["tie_word_embeddings"], "multi_latent_attention": False,
        **changes,
    }   # fmt: skip


LLAMA3 = {"scale_factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "old_context_len": 32}
IDS = {"generation_config": {"config_dict": {"bos_token_id": 7, "eos_token_id": [8, 9], "pad_token_id": None}}}
SECOND: dict[str, tuple[Case, dict[str, Any]]] = {
    "llama": (LLAMA, {}), "llama-3.1": (SCALED, LLAMA3), "tied": (TIED, {}), "mixtral": (EXPERTS, {
        "num_moe_experts": 4, "_target_": "nemo.collections.llm.gpt.model.mixtral.MixtralConfig8x7B",
    }), "mistral": (WINDOWS, {"window_size": [6, 0]}), "qwen3": (NORMS, {"qk_layernorm": True}), "biases": (BIASED, {
        "normalization": "LayerNorm", "add_bias_linear": True, "gated_linear_unit": False,
        "activation_func": function("torch.nn.functional.gelu"),
    }),
}   # fmt: skip


def write_second(case: Case, folder: Path, *, bridge: bool = False, **changes: Any) -> tuple[Path, Path]:
    """The model in both forms: Hugging Face's folder, and a folder of NeMo 2's, or of an iteration of Bridge's."""
    hf, config, state = state_of(case, folder, stack=True, root="" if bridge else "module.")
    made = folder / "made"
    weights = made if bridge else made / "weights"
    weights.mkdir(parents=True)
    distributed_files.write_torch(state, weights, 2)
    fields = lightning(config, **IDS, **changes)
    if bridge:
        provider = "megatron.bridge.models.llama.llama_provider.LlamaModelProvider"
        (made / "run_config.yaml").write_text(yaml.safe_dump({"model": {**fields, "_target_": provider}, "peft": None}))
        return hf, made
    model = {"_target_": "nemo.collections.llm.gpt.model.llama.LlamaModel", "config": fields, "optim": None}
    (made / "context").mkdir()
    (made / "context/model.yaml").write_text(yaml.safe_dump(model))
    return hf, made


@pytest.mark.parametrize("bridge", [False, True], ids=["nemo2", "bridge"])
@pytest.mark.parametrize("form", SECOND)
def test_nemo_2_and_megatron_bridge(form: str, bridge: bool, tmp_path: Path) -> None:
    case, changes = SECOND[form]
    hf, nemo = (models.opened(path) for path in write_second(case, tmp_path, bridge=bridge, **changes))
    same = {"architecture": "", "rope": hf.config.rope, "norm_eps": 0}
    ours, theirs = ({**vars(c.config), **same} for c in (nemo, hf))
    assert ours == theirs
    assert (nemo.config.rope.theta, nemo.config.rope.kind) == (hf.config.rope.theta, hf.config.rope.kind)
    stated = nemo.config.rope.parameters or {}
    assert all((hf.config.rope.parameters or {})[key] == value for key, value in stated.items())
    assert nemo.generation == {"bos_token_id": 7, "eos_token_ids": [8, 9], "pad_token_id": None}
    same_weights(hf, nemo)


def test_a_tokenizer_in_the_context_goes_into_the_engine(tmp_path: Path) -> None:
    _, made = write_second(LLAMA, tmp_path)
    (made / "context/nemo_tokenizer").mkdir()
    (made / "context/nemo_tokenizer/tokenizer.json").write_text("{}")
    (made / "context/tokenizer.json").write_text("{}")
    assert [file.name for file in models.opened(made).tokenizer_files] == ["tokenizer.json"]


C = "context/model.yaml: "
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"hidden_size": None}, (
        f"{C}config.hidden_size is missing\n"
        "  = help: the class of the config has it, but the file has not; export to Hugging Face's form"
    )),
    ({"multi_latent_attention": True}, f"{C}config.multi_latent_attention is true, but must be false"),
    ({"softmax_scale": 0.5}, f"{C}config.softmax_scale is 0.5, but must be null"),
    ({"normalization": "rms"}, f'{C}config.normalization is "rms", but must be one of RMSNorm, LayerNorm'),
    ({"activation_func": function("torch.nn.functional.selu")}, (
        f'{C}config.activation_func is {{"_call_": false, "_target_": "torch.nn.functional.selu"}}, but must be '
        "one of silu, gelu, relu, squared_relu"
    )),
    ({"num_layers": 3}, (
        "tensor module.decoder.layers.self_attention.linear_qkv.layer_norm_weight is f32[2, 32], but the config asks "
        "for f32[3, 32]\n  = help: the tensors and the config are of different models"
    )),
]   # fmt: skip


@pytest.mark.parametrize(("changes", "message"), WRONG)
def test_wrong_configs_name_the_key(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    assert error_of(write_second(LLAMA, tmp_path, **changes)[1]) == message


def test_classes_of_other_models(tmp_path: Path) -> None:
    _, made = write_second(LLAMA, tmp_path)
    file = made / "context/model.yaml"
    file.write_text(file.read_text().replace("llama.LlamaModel", "gemma.GemmaModel"))
    assert error_of(made) == (
        f"{C}_target_ is GemmaModel, but must begin with one of GPT, Llama, Mistral, Mixtral, Qwen2, Qwen25, Qwen3, "
        "Nemotron, Starcoder2"
    )
    file.write_text("{}")
    assert error_of(made) == f"{C}config is missing"
    file.rename(made / "context/io.json")
    assert error_of(made) == (
        "NEMO holds context/io.json, but must hold context/model.yaml, which says the config\n"
        "  = help: save it with a newer NeMo 2, or export it to Hugging Face's form"
    )


anything = st.none() | st.booleans() | st.integers(-2, 100) | st.floats() | st.text(max_size=6) | (
    st.lists(st.integers(-2, 100), max_size=3) | st.dictionaries(st.text(max_size=3), st.integers(), max_size=2)
)
FIELDS = lightning({
    "rope_parameters": {"rope_theta": 1e4}, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4,
    "num_hidden_layers": 2, "tie_word_embeddings": True,
})   # fmt: skip


@settings(max_examples=cases(1000), deadline=None)
@given(st.dictionaries(st.sampled_from([*FIELDS, *LLAMA3]), anything, max_size=4))
def test_any_config_is_taken_or_refused(changes: dict[str, Any]) -> None:
    target = {"_target_": "nemo.collections.llm.gpt.model.llama.LlamaModel"}
    try:
        keys = translated({**target, "config": {**FIELDS, **changes}}, "context/model.yaml")
        config = nemo_config(keys, 96, ranks=1, stages=1, core=True)
    except TrtcError:
        return
    assert config.hidden_size > 0 and config.num_hidden_layers > 0
