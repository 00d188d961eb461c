"""The quantization section of config.json: three generations of keys, one record."""

from __future__ import annotations

from dataclasses import dataclass

from trtc.errors import TrtcError
from trtc.frontend.config import Keys
from trtc.frontend.quantized.layers import names_of_layers

ALGORITHMS = (
    "W8A16", "W4A16", "W8A16_GPTQ", "W4A16_GPTQ", "W4A16_AWQ", "W4A8_AWQ", "W8A8_SQ_PER_CHANNEL",
    "W8A8_SQ_PER_TENSOR_PLUGIN", "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN", "W8A8_SQ_PER_CHANNEL_PER_TENSOR_PLUGIN",
    "W8A8_SQ_PER_TENSOR_PER_TOKEN_PLUGIN", "FP8", "FP8_PER_CHANNEL_PER_TOKEN", "FP8_BLOCK_SCALES",
    "W4A8_QSERVE_PER_GROUP", "W4A8_QSERVE_PER_CHANNEL", "NVFP4", "NVFP4_AWQ", "W4A8_NVFP4_FP8", "W4A8_MXFP4_FP8",
    "W4A8_MXFP4_MXFP8", "W4A16_MXFP4", "MIXED_PRECISION", "NO_QUANT",
)   # fmt: skip
CACHE_ALGORITHMS = ("INT8", "FP8", "NVFP4", "NO_QUANT")
WEIGHT_ONLY = {
    "int8": "W8A16", "int4": "W4A16", "int8_gptq": "W8A16_GPTQ", "int4_gptq": "W4A16_GPTQ", "int4_awq": "W4A16_AWQ",
}   # fmt: skip
SMOOTH_QUANT = {
    (True, True): "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN", (True, False): "W8A8_SQ_PER_CHANNEL_PER_TENSOR_PLUGIN",
    (False, True): "W8A8_SQ_PER_TENSOR_PER_TOKEN_PLUGIN", (False, False): "W8A8_SQ_PER_TENSOR_PLUGIN",
}   # fmt: skip
"""By whether scales are per channel and per token."""
FLAGS_GROUP_SIZE, GROUP_SIZE = 64, 128   # where nothing is said: with the flags of 0.6, and since there is quant_algo


@dataclass(frozen=True)
class Quantization:
    """How weights, activations and the KV cache are quantised, in the last generation's words; None: not at all."""

    quant_algo: str | None = None
    kv_cache_quant_algo: str | None = None
    group_size: int = GROUP_SIZE
    has_zero_point: bool = False
    pre_quant_scale: bool = False
    exclude_modules: tuple[str, ...] = ()


def read_quantization(keys: Keys | None) -> Quantization:
    """The record of a section: 0.6's flags, 0.8's ``quant_aglo``, or ``quant_algo``."""
    keys = keys or Keys({}, "")
    named = any(key in keys.values for key in ("quant_algo", "quant_aglo"))
    algo = _name(keys, ALGORITHMS, "quant_algo", "quant_aglo")
    cache = _name(keys, CACHE_ALGORITHMS, "kv_cache_quant_algo", "kv_cache_quant_aglo")
    return Quantization(
        quant_algo=algo or _of_flags(keys),
        kv_cache_quant_algo=cache or _cache_of_flags(keys),
        group_size=keys.positive("group_size", default=GROUP_SIZE if named else FLAGS_GROUP_SIZE),
        has_zero_point=keys.get(bool, "has_zero_point", default=False),
        pre_quant_scale=keys.get(bool, "pre_quant_scale", default=False),
        exclude_modules=names_of_layers(keys, "exclude_modules"),
    )


def _name(keys: Keys, known: tuple[str, ...], key: str, misspelt: str) -> str | None:
    found = next((k for k in (key, misspelt) if keys.values.get(k) is not None), None)
    name = keys.choice(found, known) if found else None
    return None if name == "NO_QUANT" else name


def _of_flags(keys: Keys) -> str | None:
    """The algorithm of 0.6's flags."""
    found: list[str] = []
    if keys.get(bool, "use_weight_only", default=False):
        precision = keys.get(str, "weight_only_precision", default="int8")
        grouped = keys.get(bool, "per_group", default=False) and precision in ("int8", "int4")
        found.append(WEIGHT_ONLY[f"{precision}_gptq" if grouped else precision])
    if keys.get(bool, "use_smooth_quant", default=False):
        per = (keys.get(bool, "per_channel", default=False), keys.get(bool, "per_token", default=False))
        found.append(SMOOTH_QUANT[per])
    if keys.get(bool, "enable_fp8", default=False):
        found.append("FP8")
    return _only(keys, found)


def _cache_of_flags(keys: Keys) -> str | None:
    flags = (("int8_kv_cache", "INT8"), ("fp8_kv_cache", "FP8"))
    return _only(keys, [name for key, name in flags if keys.get(bool, key, default=False)])


def _only(keys: Keys, found: list[str]) -> str | None:
    if len(found) > 1:
        raise TrtcError(f"{keys.file}: {keys.prefix[:-1]} asks for {' and '.join(found)}, but must ask for one")
    return found[0] if found else None
