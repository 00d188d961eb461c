"""Meta's directories of LLaMA: params.json, consolidated.*.pth, tokenizer.model.

Source: llama/model.py and llama/generation.py of Meta's repositories llama and llama3.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trtc.errors import TrtcError
from trtc.frontend.checkpoint import Checkpoint, Format, holds, read_json
from trtc.frontend.config import DecoderConfig, Keys, RopeConfig
from trtc.frontend.rope import MAX_DIM
from trtc.frontend.sources.torch_zip import TorchSource
from trtc.frontend.tiktoken import FILE, is_tiktoken, read_ranks, tokenizer_of
from trtc.frontend.weights import Wanted, named
from trtc.ir.op import Value
from trtc.ir.ops import Concat, Reshape, Transpose

LAYER = "transformer.layers.{n}"
KEYS = {
    "transformer.vocab_embedding": "tok_embeddings",
    f"{LAYER}.input_layernorm": "layers.{n}.attention_norm",
    f"{LAYER}.attention.q": "layers.{n}.attention.wq",
    f"{LAYER}.attention.k": "layers.{n}.attention.wk",
    f"{LAYER}.attention.v": "layers.{n}.attention.wv",
    f"{LAYER}.attention.dense": "layers.{n}.attention.wo",
    f"{LAYER}.post_layernorm": "layers.{n}.ffn_norm",
    f"{LAYER}.mlp.fc": "layers.{n}.feed_forward.w1",
    f"{LAYER}.mlp.gate": "layers.{n}.feed_forward.w3",
    f"{LAYER}.mlp.proj": "layers.{n}.feed_forward.w2",
    "transformer.ln_f": "norm",
    "lm_head": "output",
}
COLUMNS = (".wo", ".w2")   # what the files split by columns; the rest they split by rows
EMBEDDING = "tok_embeddings"
SCALED = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""What ``use_scaled_rope`` stands for, LLaMA 3.1."""
MAX_WIDTH, MAX_FACTOR = 1 << 24, 1000   # far beyond any model, and their product still counts
LLAMA3_WORDS = 128000   # before the special ones


@dataclass(frozen=True)
class Join:
    """One weight over the tensors of the files: parts joined, rows of q and k put in halves.

    Args:
        prefixes: of the keys of each file.
        embedding: the axis by which the files split the embedding.
        key: without ``.weight``.
        heads: of q or k; 0 for the others.
    """

    prefixes: tuple[str, ...]
    embedding: int
    key: str
    heads: int

    def __call__(self, wanted: Wanted) -> Value:
        shape = wanted.shape
        if len(shape) == 1:
            return wanted.fetch(f"{self.prefixes[0]}{self.key}.weight", *shape)   # each file has all of it
        axis = self.embedding if self.key == EMBEDDING else int(self.key.endswith(COLUMNS))
        sizes = [n // len(self.prefixes) if i == axis else n for i, n in enumerate(shape)]
        parts = tuple(wanted.fetch(f"{prefix}{self.key}.weight", *sizes) for prefix in self.prefixes)
        whole = parts[0] if len(parts) == 1 else Concat(parts, axis)
        return in_halves(whole, self.heads, *shape) if self.heads else whole


def in_halves(rows: Value, heads: int, count: int, width: int) -> Value:
    """Rows of q or k whose rotary pairs are neighbours, in the order where a pair is one of each half of a head."""
    pairs = count // (2 * heads)
    return Reshape(Transpose(Reshape(rows, (heads, pairs, 2, width)), (0, 2, 1, 3)), (count, width))


def open_meta(folder: Path) -> Checkpoint:
    """The checkpoint of a directory that Meta gave out."""
    raw, files = read_json(folder / "params.json"), _files(folder)
    several = len(files) > 1
    source = TorchSource(folder, files, apart=several)
    prefixes = tuple(f"{Path(name).stem}/" if several else "" for name in files)
    rows, columns = _embedding(source, prefixes[0])
    keys = Keys(raw, "params.json")
    axis = int(columns != keys.positive("dim"))
    config = meta_config(keys, len(files), rows if axis else rows * len(files))
    heads = {".wq": config.num_attention_heads, ".wk": config.num_key_value_heads}
    names = {role: Join(prefixes, axis, key, heads.get(key[-3:], 0)) for role, key in KEYS.items()}
    ranks = read_ranks(folder / FILE) if is_tiktoken(folder) else {}
    packed = tokenizer_of(ranks, config.vocab_size, later=config.rope.kind == "llama3") if ranks else ()
    first = len(ranks) or (LLAMA3_WORDS if config.vocab_size > LLAMA3_WORDS else 0)
    weights = named(names, config, source)
    return Checkpoint(folder, "meta", raw, config, source, weights, lambda: _generation(first), packed)


FORMAT = Format("params.json", holds("params.json"), open_meta)


def _files(folder: Path) -> list[str]:
    files = sorted(f.name for f in folder.glob("consolidated.*.pth"))
    if not files:
        raise TrtcError(f"{folder} holds no consolidated.*.pth", "help: fetch the weights, too")
    for name in (f"consolidated.{n:02}.pth" for n in range(len(files))):
        if name not in files:
            raise TrtcError(f"{name} is missing from {folder}, but {files[-1]} is there", "help: fetch it again")
    return files


def _embedding(source: TorchSource, prefix: str) -> tuple[int, int]:
    stored = source.type(f"{prefix}{EMBEDDING}.weight")
    if stored.rank != 2:
        raise TrtcError(f"tensor {prefix}{EMBEDDING}.weight is {stored}, but must have 2 axes")
    rows, columns = stored.shape
    assert isinstance(rows, int) and isinstance(columns, int)
    return rows, columns


def meta_config(keys: Keys, files: int, words: int) -> DecoderConfig:
    """The decoder's config of params.json.

    Args:
        files: among which the model is split.
        words: rows of the embedding, which count where the file gives no ``vocab_size`` or -1.
    """
    dim = keys.positive("dim")
    if dim > MAX_WIDTH:
        raise keys.wrong("dim", dim, f"at most {MAX_WIDTH}")
    heads, kv_heads = _heads(keys, dim, files)
    vocab = words if keys.get(int, "vocab_size", default=-1) == -1 else keys.positive("vocab_size")
    width = _intermediate(keys, dim)
    for what, size in (("vocab_size", vocab), ("the width of feed_forward", width)):
        if size % files:
            raise TrtcError(f"params.json: {what} is {size}, but must be a multiple of the {files} files")
    eps = keys.above(0, "norm_eps", default=1e-5)
    rope = _rope(keys, dim // heads)
    return DecoderConfig(
        architecture="LlamaForCausalLM",
        hidden_size=dim,
        intermediate_size=width,
        num_hidden_layers=keys.positive("n_layers"),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=dim // heads,
        vocab_size=vocab,
        max_position_embeddings=keys.positive("max_seq_len", default=_positions(rope, eps)),
        norm_eps=eps,
        rope=rope,
        hidden_act="silu",
        mlp_bias=False,
        tie_word_embeddings=False,
    )


def _heads(keys: Keys, dim: int, files: int) -> tuple[int, int]:
    """Those of queries, and those of keys and values."""
    heads = keys.positive("n_heads")
    kv_heads = keys.positive("n_kv_heads", default=heads)
    if dim % heads or dim // heads % 2 or dim // heads > MAX_DIM:
        raise keys.wrong("n_heads", heads, f"a divisor of dim, {dim}, for heads of an even size up to {MAX_DIM}")
    if heads % kv_heads:
        raise keys.wrong("n_kv_heads", kv_heads, f"a divisor of n_heads, {heads}")
    if kv_heads % files:
        raise keys.wrong("n_kv_heads", kv_heads, f"a multiple of the {files} files")
    return heads, kv_heads


def _rope(keys: Keys, size: int) -> RopeConfig:
    theta = keys.above(1, "rope_theta", default=10000.0)
    if not keys.get(bool, "use_scaled_rope", default=False):
        return RopeConfig(theta, size)
    return RopeConfig(theta, size, "llama3", SCALED)


def _intermediate(keys: Keys, dim: int) -> int:
    """2/3 of 4 dim, times ``ffn_dim_multiplier``, up to a multiple of ``multiple_of``."""
    width = 2 * 4 * dim // 3
    if keys.values.get("ffn_dim_multiplier") is not None:
        factor = keys.above(0, "ffn_dim_multiplier")
        if factor > MAX_FACTOR:
            raise keys.wrong("ffn_dim_multiplier", factor, f"at most {MAX_FACTOR}")
        width = int(factor * width)
    step = keys.positive("multiple_of", default=256)
    return max(1, -(-width // step)) * step


def _positions(rope: RopeConfig, eps: float) -> int:
    """What the model was trained on, which params.json seldom says: the generations differ in other keys."""
    if rope.kind == "llama3":
        return 131072   # 3.1
    if rope.theta >= 500000:
        return 8192 if rope.theta < 1e6 else 16384   # 3; Code Llama
    return 4096 if eps == 1e-5 else 2048   # 2; 1


def _generation(first: int) -> dict[str, Any]:
    """The ids that Meta's tokenizers have: that of LLaMA 3, else SentencePiece's.

    Args:
        first: of the special tokens of LLaMA 3; 0 for none.
    """
    if first:
        eos = [first + 1, first + 8, first + 9]   # end of text, of message, of turn
        return {"bos_token_id": first, "eos_token_ids": eos, "pad_token_id": None}
    return {"bos_token_id": 1, "eos_token_ids": [2], "pad_token_id": None}
