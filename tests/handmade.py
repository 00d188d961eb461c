"""Engine bundles made by hand, for tests that need no compiler."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

TENSORS = {"f32": TensorProto.FLOAT, "f16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16, "i32": TensorProto.INT32}
HEADS, KV_HEADS, HEAD_SIZE, VOCAB = 4, 2, 8, 32
CACHE_SHAPE = ["B", KV_HEADS, "M", HEAD_SIZE]
EOS = 257   # of the byte tokenizer, after the 256 bytes in order and bos


def tensor(name: str, dtype: str, *shape: int | str, **extra: str) -> dict[str, Any]:
    """One entry of ``inputs`` or ``outputs``."""
    return {"name": name, "dtype": dtype, "shape": list(shape), **extra}


STEP = [tensor("input_ids", "i32", "B", "S"), tensor("input_lengths", "i32", "B"), tensor("past_lengths", "i32", "B")]


def write_bundle(
    folder: Path,
    nodes: list[onnx.NodeProto],
    weights: dict[str, np.ndarray[Any, Any]],
    *,
    vocab_size: int,
    logits: str = "f32",
    inputs: list[dict[str, Any]] | None = None,
    outputs: list[dict[str, Any]] | None = None,
    files: dict[str, str | bytes] | None = None,
    **changes: Any,
) -> Path:
    """Write a bundle whose graph is ``nodes`` over the step's inputs and ``inputs``."""
    inputs = STEP + (inputs or [])
    outputs = [tensor("logits", logits, "B", vocab_size)] + (outputs or [])
    def info(t: dict[str, Any]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(t["name"], TENSORS[t["dtype"]], t["shape"])

    constants = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph(nodes, "tiny", list(map(info, inputs)), list(map(info, outputs)), constants)
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    contents: dict[str, bytes] = {"rank0/model.onnx": model.SerializeToString()}
    for name, content in (files or {}).items():
        contents[name] = content if isinstance(content, bytes) else content.encode()
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    spec: dict[str, Any] = {
        "format": "trtc-engine", "version": 1, "trtc_version": "0.1.0",
        "target": {"name": "onnx", "version": "1.0"}, "pipeline": "canonicalize",
        "source": {"path": "tiny", "format": "huggingface", "architecture": "TinyForCausalLM"}, "model": {},
        "dtype": "float32", "limits": {"max_batch_size": 4, "max_input_len": 16, "max_seq_len": 48},
        "vocab_size": vocab_size,
        "cache": {"layers": 1, "kv_heads": KV_HEADS, "head_size": HEAD_SIZE, "dtype": "f32", "bytes_per_token": 128},
        "bounds": {"B": [1, 4], "S": [1, 16], "M": [1, 48]},
        "ranks": [{"rank": 0, "engine": "rank0/model.onnx", "inputs": inputs, "outputs": outputs}],
        "generation": {"bos_token_id": None, "eos_token_ids": [], "pad_token_id": None}, "tokenizer": None,
        "files": {n: {"sha256": hashlib.sha256(c).hexdigest(), "bytes": len(c)} for n, c in contents.items()},
        **changes,
    }   # fmt: skip
    (folder / "engine.json").write_text(json.dumps(spec))
    return folder


@dataclass
class Tiny:
    """A bundle of a random one-layer attention model, and the model's meaning in NumPy."""

    path: Path
    weights: dict[str, np.ndarray[Any, Any]]

    def logits(self, token_ids: list[int]) -> np.ndarray[Any, Any]:
        """Return the logits after ``token_ids``, computed at once, without a cache; softmax(q k^T / sqrt(D)) v."""
        w, length = self.weights, len(token_ids)
        x = w["embedding"][token_ids]
        q, k, v = np.split(x @ w["qkv"], [HEADS * HEAD_SIZE, (HEADS + KV_HEADS) * HEAD_SIZE], axis=-1)
        q = q.reshape(length, HEADS, HEAD_SIZE)[-1]
        k, v = (np.repeat(t.reshape(length, KV_HEADS, HEAD_SIZE), HEADS // KV_HEADS, axis=1) for t in (k, v))
        scores = np.einsum("hd,lhd->hl", q, k) / np.sqrt(HEAD_SIZE)
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = np.einsum("hl,lhd->hd", shares / shares.sum(-1, keepdims=True), v).reshape(-1)
        return (x[-1] + mixed @ w["out"]) @ w["head"]

    def greedy(self, token_ids: list[int], count: int) -> list[int]:
        """Return the ``count`` likeliest next tokens, one after the other."""
        ids = list(token_ids)
        for _ in range(count):
            ids.append(int(self.logits(ids).argmax()))
        return ids[len(token_ids) :]


def write_tiny(folder: Path) -> Tiny:
    """GroupQueryAttention of ONNX Runtime over a cache that it updates in place; logits of each last real token."""
    random, width = np.random.default_rng(7), HEADS * HEAD_SIZE
    shapes = {"embedding": (VOCAB, width), "qkv": (width, 64), "out": (width, width), "head": (width, VOCAB)}
    weights = {name: random.normal(size=shape).astype(np.float32) / 3 for name, shape in shapes.items()}
    constants = {"axis": np.array([0], np.int64), "one": np.array(1, np.int32), "last": np.array([1], np.int64)}
    caches = ["layers.0.key_cache", "layers.0.value_cache"]
    node = helper.make_node
    nodes = [
        node("Gather", ["embedding", "input_ids"], ["x"]),
        node("MatMul", ["x", "qkv"], ["packed"]),
        node("Add", ["past_lengths", "input_lengths"], ["total"]),
        node("Sub", ["total", "one"], ["seqlens_k"]),
        node("ReduceMax", ["total", "axis"], ["longest"], keepdims=0),
        node(
            "GroupQueryAttention", ["packed", "", "", *caches, "seqlens_k", "longest"],
            ["mixed", *(f"{name}.next" for name in caches)],
            domain="com.microsoft", num_heads=HEADS, kv_num_heads=KV_HEADS,
        ),
        node("MatMul", ["mixed", "out"], ["projected"]),
        node("Add", ["x", "projected"], ["y"]),
        node("Sub", ["input_lengths", "one"], ["at"]),
        node("Unsqueeze", ["at", "last"], ["at1"]),
        node("Cast", ["at1"], ["at64"], to=TensorProto.INT64),
        node("GatherND", ["y", "at64"], ["y_last"], batch_dims=1),
        node("MatMul", ["y_last", "head"], ["logits"]),
    ]   # fmt: skip
    path = write_bundle(
        folder, nodes, {**weights, **constants}, vocab_size=VOCAB,
        inputs=[tensor(name, "f32", *CACHE_SHAPE) for name in caches],
        outputs=[tensor(f"{name}.next", "f32", *CACHE_SHAPE, alias=name) for name in caches],
    )   # fmt: skip
    return Tiny(path, weights)


def reference_tokenizer(folder: Path) -> Any:
    """Return transformers' tokenizer of a checkpoint."""
    import transformers

    auto: Any = transformers.AutoTokenizer
    return auto.from_pretrained(folder)


def byte_tokenizer() -> str:
    """Return a tokenizer.json whose token i is the byte i, then bos and eos; it adds neither."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))   # GPT-2's characters for bytes that do not print
    tokenizer: Any = Tokenizer(models.BPE({chr(b if b in printable else next(others)): b for b in range(256)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    return tokenizer.to_str()


def write_script(
    folder: Path, text: str | list[int], more_files: dict[str, str] | None = None, **changes: Any
) -> Path:
    """Write a bundle of a model that knows one text by heart: after n tokens, whatever they are, comes its token n.

    The right token's logit is 10, all others are 0.
    """
    token_ids = list(text.encode()) if isinstance(text, str) else text
    table = np.zeros((64, 258), np.float32)
    table[np.arange(len(token_ids)), token_ids] = 10
    nodes = [
        helper.make_node("Add", ["past_lengths", "input_lengths"], ["total"]),
        helper.make_node("Gather", ["table", "total"], ["logits"]),
    ]
    generation = {"bos_token_id": None, "eos_token_ids": [EOS], "pad_token_id": None}
    files = {"tokenizer.json": byte_tokenizer(), **(more_files or {})}
    options: dict[str, Any] = {"files": files, "tokenizer": "tokenizer.json", "generation": generation, **changes}
    return write_bundle(folder, nodes, {"table": table}, vocab_size=258, **options)
