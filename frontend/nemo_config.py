"""model_config.yaml of NeMo's GPT and LLaMA models, checked.

Source: nemo/collections/nlp/models/language_modeling/megatron_gpt_model.py, .../megatron/gpt_model.py of NeMo 1;
megatron/core/transformer/moe/moe_utils.py.
"""

from __future__ import annotations

from typing import Any, Literal, cast

from trtc.frontend.config import DecoderConfig, Keys, MoEConfig, RopeConfig
from trtc.frontend.families.gpt import NO_ROPE
from trtc.frontend.layers import ACTIVATIONS
from trtc.frontend.meta import SCALED
from trtc.frontend.rope import MAX_DIM

Norm = Literal["rms", "layer"]
NORMS: dict[str, tuple[Norm, int]] = {"layernorm": ("layer", 0), "layernorm1p": ("layer", 1), "rmsnorm": ("rms", 0)}
"""By ``normalization``: the kind, and what is added to its weights."""
ACTS = {
    "gelu": ("gelu", False), "relu": ("relu", False), "squared-relu": ("relu2", False),
    "swiglu": ("silu", True), "fast-swiglu": ("silu", True), "geglu": ("gelu", True), "fast-geglu": ("gelu", True),
    "reglu": ("relu", True), "fast-reglu": ("relu", True),
}   # fmt: skip
"""By ``activation``: ours, and whether a second projection is multiplied by it."""
POSITIONS = ("learned_absolute", "rope")
MAX_WIDTH = 1 << 24   # far beyond any model
REFUSED: dict[str, tuple[Any, ...]] = {
    "headscale": (False,), "rotary_interleaved": (False,), "normalize_attention_scores": (True,),
    "virtual_pipeline_model_parallel_size": (1,), "window_attn_skip_freq": (),
}   # fmt: skip
"""Keys with the only values that are supported, besides none."""
REFUSED_EXPERTS: dict[str, tuple[Any, ...]] = {
    "moe_router_score_function": ("softmax",), "moe_router_num_groups": (), "moe_router_enable_expert_bias": (False,),
    "moe_layer_freq": (1,), "moe_shared_expert_intermediate_size": (),
}   # fmt: skip


def nemo_config(keys: Keys, words: int, *, ranks: int, stages: int, core: bool) -> DecoderConfig:
    """What the decoder is told, by model_config.yaml.

    Args:
        words: rows of the embedding.
        ranks: tensor-parallel ones.
        core: whether the model is of Megatron Core.
    """
    _check_switches(keys)
    hidden, bias = keys.positive("hidden_size"), keys.get(bool, "bias", default=True)
    heads, groups, size = _heads(keys, hidden, ranks)
    (kind, _), (act, gated) = read_norm(keys), _activation(keys, bias, core)
    layers = _multiple(keys, "num_layers", stages, "stages")
    width = _multiple(keys, "ffn_hidden_size", ranks, "ranks", 4 * hidden)
    learned = keys.choice("position_embedding_type", POSITIONS, default=POSITIONS[0]) == POSITIONS[0]
    return DecoderConfig(
        architecture="MegatronGPTModel",
        hidden_size=hidden,
        intermediate_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        head_dim=size,
        vocab_size=words,
        max_position_embeddings=keys.positive("max_position_embeddings", default=keys.positive("encoder_seq_length")),
        norm_eps=keys.above(0, "layernorm_epsilon", default=1e-5),
        rope=NO_ROPE if learned else _rope(keys, size),
        learned_positions=learned,
        hidden_act=act,
        tie_word_embeddings=keys.get(bool, "share_embeddings_and_output_weights", default=True),
        qkv_bias=bias or keys.get(bool, "qkv_bias", default=False),
        dense_bias=bias,
        mlp_bias=bias,
        gated=gated,
        norm=kind,
        norm_bias=kind == "layer",
        qk_norm="head" if _qk_norm(keys, core) else "none",
        windows=_windows(keys, layers),
        moe=_experts(keys, layers, width, ranks),
    )


def _multiple(keys: Keys, key: str, parts: int, what: str, default: int = 0) -> int:
    """A size that the ranks or stages share."""
    number = keys.positive(key, default=default) if default else keys.positive(key)
    if number % parts or number > MAX_WIDTH:
        raise keys.wrong(key, number, f"a multiple of the {parts} {what}, and at most {MAX_WIDTH}")
    return number


def read_norm(keys: Keys) -> tuple[Norm, int]:
    """The kind of norm, and what is added to its weights."""
    kind, added = NORMS[keys.choice("normalization", NORMS, default="layernorm")]
    return kind, added or int(keys.get(bool, "layernorm_zero_centered_gamma", default=False))


def _check_switches(keys: Keys) -> None:
    keys.choice("transformer_block_type", ("pre_ln",), default="pre_ln")
    _check(keys, REFUSED)


def _check(keys: Keys, known: dict[str, tuple[Any, ...]]) -> None:
    for key, only in known.items():
        value = keys.values.get(key)
        if value is not None and not any(type(value) is type(one) and value == one for one in only):
            raise keys.wrong(key, value, str(only[0]).lower() if only else "null")


def _qk_norm(keys: Keys, core: bool) -> bool:
    on = keys.get(bool, "qk_layernorm", default=False)
    if on and not core:
        raise keys.wrong("qk_layernorm", True, "false: NeMo's own form has norms over all heads")
    return on


def _windows(keys: Keys, layers: int) -> tuple[int, ...]:
    """``[W, 0]``: a token sees W keys, itself included, as NeMo's own exporters to Hugging Face's form have it."""
    value: Any = keys.values.get("window_size")
    if value is None:
        return ()
    sizes = cast("list[Any]", value) if isinstance(value, list) else []
    if len(sizes) != 2 or any(type(n) is not int for n in sizes) or sizes[0] == 0 or sizes[0] < -1 or sizes[1] > 0:
        raise keys.wrong("window_size", cast("object", value), "two numbers: the keys that a token sees, and 0")
    return () if sizes[0] == -1 else (sizes[0],) * layers


def _experts(keys: Keys, layers: int, width: int, ranks: int) -> MoEConfig | None:
    """The experts of every layer. Scores are the softmax of the best, or the best of the softmax of all."""
    if keys.values.get("num_moe_experts") is None:
        return None
    _check(keys, REFUSED_EXPERTS)
    count, picks = keys.positive("num_moe_experts"), keys.positive("moe_router_topk", default=2)
    if picks > count:
        raise keys.wrong("moe_router_topk", picks, f"at most num_moe_experts, {count}")
    act, bias = keys.get(str, "activation", default="gelu"), keys.get(bool, "bias", default=True)
    if ACTS.get(act) != ACTS["swiglu"] or bias:
        raise keys.wrong("activation", act, "swiglu, without biases, where there are experts")
    return MoEConfig(
        tuple(range(layers)), count, picks,
        _multiple(keys, "moe_ffn_hidden_size", ranks, "ranks", width),
        norm_topk_prob=not keys.get(bool, "moe_router_pre_softmax", default=False),
        routed_scaling_factor=keys.above(0, "moe_router_topk_scaling_factor", default=1.0),
    )   # fmt: skip


def _heads(keys: Keys, hidden: int, ranks: int) -> tuple[int, int, int]:
    """Those of queries, those of keys and values, and their size."""
    heads = keys.positive("num_attention_heads")
    groups = keys.positive("num_query_groups", default=heads)
    if heads % groups or groups % ranks:
        want = f"a divisor of num_attention_heads, {heads}, and a multiple of the {ranks} ranks"
        raise keys.wrong("num_query_groups", groups, want)
    if keys.values.get("kv_channels") is None and hidden % heads:
        raise keys.wrong("num_attention_heads", heads, f"a divisor of hidden_size, {hidden}")
    return heads, groups, keys.positive("kv_channels", default=hidden // heads)


def _activation(keys: Keys, bias: bool, core: bool) -> tuple[str, bool]:
    """Ours, and whether there is a second projection; gelu that is fused with a bias is the approximation."""
    known = {name: act for name, act in ACTS.items() if act[0] in ACTIVATIONS}
    act, gated = known[keys.choice("activation", known, default="gelu")]
    fused = bias and not (core and gated) and keys.get(bool, "bias_activation_fusion", default=True)
    if act == "gelu" and (fused or keys.get(bool, "openai_gelu", default=False)):
        act = "gelu_pytorch_tanh"
    return act, gated


def _rope(keys: Keys, size: int) -> RopeConfig:
    share = keys.above(0, "rotary_percentage", default=1.0)
    dim, theta = int(size * share), keys.above(1, "rotary_base", default=10000.0)
    if share > 1 or dim < 2 or dim % 2 or dim > MAX_DIM:
        want = f"such that an even number of a head's {size} elements turn, {MAX_DIM} at most"
        raise keys.wrong("rotary_percentage", share, want)
    if keys.get(bool, "scale_positional_embedding", default=False):
        return RopeConfig(theta, dim, "llama3", _scaled(keys))
    if keys.values.get("seq_len_interpolation_factor") is not None:
        return RopeConfig(theta, dim, "linear", {"factor": keys.above(0, "seq_len_interpolation_factor")})
    return RopeConfig(theta, dim)


def _scaled(keys: Keys) -> dict[str, Any]:
    """LLaMA 3.1's scaling, of which NeMo 1 says the factor alone."""
    low, high = (keys.above(0, f"{end}_freq_factor", default=SCALED[f"{end}_freq_factor"]) for end in ("low", "high"))
    if high <= low:
        raise keys.wrong("high_freq_factor", high, f"greater than low_freq_factor, {low:g}")
    return {
        "factor": keys.above(0, "scale_factor", default=8.0), "low_freq_factor": low, "high_freq_factor": high,
        "original_max_position_embeddings": keys.positive("old_context_len", default=8192),
    }   # fmt: skip
