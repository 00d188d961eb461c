"""The options of ``trtllm-build``, each mapped to one of ``trtc compile``, or answered with what replaced it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trtc.errors import TrtcError

if TYPE_CHECKING:
    from trtc.ir.target import Target


@dataclass(frozen=True)
class Classic:
    """What became of an option.

    Args:
        to: the option of ``trtc compile`` that it is now, with the same value.
        says: what replaced it, or what else is to be known of what it is now, in one line.
        switch: it is on where nothing, ``enable`` or ``true`` follows, and off where ``disable`` or ``false`` does.
        refused: an engine would not be what is asked for, so none is built.
        only: the target that has it; for others it is answered by what ``says``.
        usual: values with which it asks for what trtc does anyway: nothing is said.
    """

    to: str = ""
    says: str = ""
    switch: bool = False
    refused: bool = False
    only: str = ""
    usual: tuple[str, ...] = ()


OWN = "TensorRT's own kernels do it; --plugins adds trtc's where one helps"
BEAMS = "the engine takes as many sequences for each of --max-batch-size; trtc run searches no beams"
PADDED = "batches are ragged by the lengths of their sequences, which engines take as inputs"
FUSED = "attention is one fused kernel wherever the target has one; trtc inspect --layers shows it"
CACHE = "caches are whole buffers, updated in place; target cuda has paged ones"
ONE = "an engine is for one device"
LORA = "adapters are not built into engines: merge them into the checkpoint"
DRAFTS = "engines do not check drafts of other models"
SIZES = "what a checkpoint says of the model's sizes decides"
QUANTISED = "what a checkpoint says of its quantisation decides"
PROMPTS = "engines take no embeddings of prompts"
ON, OFF = ("enable", "true"), ("disable", "false")
TO = {
    name: Classic(to=f"--{name.replace('_', '-')}")
    for name in (
        "max_batch_size", "max_input_len", "max_seq_len", "max_num_tokens", "opt_num_tokens",
        "input_timing_cache", "output_timing_cache", "profiling_verbosity", "workers", "dtype",
    )
}   # fmt: skip
SWITCHES = {
    name: Classic(to=f"--{name.replace('_', '-')}", switch=True)
    for name in (
        "multiple_profiles", "strip_plan", "weight_streaming", "weight_sparsity", "enable_debug_output", "dry_run",
        "monitor_memory",
    )
}   # fmt: skip
PLUGINS = (
    "bert_attention_plugin", "gemm_plugin", "gemm_swiglu_plugin", "fp8_rowwise_gemm_plugin", "moe_plugin",
    "mamba_conv1d_plugin", "low_latency_gemm_plugin", "low_latency_gemm_swiglu_plugin", "lookup_plugin",
    "identity_plugin", "layernorm_plugin", "rmsnorm_plugin", "use_gemm_plugin", "use_bert_attention_plugin",
    "use_lookup_plugin", "use_identity_plugin", "use_layernorm_plugin", "use_rmsnorm_plugin",
)   # fmt: skip
TABLE: Mapping[str, Classic] = {
    **TO,
    **SWITCHES,
    **{name: Classic(says=OWN, usual=OFF) for name in PLUGINS},
    **{name: Classic(says=FUSED) for name in (
        "gpt_attention_plugin", "use_gpt_attention_plugin", "context_fmha", "context_fmha_fp32_acc", "enable_xqa",
        "enable_context_fmha", "enable_context_fmha_fp32_acc", "bert_context_fmha_fp32_acc", "multi_block_mode",
        "use_context_fmha_for_generation", "attention_qk_half_accumulation", "use_paged_context_fmha",
        "use_fp8_context_fmha",
    )},
    **{name: Classic(says=QUANTISED, usual=OFF) for name in (
        "smooth_quant_gemm_plugin", "smooth_quant_plugins", "weight_only_groupwise_quant_matmul_plugin",
        "weight_only_quant_matmul_plugin", "quantize_per_token_plugin", "quantize_tensor_plugin",
        "rmsnorm_quantization_plugin", "layernorm_quantization_plugin", "fuse_fp4_quant",
    )},
    **{name: Classic(says="the builder fuses what it can; the passes are trtc's (trtc passes)", usual=OFF) for name in (
        "norm_quant_fusion", "reduce_fusion", "use_fused_mlp",
    )},
    **{name: Classic(says=ONE, usual=OFF) for name in (
        "nccl_plugin", "use_custom_all_reduce", "user_buffer", "pp_reduce_scatter", "gemm_allreduce_plugin",
        "gpus_per_node", "cluster_key",
    )},
    **{name: Classic(says=QUANTISED, refused=True, usual=OFF) for name in (
        "use_weight_only", "weight_only_precision", "use_smooth_quant", "smoothquant", "per_group", "per_channel",
        "per_token", "group_size", "int8_kv_cache", "fp8_kv_cache", "enable_fp8", "use_fp8", "quantization", "qformat",
        "kv_cache_dtype", "quantized_fp8_model_path", "quant_ckpt_path",
    )},
    **{name: Classic(says=SIZES) for name in (
        "vocab_size", "n_positions", "n_layer", "n_head", "n_kv_head", "n_embd", "inter_size", "hidden_act",
        "multiple_of", "ffn_dim_multiplier", "rms_norm_eps", "rotary_base", "rotary_pct", "rotary_scaling",
        "bias", "no_bias", "moe_num_experts", "moe_top_k",
    )},
    **{name: Classic(says=ONE, refused=True, usual=("1",)) for name in (
        "auto_parallel", "world_size", "tp_size", "pp_size", "cp_size", "moe_tp_size", "moe_ep_size",
    )},
    "rank": Classic(says=ONE, refused=True, usual=("0",)),
    **{name: Classic(to="--paged-kv-cache", says=CACHE, switch=True, only="cuda") for name in (
        "paged_kv_cache", "kv_cache_type",
    )},
    "tokens_per_block": Classic(says="pages hold 64 tokens, always", usual=("64",)),
    "max_tokens_in_paged_kv_cache": Classic(says="trtc run --kv-cache-tokens N says what the pool of pages holds"),
    "paged_state": Classic(says=CACHE),
    "streamingllm": Classic(says="caches hold every token of a sequence", refused=True, usual=OFF),
    "max_beam_width": Classic(to="--max-beam-width", says=BEAMS, usual=("1",)),
    "use_inflight_batching": Classic(says=PADDED),
    "strongly_typed": Classic(says="networks have the checkpoint's types, always", usual=ON),
    "max_encoder_input_len": Classic(says="engines are of decoders, which have no encoder's input"),
    "max_prompt_embedding_table_size": Classic(says=PROMPTS, refused=True, usual=("0",)),
    "max_multimodal_len": Classic(says=PROMPTS, refused=True, usual=("0",)),
    "gather_context_logits": Classic(to="--all-logits", switch=True),
    "gather_all_token_logits": Classic(to="--all-logits", switch=True),
    "gather_generation_logits": Classic(says="the logits of each new token are an output, always"),
    "logits_dtype": Classic(says="logits are float32, always", usual=("float32",)),
    "fast_build": Classic(to="--weightless", switch=True),
    "visualize_network": Classic(to="--dump-ir"),
    "visualize": Classic(says="--dump-ir DIR writes the graph after each pass there"),
    "builder_opt": Classic(to="--optimization-level"),
    "timing_cache": Classic(says="--input_timing_cache and --output_timing_cache are apart"),
    "random_seed": Classic(says="nothing in a build is left to chance but the choice of kernels"),
    **{name: Classic(says=LORA, refused=True, usual=OFF) for name in ("lora_dir", "lora_plugin", "dora_plugin")},
    **{name: Classic(says=LORA) for name in ("lora_ckpt_source", "lora_target_modules", "max_lora_rank")},
    "speculative_decoding_mode": Classic(says=DRAFTS, refused=True),
    "max_draft_len": Classic(says=DRAFTS, refused=True, usual=("0",)),
    "model_config": Classic(says="an engine is of a checkpoint: give its folder to --checkpoint_dir", refused=True),
    "build_config": Classic(says="options are given on the command line, each by its name", refused=True),
    "model_cls_file": Classic(says="a family of models is a config over one decoder, docs/families.md", refused=True),
    "model_cls_name": Classic(says="a family of models is a config over one decoder, docs/families.md", refused=True),
    "use_parallel_embedding": Classic(says=ONE),
    "embedding_sharding_dim": Classic(says=ONE),
    "use_embedding_sharing": Classic(says="an embedding that is the head's weight, too, is stored once, always"),
    "parallel_build": Classic(says="--workers N says how many weights are worked on at a time"),
}   # fmt: skip
"""By name, but for those `APART`."""

LOG_LEVELS = {
    "trace": ["--verbose"], "debug": ["--verbose"], "verbose": ["--verbose"], "info": [],
    "warning": ["--quiet"], "error": ["--quiet"], "internal_error": ["--quiet"],
}   # fmt: skip
SOURCES = ("checkpoint_dir", "model_dir", "meta_ckpt_dir", "nemo_ckpt_path", "ft_model_dir")   # of some version each
APART = (*SOURCES, "output_dir", "max_output_len", "log_level", "remove_input_padding")
LONGEST_INPUT = "1024"   # tokens, where nothing is said


@dataclass(frozen=True)
class Given:
    """One option as it was typed, and the values that follow it; those that lead have none."""

    token: str
    values: list[str]

    @property
    def name(self) -> str:
        return self.token.lstrip("-").replace("-", "_") if self.token.startswith("--") else self.token

    @property
    def value(self) -> str:
        """The one value."""
        if len(self.values) != 1:
            raise TrtcError(f"{self.token} is followed by {len(self.values)} values, but must be by one")
        return self.values[0]

    @property
    def number(self) -> int:
        if not self.value.isdecimal():
            raise TrtcError(f"{self.token} is {self.value}, but must be a number")
        return int(self.value)


def is_classic(arguments: list[str]) -> bool:
    """Whether the arguments of ``trtc compile`` are in words that only ``trtllm-build`` has."""
    for option in _split(arguments):
        if option.name in TABLE and TABLE[option.name].to == f"--{option.name.replace('_', '-')}":
            if TABLE[option.name].switch and option.values:
                return True
        elif option.name in (*TABLE, *APART):
            return True
    return False


def translated(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The arguments of ``trtc compile`` for those of ``trtllm-build``, and lines on what was replaced.

    What is not the original's is left as it is: options of ``trtc compile`` may stand among them.

    Errors:
        TrtcError: an option asks for what no engine here is, or lacks its value.
    """
    options = _split(arguments)
    by_name = {option.name: option for option in options}
    made, lines = _folders(by_name)
    if "remove_input_padding" in by_name and _is_on(by_name["remove_input_padding"]):
        reason = _unpacked(_target(by_name))
        made += [] if reason else ["--packed"]
        lines += [f"--remove_input_padding: {reason}; {PADDED}"] if reason else []
    for option in options:
        if option.name in TABLE:
            native, line = _answer(_switched(option), TABLE[option.name], by_name)
            made += native
            lines += [line] if line else []
        elif option.name not in APART:
            made += [*([option.token] if option.token else []), *option.values]
    return made, lines


def _split(arguments: list[str]) -> list[Given]:
    found = [Given("", [])]
    for argument in arguments:
        if argument.startswith("-"):
            token, equals, value = argument.partition("=")
            found.append(Given(token, [value] if equals else []))
        else:
            found[-1].values.append(argument)
    return found


def _folders(given: Mapping[str, Given]) -> tuple[list[str], list[str]]:
    """What `APART` names, and where the engine goes."""
    made, lines = list[str](), list[str]()
    made += [given[name].value for name in SOURCES if name in given]
    if not {"-o", "output"} & set(given):
        made += ["-o", given["output_dir"].value if "output_dir" in given else "engine_outputs"]
    if "log_level" in given:
        made += LOG_LEVELS[_word(given["log_level"], LOG_LEVELS)]
    if "max_output_len" in given:
        lines.append("--max_output_len: --max-seq-len counts the tokens of a prompt and of its answer")
        prompt = given.get("max_input_len") or Given("--max_input_len", [LONGEST_INPUT])
        if "max_seq_len" not in given:
            made += ["--max-seq-len", str(prompt.number + given["max_output_len"].number)]
    return made, lines


def _switched(option: Given) -> Given:
    """The option; as a switch, if it names a kind of cache."""
    if option.name != "kv_cache_type":
        return option
    return Given(option.token, ["enable" if _word(option, ("paged", "continuous")) == "paged" else "disable"])


def _word(option: Given, known: Collection[str]) -> str:
    """The one value, which is one of some words."""
    word = option.value.lower()
    if word not in known:
        raise TrtcError(f"{option.token} is {option.value}, but must be one of {', '.join(known)}")
    return word


def _answer(option: Given, classic: Classic, given: Mapping[str, Given]) -> tuple[list[str], str]:
    """What an option is now, and what is said of it.

    Args:
        given: all options by their names.
    """
    if classic.only and _is_on(option) and _target(given).name != classic.only:
        return [], f"{option.token}: {classic.says}"
    if classic.switch:
        return ([classic.to] if _is_on(option) else []), ""
    made = [classic.to, option.value] if classic.to else []
    usual = [value.lower() for value in option.values] or ["enable"]
    if not classic.says or all(value in classic.usual for value in usual):
        return made, ""
    if classic.refused:
        raise TrtcError(f"{' '.join([option.token, *option.values])} is asked for, but {classic.says}")
    return made, f"{option.token}: {classic.says}"


def _is_on(option: Given) -> bool:
    """Whether a switch is on."""
    state = option.value.lower() if option.values else "enable"
    if state not in ON + OFF:
        raise TrtcError(f"{option.token} is {state}, but must be enable or disable")
    return state in ON


def _target(given: Mapping[str, Given]) -> Target:
    """What the engine is for."""
    from trtc.backend.backends import default_target
    from trtc.backend.targets import target

    return target(given["target"].value if "target" in given else default_target())


def _unpacked(to: Target) -> str:
    """Why a target takes no packed tokens; empty where it does."""
    from trtc.backend.tensorrt.api import PRODUCTS, api_of
    from trtc.backend.tensorrt.options import KNOWN

    if to.name not in PRODUCTS:
        return f"target {to.name} has no attention over packed tokens"
    return "".join(KNOWN["packed"].lacks(api_of(to.name, to.version))[:1])
