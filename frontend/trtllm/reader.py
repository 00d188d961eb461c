"""Checkpoints in TensorRT-LLM's format: config.json of any generation, rank0.safetensors and so on."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from trtc.errors import TrtcError
from trtc.frontend.checkpoint import Checkpoint, Format, read_generation, read_json
from trtc.frontend.config import DecoderConfig, Keys
from trtc.frontend.families import family_of
from trtc.frontend.layers import ACTIVATIONS
from trtc.frontend.quantized import made_plain
from trtc.frontend.sources.safetensors import SafetensorsSource
from trtc.frontend.trtllm.dequantize import dequantizer
from trtc.frontend.trtllm.document import STANDARD, VERSION
from trtc.frontend.trtllm.fields import read
from trtc.frontend.trtllm.layout import HEAD, Layout, Mapping, spread_of_experts
from trtc.frontend.trtllm.ranks import RankWeights
from trtc.frontend.trtllm.schema import check
from trtc.frontend.trtllm.translate import huggingface_keys
from trtc.ir.errors import nearest

CONFIG = "config.json"
UNSAID = -1   # of the sizes of experts' spread
EXPERT_PARALLEL = 1   # of moe_tp_mode; 2 is that ranks divide each expert
ENGINE = ("build_config", "builder_config", "pretrained_config")


def finds(path: Path) -> bool:
    """Whether a directory's config.json is of this format, or of an engine that TensorRT-LLM built."""
    try:
        raw = read_json(path / CONFIG)
    except TrtcError:
        return False
    return isinstance(raw.get("architecture"), str) or any(key in raw for key in ENGINE)


def open_trtllm(folder: Path) -> Checkpoint:
    """The checkpoint of a directory that trtc or TensorRT-LLM wrote."""
    raw = _document(folder)
    check(raw, CONFIG)
    keys = Keys(raw, CONFIG)
    dequantize = dequantizer(keys, folder)
    mapping = read_mapping(keys)
    source = SafetensorsSource(folder, _files(folder, mapping), apart=True)
    config = read_config(keys, has_head=f"rank{mapping.files - mapping.tp}/{HEAD}.weight" in source.entries)
    if config.num_hidden_layers < mapping.pp:
        raise keys.wrong("num_hidden_layers", config.num_hidden_layers, f"at least mapping.pp_size, {mapping.pp}")
    weights = RankWeights(Layout(config, mapping), source.entries)
    if dequantize:
        weights = made_plain(weights, dequantize, source)
    return Checkpoint(folder, "trtllm", raw, config, source, weights, lambda: read_generation(folder, raw))


FORMAT = Format(CONFIG, finds, open_trtllm)


def _document(folder: Path) -> dict[str, Any]:
    """config.json, or the model's part of it where it is an engine's."""
    raw = read_json(folder / CONFIG)
    if not any(key in raw for key in ENGINE):
        return raw
    inner: Any = raw.get("pretrained_config")
    if isinstance(inner, dict) and (folder / "rank0.safetensors").is_file():
        return cast("dict[str, Any]", inner)
    note = "help: give the checkpoint that it was built from, or convert the model again: trtc convert MODEL_DIR -o DIR"
    raise TrtcError(f"{folder} holds an engine of TensorRT-LLM, but must hold a checkpoint", note)


def read_mapping(keys: Keys) -> Mapping:
    """How the ranks share the model; context-parallel ranks share files.

    Errors:
        TrtcError: the sizes do not make up the world, or those of experts tp_size.
    """
    inner = keys.section("mapping") or Keys({}, keys.file, "mapping.")
    tp, pp, cp = (inner.get(int, f"{name}_size", default=1) for name in ("tp", "pp", "cp"))
    world = inner.get(int, "world_size", default=tp * pp * cp)
    if world != tp * pp * cp:
        raise inner.wrong("world_size", world, f"tp_size * pp_size * cp_size, {tp} * {pp} * {cp}")
    if inner.get(int, "moe_cluster_size", default=1) > 1:
        raise inner.wrong("moe_cluster_size", inner.values["moe_cluster_size"], "1")
    moe_tp = inner.get(int, "moe_tp_size", default=UNSAID)
    moe_ep = inner.get(int, "moe_ep_size", default=tp if _spreads_experts(keys) else UNSAID)
    moe_ep = spread_of_experts(tp, moe_tp, moe_ep, f"{inner.file}: {inner.prefix}")
    parallel = keys.get(bool, "use_parallel_embedding", default=False)
    return Mapping(tp, pp, keys.get(int, "embedding_sharding_dim", default=0) if parallel else None, moe_ep, cp)


def _spreads_experts(keys: Keys) -> bool:
    """Whether a checkpoint from before there were sizes of it has experts on ranks whole."""
    mode = keys.get(int, "moe_tp_mode", default=0)
    inner = keys.section("moe")
    return (inner.get(int, "tp_mode", default=mode) if inner else mode) == EXPERT_PARALLEL


def _files(folder: Path, mapping: Mapping) -> list[str]:
    """The files of all ranks; the config may state any number of them, so the first that is missing ends it."""
    found: list[str] = []
    while (folder / (name := f"rank{len(found)}.safetensors")).is_file() and len(found) < mapping.files:
        found.append(name)
    if len(found) < mapping.files:
        ranks = f"{mapping.files} ranks" if mapping.files > 1 else "1 rank"
        raise TrtcError(f"{name} is missing from {folder}, but {CONFIG} maps {ranks}", "help: fetch it again")
    if (folder / name).exists():
        raise TrtcError(
            f"{name} lies in {folder}, but {CONFIG} maps ranks 0 to {mapping.files - 1}",
            "help: the files are of different checkpoints",
        )
    return found


def read_config(keys: Keys, *, has_head: bool) -> DecoderConfig:
    """The decoder's config: by the fields of the format and those under ``trtc``, or by the family's rules.

    Args:
        keys: as the schema has checked them.
        has_head: whether the files have an lm_head, without which the embedding serves as one.
    """
    own = keys.section("trtc")
    if own is None:
        family = family_of(keys.get(str, "architecture"), keys.file)
        return family.config(huggingface_keys(keys).over(tie_word_embeddings=not has_head))
    if own.get(int, "version") > VERSION:
        raise own.wrong("version", own.get(int, "version"), f"at most {VERSION}", "help: upgrade trtc")
    given = {field: keys.values.get(key) for key, field in STANDARD.items()}
    inner = own.section("decoder") or Keys({}, keys.file, f"{own.prefix}decoder.")
    config = DecoderConfig(**read(DecoderConfig, inner, _filled(keys, given)))
    _check(config, keys, inner)
    return config


def _filled(keys: Keys, given: dict[str, Any]) -> dict[str, Any]:
    """The format's fields with its defaults for those that are null."""
    heads, hidden = keys.get(int, "num_attention_heads"), keys.get(int, "hidden_size")
    return given | {
        "num_key_value_heads": keys.get(int, "num_key_value_heads", default=heads),
        "head_dim": keys.get(int, "head_size", default=max(1, hidden // heads)),
        "intermediate_size": keys.get(int, "intermediate_size", default=4 * hidden),
        "max_position_embeddings": keys.get(int, "max_position_embeddings", default=2048),
        "norm_eps": keys.above(0, "norm_epsilon", default=1e-5),
    }


def _check(config: DecoderConfig, keys: Keys, own: Keys) -> None:
    """What the types of fields do not say."""
    if config.num_attention_heads % config.num_key_value_heads:
        want = f"a divisor of num_attention_heads, {config.num_attention_heads}"
        raise keys.wrong("num_key_value_heads", config.num_key_value_heads, want)
    if config.hidden_act not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise keys.wrong("hidden_act", config.hidden_act, f"one of {known}", *nearest(config.hidden_act, ACTIVATIONS))
    if config.windows and (len(config.windows) != config.num_hidden_layers or min(config.windows) < 0):
        raise own.wrong("windows", config.windows, f"a list of {config.num_hidden_layers} numbers >= 0")
    for key, rope in (("rope", config.rope), ("local_rope", config.local_rope)):
        if rope and rope.dim > config.head_dim:
            raise own.wrong(f"{key}.dim", rope.dim, f"at most head_size, {config.head_dim}")
    if config.alibi_slopes and len(config.alibi_slopes) != config.num_attention_heads:
        raise own.wrong("alibi_slopes", config.alibi_slopes, f"a list of {config.num_attention_heads} numbers")
    if config.moe and (config.moe.n_group < 1 or config.moe.num_experts % config.moe.n_group):
        raise own.wrong("moe.n_group", config.moe.n_group, f"a divisor of num_experts, {config.moe.num_experts}")
