"""GGUF files: blocks mean what llama.cpp's package says, models give transformers' logits, no file does harm."""

from __future__ import annotations

import math
import struct
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import gguf_files
import models
import numpy as np
import pytest
from fuzz import cases
from hypothesis import given, settings
from hypothesis import strategies as st
from models import LIMITS, Case

import trtc
from trtc.compiler import read_model
from trtc.errors import TrtcError
from trtc.frontend import Limits, open_checkpoint
from trtc.frontend.quantized.ggml import DEQUANTIZE, Bytes
from trtc.frontend.sources.gguf import BLOCKS
from trtc.frontend.weights import Weights
from trtc.ir.materialize import materialize
from trtc.ir.ops import Weight
from trtc.ir.types import f32, u8

gguf: Any = import_module("gguf")
FOLDER = tempfile.TemporaryDirectory(prefix="trtc-gguf-")   # gone when the tests end
FUZZED = Path(FOLDER.name) / "tiny.gguf"
CLOSE = 5e-5   # what differs is the order of sums alone, as in test_families.py
SMALL: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 96, "num_key_value_heads": 2, "num_hidden_layers": 1,
}   # fmt: skip
K: dict[str, Any] = {**SMALL, "hidden_size": 256, "intermediate_size": 256, "num_attention_heads": 8}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}   # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16}
CASES: dict[str, tuple[Case, tuple[str, ...]]] = {
    "LLAMA": (Case("llama", {**SMALL, "attention_bias": True}), ("Q8_0", "Q4_0")),
    "LLAMA-k": (Case("llama-k", K), ("Q4_K", "Q6_K", "Q5_K", "Q3_K", "Q2_K", "IQ4_XS")),
    "LLAMA-3.1": (Case("llama3", {
        **SMALL, "hidden_size": 128, "head_dim": 64, "rope_parameters": LLAMA3,
        "max_position_embeddings": 65536,
    }), ("Q5_1",)),
    "LLAMA-3.2": (Case("llama3.2", {
        **SMALL, "hidden_size": 128, "head_dim": 64, "rope_parameters": {**LLAMA3, "factor": 32.0},
        "max_position_embeddings": 131072, "tie_word_embeddings": True,
    }), ("F16",)),
    "LLAMA-other": (Case("llama3-other", {
        **SMALL, "rope_parameters": {**LLAMA3, "original_max_position_embeddings": 32, "high_freq_factor": 3.0},
    }, lengths=(30, 2)), ("F32",)),
    "PHI3": (Case("phi3", {**SMALL, "sliding_window": None}, model="Phi3"), ("Q8_0", "F16")),
    "PHI3-longrope": (Case("phi3-longrope", {
        **SMALL, "sliding_window": None, "original_max_position_embeddings": 16, "rope_parameters": {
            "rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 0.5,
            "short_factor": [1.0, 1.1, 1.25, 1.5], "long_factor": [1.0, 1.5, 2.5, 4.0],
        },
    }, lengths=(13, 20, 3), model="Phi3"), ("F16",)),
    "QWEN2": (Case("qwen2", {**SMALL, "tie_word_embeddings": True}, model="Qwen2"), ("BF16",)),
    "QWEN3": (Case("qwen3", {**SMALL, "head_dim": 32, "rope_parameters": YARN}, model="Qwen3"), ("Q4_1", "F16")),
    "GEMMA": (Case("gemma", {
        **SMALL, "head_dim": 16, "hidden_act": "gelu_pytorch_tanh", "tie_word_embeddings": True,
    }, model="Gemma"), ("Q5_0",)),
    "GEMMA2": (Case("gemma2", {
        **SMALL, "num_hidden_layers": 2, "head_dim": 32, "sliding_window": 4, "tie_word_embeddings": True,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 0.7, "query_pre_attn_scalar": 32,
    }, lengths=(11, 1, 4), model="Gemma2"), ("Q8_0",)),
    "OLMO2": (Case("olmo2", SMALL, model="Olmo2"), ("F16", "F32")),
    "GRANITE": (Case("granite", {
        **SMALL, "embedding_multiplier": 12.0, "attention_multiplier": 0.4, "residual_multiplier": 0.22,
        "logits_scaling": 0.8,
    }, model="Granite"), ("Q8_0",)),
    "LLAMA-experts": (Case("mixtral", {
        **SMALL, "num_local_experts": 3, "num_experts_per_tok": 2, "sliding_window": None,
    }, model="Mixtral"), ("Q8_0", "Q5_0")),
    "QWEN3MOE": (Case("qwen3moe", {
        **SMALL, "head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
        "norm_topk_prob": True,
    }, model="Qwen3Moe"), ("Q4_1", "F32")),
    "STARCODER2": (Case("starcoder2", {**SMALL, "sliding_window": None}, model="Starcoder2"), ("Q4_0", "Q8_0")),
}   # fmt: skip


ENGINES = ("LLAMA", "LLAMA-k", "GEMMA2")   # the others by the graph's own meaning


@pytest.mark.parametrize("kind", BLOCKS, ids=[name for name, _, _ in BLOCKS.values()])
@given(st.integers(0, 2**32))
def test_blocks_mean_what_the_package_says(kind: int, seed: int) -> None:
    (name, _, width), random = BLOCKS[kind], np.random.default_rng(seed)
    raw = random.integers(0, 256, (5, width), dtype=np.uint8)
    with np.errstate(all="ignore"):
        want = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType(kind))
    got = materialize(DEQUANTIZE[name](Bytes(Weight("w", u8[5, width]))), {"w": raw})
    np.testing.assert_array_equal(got, want)   # bit for bit: the same products and sums, in the same order


@pytest.mark.parametrize("name", CASES)
def test_models_give_the_logits_of_transformers(name: str, tmp_path: Path) -> None:
    case, kinds = CASES[name]
    file, plain = gguf_files.write(case, name.partition("-")[0], kinds, tmp_path)
    expected = np.stack(models.fresh_reference(plain, case, "float32"))
    assert expected.std() > 0.1   # words differ, or agreement would say little
    if name in ENGINES:
        bundle = trtc.compile(file, tmp_path / "engine", target="onnx", dtype="float32", **LIMITS)
        assert bundle.source.format == "gguf" and bundle.source.architecture == f"{case.model}ForCausalLM"
        got = models.engine_logits(bundle, case)
    else:
        model = read_model(file, dtype="float32", **LIMITS)
        got = models.graph_logits(model.graph, model.checkpoint.source, case)
    np.testing.assert_allclose(got, expected, rtol=0, atol=CLOSE)


def test_experts_of_2023_lie_one_by_one(tmp_path: Path) -> None:
    case, kinds = CASES["LLAMA-experts"]
    file, plain = gguf_files.write(case, "LLAMA", kinds, tmp_path, alone=True)
    expected = np.stack(models.fresh_reference(plain, case, "float32"))
    model = read_model(file, dtype="float32", **LIMITS)
    assert "blk.0.ffn_gate.2.weight" in model.checkpoint.source
    got = models.graph_logits(model.graph, model.checkpoint.source, case)
    np.testing.assert_allclose(got, expected, rtol=0, atol=CLOSE)


def test_several_files(tmp_path: Path) -> None:
    case, kinds = CASES["QWEN2"]
    first, plain = gguf_files.write(case, "QWEN2", kinds, tmp_path, parts=3)
    second = first.with_name("tiny-00002-of-00003.gguf")
    found = [models.opened(path) for path in (first, second, tmp_path)]
    assert {str(c.graph(LIMIT, f32)) for c in found} == {str(found[0].graph(LIMIT, f32))}
    assert all(len(c.source.files) == 3 and c.folder == tmp_path for c in found)
    expected = np.stack(models.fresh_reference(plain, case, "float32"))
    model = read_model(tmp_path, dtype="float32", **LIMITS)
    got = models.graph_logits(model.graph, model.checkpoint.source, case)
    np.testing.assert_allclose(got, expected, rtol=0, atol=CLOSE)
    second.unlink()
    assert error_of(first) == "tiny-00002-of-00003.gguf is missing from FOLDER\n  = help: fetch it, too"


LIMIT = Limits(2, 8, 16)
METADATA: dict[str, Any] = {
    "general.architecture": "llama", "llama.block_count": 1, "llama.embedding_length": 64,
    "llama.feed_forward_length": 32, "llama.attention.head_count": 4, "llama.context_length": 16,
    "llama.rope.freq_base": 10000.0, "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "tokenizer.ggml.tokens": ["<s>", "", "ä"], "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.eot_token_id": 0, "general.some": [1, 2],
}   # fmt: skip
SHAPES = {
    "token_embd": (11, 64), "output_norm": (64,), "output": (11, 64), "blk.0.attn_norm": (64,), "blk.0.ffn_norm": (64,),
    "blk.0.attn_q": (64, 64), "blk.0.attn_k": (64, 64), "blk.0.attn_v": (64, 64), "blk.0.attn_output": (64, 64),
    "blk.0.ffn_gate": (32, 64), "blk.0.ffn_up": (32, 64), "blk.0.ffn_down": (64, 32),
}   # fmt: skip


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def typed(value: Any) -> bytes:
    """A value with its type before it, as the specification has them."""
    if isinstance(value, list):
        inner = [typed(one) for one in cast("list[Any]", value)]
        return struct.pack("<I", 9) + inner[0][:4] + struct.pack("<Q", len(inner)) + b"".join(one[4:] for one in inner)
    if isinstance(value, str):
        return struct.pack("<I", 8) + text(value)
    if isinstance(value, bool):
        return struct.pack("<IB", 7, value)
    return struct.pack("<If", 6, value) if isinstance(value, float) else struct.pack("<Ii", 5, value)


def serialized(
    kinds: dict[str, int] | None = None, more: dict[str, tuple[int, ...]] | None = None, **keys: Any
) -> bytes:
    """A file of one layer: tensors are zeros, Q8_0 or of the kinds given; keys with __ for a dot."""
    stated = {**METADATA, **{key.replace("__", "."): value for key, value in keys.items()}}
    stated = {key: value for key, value in stated.items() if value is not None}
    head = b"".join(text(key) + typed(value) for key, value in stated.items())
    infos, offset, shapes = b"", 0, {**SHAPES, **(more or {})}
    for name, shape in shapes.items():
        kind = (kinds or {}).get(name, 8 if len(shape) == 2 else 0)
        count = math.prod(shape)
        infos += text(f"{name}.weight") + struct.pack(f"<I{len(shape)}Q", len(shape), *shape[::-1])
        infos += struct.pack("<IQ", kind, offset)
        offset += -(-(count // 32 * 34 if kind == 8 else count * 4) // 32) * 32
    whole = b"GGUF" + struct.pack("<IQQ", 3, len(shapes), len(stated)) + head + infos
    return whole + b"\0" * (-len(whole) % 32) + b"\0" * offset


def error_of(path: Path) -> str:
    with pytest.raises(TrtcError) as error:
        open_checkpoint(path).graph(LIMIT, f32)
    folder = path if path.is_dir() else path.parent
    return str(error.value).replace(str(folder), "FOLDER").removeprefix("error: ")


GOOD = serialized()
AGAIN = "\n  = help: the file is cut short or is no GGUF file; fetch it again"
BAD = "tiny.gguf cannot be read as a GGUF file: "
ERRORS: list[tuple[bytes, str]] = [
    (b"", f"{BAD}it is empty{AGAIN}"),
    (b"GGML" + GOOD[4:], f"{BAD}it begins with b'GGML', but must begin with b'GGUF'{AGAIN}"),
    (b"version https://git-lfs", (
        f"{BAD}it begins with b'vers', but must begin with b'GGUF'\n"
        "  = help: this is a pointer of Git LFS; `git lfs pull` fetches the file"
    )),
    (GOOD[:4] + struct.pack("<I", 1) + GOOD[8:], f"{BAD}its version is 1, but must be 2 or 3{AGAIN}"),
    (GOOD[:4] + struct.pack(">I", 3) + GOOD[8:], (
        f"{BAD}its version is 50331648 (it is big-endian), but must be 2 or 3{AGAIN}"
    )),
    (GOOD[:30], f"{BAD}it has 30 bytes, but 8 are asked for from byte 24 on{AGAIN}"),
    (GOOD[:-9], f"{BAD}it has {len(GOOD) - 9} bytes, but tensor blk.0.ffn_down.weight ends at byte {len(GOOD)}{AGAIN}"),
    (GOOD[:8] + struct.pack("<Q", 1 << 60) + GOOD[16:], "cut"),
    (GOOD[:16] + struct.pack("<Q", 1 << 60) + GOOD[24:], "cut"),
    (GOOD.replace(struct.pack("<IQ", 8, 3), struct.pack("<IQ", 8, 1 << 60)), (
        f"{BAD}it has {len(GOOD)} bytes, but an array asks for {1 << 60} strings{AGAIN}"
    )),
    (serialized(general__architecture=None), "tiny.gguf: general.architecture is missing"),
    (serialized(general__architecture="lama"), (
        "tiny.gguf: architecture lama of GGUF is unknown\n  = help: did you mean `llama`?"
    )),
    (serialized(general__architecture="bert"), (
        "tiny.gguf: architecture bert of GGUF is unknown\n"
        "  = help: one of llama, qwen2, qwen3, gemma, gemma2, phi3, olmo2, granite, starcoder2, qwen3moe"
    )),
    (serialized(llama__embedding_length=None), "tiny.gguf: llama.embedding_length is missing"),
    (serialized(general__architecture="gemma", gemma__expert_count=8), (
        "tiny.gguf: gemma.expert_count is 8, but must be 0"
    )),
    (serialized(general__architecture="qwen3moe"), "tiny.gguf: qwen3moe.expert_count is 0, but must be at least 1"),
    (serialized(llama__expert_count=8, llama__expert_used_count=2), (
        "tensor blk.0.ffn_gate_inp.weight is missing from tiny.gguf\n  = help: did you mean `blk.0.ffn_gate.weight`?"
    )),
    (serialized(llama__rope__dimension_count=8), (
        "tiny.gguf: llama.rope.dimension_count is 8, but must be 16, the size of a head"
    )),
    (serialized(llama__rope__scaling__type="longrope"), (
        'tiny.gguf: llama.rope.scaling.type is "longrope", but must be one of none, linear, yarn'
    )),
    (serialized(more={"rope_freqs": (8,)}), (
        "tiny.gguf: rope_scaling.short_factor is [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], but must be a list of 8 "
        "numbers above 0"
    )),
    (serialized(more={"rope_freqs": (4,)}), (
        "tensor rope_freqs.weight is f32[4], but must have 8 numbers, one a pair that turns"
    )),
    (serialized(general__alignment=0), f"{BAD}general.alignment is 0, but must be in 1..1048576{AGAIN}"),
    (serialized({"blk.0.attn_q": 17}), (
        "tiny.gguf: tensor blk.0.attn_q.weight is IQ2_XS, but must be one of F32, F16, BF16, I8, I32, I64, Q4_0, Q4_1, "
        "Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS"
    )),
    (serialized({"blk.0.attn_q": 12}), (
        f"{BAD}tensor blk.0.attn_q.weight has rows of 64 numbers, but Q4_K comes in blocks of 256{AGAIN}"
    )),
    (serialized(llama__feed_forward_length=64), (
        "tensor blk.0.ffn_gate.weight is u8[32, 2, 34], but the config asks for u8[64, 2, 34]\n"
        "  = it is transformer.layers.0.mlp.fc.weight\n"
        "  = help: the tensors and the config are of different models"
    )),
]   # fmt: skip


@pytest.mark.parametrize(("content", "message"), ERRORS, ids=range(len(ERRORS)))
def test_errors(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "tiny.gguf").write_bytes(content)
    got = error_of(tmp_path / "tiny.gguf")
    assert got == message or (message == "cut" and got.startswith(BAD) and got.endswith(AGAIN))


def test_a_folder_of_several_models(tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(GOOD)
    assert error_of(tmp_path) == (
        "FOLDER holds 2 models of GGUF, but must hold one\n  = help: give one file of a.gguf, b.gguf"
    )
    assert error_of(tmp_path / "c.gguf") == "FOLDER/c.gguf cannot be read: No such file or directory"


def test_what_a_file_says(tmp_path: Path) -> None:
    (tmp_path / "tiny.gguf").write_bytes(GOOD)
    checkpoint = models.opened(tmp_path / "tiny.gguf")
    assert checkpoint.generation == {"bos_token_id": 1, "eos_token_ids": [2, 0], "pad_token_id": None}
    assert (checkpoint.dtype, checkpoint.config.vocab_size) == ("float16", 11)   # quantised
    assert not checkpoint.config.tie_word_embeddings and checkpoint.tokenizer_files == []
    (tmp_path / "tokenizer.json").write_text("{}")
    assert [f.name for f in models.opened(tmp_path / "tiny.gguf").tokenizer_files] == ["tokenizer.json"]


ROLE = "transformer.layers.0.attention.q.weight"
HEADER = GOOD.index(b"blk.0.ffn_down") + 50
numbers = st.sampled_from([0, 1, 2, 3, 7, 8, 9, 12, 31, 255, 1 << 31, (1 << 63) - 1, (1 << 64) - 1])
changes = st.lists(st.tuples(st.integers(0, HEADER), st.sampled_from("BIQ"), numbers), min_size=1, max_size=4)


@settings(max_examples=cases(1000), deadline=None)
@given(changes, st.integers(0, len(GOOD)) | st.just(len(GOOD)))
def test_any_file_is_taken_or_refused(changed: list[tuple[int, str, int]], size: int) -> None:
    content = bytearray(GOOD)
    for place, kind, number in changed:
        width = struct.calcsize(f"<{kind}")
        struct.pack_into(f"<{kind}", content, place, number % (1 << 8 * width))
    FUZZED.write_bytes(content[:size])
    try:
        checkpoint = models.opened(FUZZED)
        checkpoint.graph(LIMIT, f32).verify()
        weight = Weights(checkpoint.source, checkpoint.expression, f32)(ROLE, 64, 64)
        assert materialize(weight, checkpoint.source).shape == (64, 64) and checkpoint.generation
    except TrtcError:
        pass


keys = st.sampled_from([key for key in METADATA if key.startswith(("llama", "general", "tokenizer"))])
anything = st.booleans() | st.integers(-2, 100) | st.integers(-(1 << 31), (1 << 31) - 1) | st.floats(width=32) | (
    st.text(max_size=3) | st.lists(st.integers(0, 9), min_size=1, max_size=3)
)


@settings(max_examples=cases(600), deadline=None)
@given(st.dictionaries(keys, st.none() | anything, max_size=3))
def test_any_metadata_is_taken_or_refused(changed: dict[str, Any]) -> None:
    FUZZED.write_bytes(serialized(**{key.replace(".", "__"): value for key, value in changed.items()}))
    try:
        checkpoint = models.opened(FUZZED)
        checkpoint.graph(LIMIT, f32).verify()
        assert checkpoint.generation
    except TrtcError:
        pass
