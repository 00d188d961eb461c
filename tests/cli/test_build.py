"""``trtc build``: every option that trtllm-build had is mapped, answered or refused; none is dropped."""

from __future__ import annotations

from pathlib import Path

import models
import pytest
from commandline import MODEL, Trtc

from trtc.cli._classic import APART, TABLE, is_classic, translated
from trtc.errors import TrtcError

WORDS = """
checkpoint_dir=ckpt output_dir=out model_config=c.json build_config=b.json model_cls_file=m.py model_cls_name=M
max_batch_size=4 max_input_len=8 max_seq_len=16 max_beam_width=2 max_num_tokens=64 opt_num_tokens=8 max_output_len=8
max_encoder_input_len=1024 max_prompt_embedding_table_size=8 max_multimodal_len=8
kv_cache_type=paged paged_kv_cache=enable
input_timing_cache=in.cache output_timing_cache=model.cache profiling_verbosity=detailed strip_plan weight_sparsity
weight_streaming fast_build workers=2 log_level=info enable_debug_output visualize_network=dir dry_run monitor_memory
strongly_typed=disable
logits_dtype=float16 gather_context_logits gather_generation_logits gather_all_token_logits
lora_dir=a,b lora_ckpt_source=hf lora_target_modules=attn_q,attn_v max_lora_rank=64
speculative_decoding_mode=medusa max_draft_len=4
auto_parallel=2 gpus_per_node=8 cluster_key=H100
bert_attention_plugin=auto gpt_attention_plugin=float16 gemm_plugin=fp8 gemm_swiglu_plugin=fp8
fp8_rowwise_gemm_plugin=auto lora_plugin=auto dora_plugin=enable moe_plugin=auto mamba_conv1d_plugin=auto
nccl_plugin=auto low_latency_gemm_plugin=fp8 low_latency_gemm_swiglu_plugin=fp8 gemm_allreduce_plugin=float16
lookup_plugin=float16 identity_plugin=float16 layernorm_plugin=float16 rmsnorm_plugin=float16
smooth_quant_gemm_plugin=float16 weight_only_quant_matmul_plugin=float16
weight_only_groupwise_quant_matmul_plugin=float16 quantize_per_token_plugin quantize_tensor_plugin
layernorm_quantization_plugin=float16 rmsnorm_quantization_plugin=float16
context_fmha=enable bert_context_fmha_fp32_acc=enable remove_input_padding=enable tokens_per_block=128
use_paged_context_fmha=enable use_fp8_context_fmha=enable fuse_fp4_quant=enable multiple_profiles=enable
paged_state=enable streamingllm=enable norm_quant_fusion=enable reduce_fusion=enable user_buffer=enable
use_fused_mlp=enable pp_reduce_scatter=enable use_custom_all_reduce=enable multi_block_mode=enable enable_xqa=enable
attention_qk_half_accumulation=enable use_context_fmha_for_generation=enable context_fmha_fp32_acc=enable
use_gemm_plugin=float16 use_gpt_attention_plugin=float16 use_bert_attention_plugin=float16
use_layernorm_plugin=float16 use_rmsnorm_plugin=float16 use_lookup_plugin=float16
model_dir=hf meta_ckpt_dir=meta nemo_ckpt_path=x.nemo ft_model_dir=ft dtype=float16
use_weight_only weight_only_precision=int4 use_smooth_quant smoothquant=0.5 per_group per_channel per_token
group_size=128 int8_kv_cache fp8_kv_cache enable_fp8 use_fp8 quantization=fp8 qformat=fp8 kv_cache_dtype=fp8
quantized_fp8_model_path=x.npz quant_ckpt_path=x.safetensors
vocab_size=32000 n_positions=2048 n_layer=32 n_head=32 n_kv_head=8 n_embd=4096 inter_size=11008 hidden_act=silu
multiple_of=256 ffn_dim_multiplier=1.3 rms_norm_eps=1e-5 rotary_base=10000 rotary_pct=0.25 rotary_scaling=linear,2
bias no_bias moe_num_experts=8 moe_top_k=2
world_size=2 tp_size=2 pp_size=2 cp_size=2 moe_tp_size=2 moe_ep_size=2 rank=1
max_tokens_in_paged_kv_cache=100 visualize builder_opt=3 timing_cache=model.cache random_seed=1
embedding_sharding_dim=1 use_embedding_sharing
"""
"""Every option of the tool's versions, with a value that is not its default."""
FLAGS = WORDS.split()


def answer(flag: str) -> tuple[list[str], list[str], str]:
    """What one option becomes, what is said of it, and why it is refused."""
    name, _, value = flag.partition("=")
    try:
        made, lines = translated([f"--{name}", *([*value.split(",")] if value else []), "-o", "x"])
    except TrtcError as error:
        return [], [], error.message
    return [argument for argument in made if argument not in ("-o", "x")], lines, ""


@pytest.mark.parametrize("flag", FLAGS)
def test_each_is_mapped_or_answered_in_one_line_or_refused(flag: str) -> None:
    name = flag.partition("=")[0]
    made, lines, refused = answer(flag)
    assert name in TABLE or name in APART
    if name not in ("output_dir", "log_level"):   # which -o stands for, and whose "info" is as ever
        assert made or lines or refused
    for line in [*lines, refused]:
        assert "\n" not in line and (not line or line.startswith(f"--{name}"))


def test_the_table_has_no_option_twice_and_none_that_is_not_tested() -> None:
    tested = {flag.partition("=")[0] for flag in FLAGS}
    aliases = {name for name in TABLE if name not in tested}
    assert not set(TABLE) & set(APART)
    assert all(TABLE[name].says and not TABLE[name].to for name in aliases)   # older spellings of what is tested


@pytest.mark.parametrize("flag", [flag for flag in FLAGS if (entry := TABLE.get(flag.partition("=")[0])) and entry.to])
def test_what_is_mapped_is_an_option_of_compile(flag: str, trtc_: Trtc) -> None:
    name, _, value = flag.partition("=")
    only = TABLE[name].only
    made, _ = translated([f"--{name}", *([value] if value else []), *(["--target", only] if only else []), "-o", "x"])
    code, out, _ = trtc_("compile", "--help")
    assert code == 0 and made[0] in out.replace(",", " ").split()


@pytest.mark.parametrize(
    ("arguments", "want"),
    [
        ("--max_output_len 100 --max_input_len 924", ["--max-seq-len", "1024", "--max-input-len", "924"]),
        ("--max_output_len=100", ["--max-seq-len", "1124"]),
        ("--max_output_len 9 --max_seq_len 64", ["--max-seq-len", "64"]),
        ("--log_level verbose", ["--verbose"]),
        ("--strip_plan", ["--strip-plan"]),
        ("--multiple_profiles disable", []),
        ("--gather_context_logits", ["--all-logits"]),
        ("--target tensorrt:10.9 --gemm_plugin disable", ["--target", "tensorrt:10.9"]),
        ("--max_draft_len 0 --auto_parallel 1 --logits_dtype float32", []),
        ("--tp_size 1 --world_size 1 --rank 0 --max_beam_width 1", ["--max-beam-width", "1"]),
        ("--remove_input_padding --target tensorrt:11.0", ["--packed", "--target", "tensorrt:11.0"]),
        ("--remove_input_padding=enable --target=tensorrt-rtx", ["--target", "tensorrt-rtx"]),
        ("--remove_input_padding disable --target tensorrt:11.4", ["--target", "tensorrt:11.4"]),
        ("--remove_input_padding enable", []),
        ("--paged_kv_cache enable --target cuda:90", ["--paged-kv-cache", "--target", "cuda:90"]),
        ("--kv_cache_type paged --tokens_per_block 64 --target cuda", ["--paged-kv-cache", "--target", "cuda"]),
        ("--paged_kv_cache disable --target cuda", ["--target", "cuda"]),
        ("--kv_cache_type continuous --target cuda", ["--target", "cuda"]),
        ("--paged_kv_cache --target onnx", ["--target", "onnx"]),
    ],
)
def test_values(arguments: str, want: list[str]) -> None:
    made, _ = translated(arguments.split())
    assert made == ["-o", "engine_outputs", *want]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--target tensorrt:10.9", "TensorRT 10.9 has no attention over packed tokens: TensorRT 11.0 is the first"),
        ("--target tensorrt-rtx:1.7", "TensorRT-RTX has no attention over packed tokens"),
        ("--target onnx", "target onnx has no attention over packed tokens"),
    ],
)
def test_what_batches_are_where_tokens_are_not_packed(arguments: str, said: str) -> None:
    _, lines = translated(["--remove_input_padding", "enable", *arguments.split()])
    assert len(lines) == 1 and lines[0].startswith(f"--remove_input_padding: {said}")
    assert lines[0].endswith("; batches are ragged by the lengths of their sequences, which engines take as inputs")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--max_output_len many", "--max_output_len is many, but must be a number"),
        ("--workers", "--workers is followed by 0 values, but must be by one"),
        ("--log_level loud", "--log_level is loud, but must be one of trace, debug, verbose, info, "),
        ("--kv_cache_type disabled", "--kv_cache_type is disabled, but must be one of paged, continuous"),
        ("--strip_plan maybe", "--strip_plan is maybe, but must be enable or disable"),
        ("--speculative_decoding_mode eagle", "--speculative_decoding_mode eagle is asked for, but engines"),
    ],
)
def test_mistakes(arguments: str, said: str, trtc_: Trtc) -> None:
    code, out, err = trtc_("build", "--checkpoint_dir", MODEL, *arguments.split())
    assert (code, out) == (2, "") and err.startswith(f"error: {said}")


def test_the_published_example_works_with_the_name_alone_changed(trtc_: Trtc, tmp_path: Path) -> None:
    """The example of the document that introduced the checkpoint format, on a narrow OPT with OPT's positions."""
    pytest.importorskip("onnx")
    opt = models.transformers.OPTConfig(
        hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=2, word_embed_proj_dim=32, vocab_size=96
    )
    models.transformers.OPTForCausalLM(opt).half().save_pretrained(tmp_path / "opt-125m")
    checkpoint, engine = tmp_path / "trt_ckpt" / "fp16" / "1-gpu", tmp_path / "trt_engines" / "fp16" / "1-gpu"
    assert trtc_("convert", tmp_path / "opt-125m", "-o", checkpoint, "--dtype", "float16")[0] == 0
    code, out, err = trtc_(
        "build", "--checkpoint_dir", f"{checkpoint}/", "--use_gemm_plugin", "float16", "--use_gpt_attention_plugin",
        "float16", "--max_batch_size", 8, "--max_input_len", 924, "--max_output_len", 100, "--output_dir", f"{engine}/",
    )   # fmt: skip
    assert (code, out) == (0, "")
    said = err.splitlines()
    assert [line.partition(":")[0] for line in said] == [
        "--max_output_len", "--use_gemm_plugin", "--use_gpt_attention_plugin", "engine",
    ]   # fmt: skip
    _, out, _ = trtc_("inspect", engine)
    assert "limits    8 sequences, 924 new tokens a call, 1024 tokens in all" in out


@pytest.mark.parametrize(
    "arguments",
    [
        "--checkpoint_dir MODEL --output_dir OUT --gemm_plugin auto --dry_run",
        "MODEL --use_gpt_attention_plugin float16 --multiple-profiles disable --dry-run",
        "MODEL --dry-run --max_output_len 100 --max_input_len=64",
    ],
)
def test_compile_takes_these_words_too(arguments: str, trtc_: Trtc, tmp_path: Path) -> None:
    places = {"MODEL": MODEL, "OUT": tmp_path / "out"}
    words = [places.get(word, word) for word in arguments.split()]
    code, out, err = trtc_("compile", *words)
    assert (code, err.count("\n")) == (0, 1) and out.startswith("target ") and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", ["MODEL --dtype float16 --max_seq_len 64", "MODEL --strip-plan -o x", ""])
def test_words_of_its_own_are_left_alone(arguments: str) -> None:
    assert not is_classic(arguments.split())


def test_without_arguments_it_says_what_it_wants(trtc_: Trtc) -> None:
    code, _, err = trtc_("build")
    assert code == 2 and err.startswith("error: there is no --checkpoint_dir, but it must say what is compiled\n")
    code, _, err = trtc_("build", "--checkpoint_dir", MODEL, "--max-batch-sice", 3)
    assert (code, err) == (2, (
        "error: --max-batch-sice is given, but neither trtllm-build nor trtc compile has such an option\n"
        "  = help: did you mean `--max-batch-size`?\n  = help: trtc compile --help\n"
    ))   # fmt: skip
