"""Quantised tensors of rank files, made by the formulas of their authors, and the weights that they mean."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any
from zlib import crc32

import ml_dtypes
import numpy as np
import numpy.typing as npt

torch: Any = import_module("torch")
Array = npt.NDArray[Any]
Tensors = dict[str, Any]
Made = tuple[Tensors, Array]
"""The tensors of a linear layer, and the weight that they mean."""
GROUP = 16


@dataclass(frozen=True)
class Scheme:
    """How config.json says it, and what makes the tensors of a layer, by their keys, of its name and its weight.

    Args:
        ulps: by how many steps of f32 a weight may differ: one for each rounding.
    """

    make: Callable[[str, Array], Made]
    section: dict[str, Any] = field(default_factory=dict[str, Any])
    ulps: int = 1


def named(make: Callable[[Array], Made]) -> Callable[[str, Array], Made]:
    """Of what makes tensors by the last part of their keys."""

    def made(name: str, w: Array) -> Made:
        tensors, meant = make(w)
        return {f"{name}.{part}": tensor for part, tensor in tensors.items()}, meant

    return made


def of_torch(tensors: dict[str, Array]) -> Tensors:
    return {name: torch.from_numpy(np.array(tensor, order="C")) for name, tensor in tensors.items()}


def e4m3(q: Array, *, as_integers: bool = False) -> Any:
    bits = torch.from_numpy(np.ascontiguousarray(q).view(np.int8).copy())
    return bits if as_integers else bits.view(torch.float8_e4m3fn)


def fp8(w: Array, *, as_integers: bool = False) -> Made:
    """One scale for all: amax / 448; TensorRT's dequantise layer multiplies by it."""
    scale: Array = (np.abs(w).max(keepdims=True) / 448).astype(np.float32)
    q: Array = (w / scale).astype(ml_dtypes.float8_e4m3fn)
    tensors = {"weight": e4m3(q, as_integers=as_integers), "weights_scaling_factor": torch.from_numpy(scale[0])}
    return {**tensors, "activation_scaling_factor": torch.tensor([0.1])}, q.astype(np.float32) * scale


def fp8_as_integers(w: Array) -> Made:
    return fp8(w, as_integers=True)


def fp8_rows(w: Array) -> Made:
    """max(row's amax / 448, 1 / (448 * 512))."""
    scale: Array = np.maximum(np.abs(w).max(1) / 448, 1 / (448 * 512)).astype(np.float32)
    q: Array = (w / scale[:, None]).astype(ml_dtypes.float8_e4m3fn)
    tensors = {"weight": e4m3(q), "per_channel_scale": torch.from_numpy(scale)}
    return tensors, q.astype(np.float32) * scale[:, None]


def fp8_blocks(w: Array) -> Made:
    """DeepSeek V3: amax / 448 of each 128 x 128, of which the last may be cut short."""
    q, meant = np.zeros(w.shape, ml_dtypes.float8_e4m3fn), np.zeros_like(w)
    scale = np.zeros(tuple(-(-size // 128) for size in w.shape), np.float32)
    for i, j in np.ndindex(*scale.shape):
        part = slice(i * 128, i * 128 + 128), slice(j * 128, j * 128 + 128)
        scale[i, j] = np.abs(w[part]).max() / 448
        q[part] = (w[part] / scale[i, j]).astype(ml_dtypes.float8_e4m3fn)
        meant[part] = q[part].astype(np.float32) * scale[i, j]
    return {"weight": e4m3(q), "weights_scaling_factor": torch.from_numpy(scale)}, meant


def nvfp4(w: Array) -> Made:
    """weights_scaling_factor_2 = amax / (6 * 448); a block's amax / 6 / that, as e4m3; E2M1 of the rest."""
    second: Array = (np.abs(w).max(keepdims=True)[0] / (6 * 448)).astype(np.float32)
    blocks = w.reshape(w.shape[0], -1, 16)
    scale: Array = (np.abs(blocks).max(2) / 6 / second).astype(ml_dtypes.float8_e4m3fn)
    each: Array = (scale.astype(np.float32) * second)[:, :, None]
    q: Array = (blocks / each).astype(ml_dtypes.float4_e2m1fn)
    bits: Array = q.view(np.uint8).reshape(w.shape)
    tensors = of_torch({"weight": bits[:, 1::2] << 4 | bits[:, 0::2], "weights_scaling_factor_2": second})
    tensors |= {"weights_scaling_factor": e4m3(scale), "activation_scaling_factor": torch.tensor([0.1])}
    return tensors, (q.astype(np.float32) * each).reshape(w.shape)


def before(w: Array) -> Array:
    """What x is multiplied by, or divided by, first; another one for each layer and rank."""
    columns: int = w.shape[1]
    return np.random.default_rng(crc32(w.tobytes())).random(columns, np.float32) * 1.5 + 0.5


def awq(w: Array, p: Array | None = None) -> Made:
    """q = round(w / prequant / scale) in -8..7; byte [i, j] holds rows 2 i (the low half) and 2 i + 1 of column j."""
    rows, columns = w.shape
    p = before(w) if p is None else p
    groups = (w / p).reshape(rows, columns // GROUP, GROUP)
    scale: Array = (np.abs(groups).max(2) / 8).astype(np.float16)
    q: Array = np.clip(np.round(groups / scale[:, :, None].astype(np.float32)), -8, 7).astype(int)
    flat, packed = q.reshape(rows, columns), np.zeros((rows // 2, columns), np.uint8)
    for i in range(rows // 2):
        packed[i] = (flat[2 * i] & 15) + 16 * (flat[2 * i + 1] & 15)
    meant = (q * scale[:, :, None].astype(np.float32)).reshape(rows, columns).astype(np.float32) * p
    tensors = {"weight": packed.view(np.int8), "weights_scaling_factor": scale, "prequant_scaling_factor": p}
    return of_torch(tensors), meant


def w4a8(w: Array) -> Made:
    """ModelOpt's: weights_scaling_factor_2 = the greatest scale / 448, which is in each scale already."""
    tensors, meant = awq(w)
    second = tensors["weights_scaling_factor"].float().max() / 448
    more = {"weights_scaling_factor_2": second[None], "activation_scaling_factor": torch.tensor([0.1])}
    return {**tensors, **more}, meant


def int8(w: Array) -> Made:
    p = before(w)
    scale: Array = (np.abs(w / p).max(1) / 127).astype(np.float32)
    q: Array = np.round(w / p / scale[:, None]).astype(np.int8)
    made = of_torch({"weight": q, "weights_scaling_factor": scale, "prequant_scaling_factor": p})
    return {**made, "activation_scaling_factor": torch.tensor([0.1])}, q.astype(np.float32) * scale[:, None] * p


def gptq(bits: int, *, symmetric: bool = False) -> Callable[[Array], Made]:
    """GPTQ means (q - qz - 1) * scale, of q and qz >= 0; the file has q - half, and (-qz + half - 1) * scale."""
    half, top = 1 << (bits - 1), (1 << bits) - 1

    def make(w: Array) -> Made:
        rows, columns = w.shape
        groups: Array = w.T.reshape(columns // GROUP, GROUP, rows)   # [in / g, g, out]
        low: Array = groups.min(1)
        high: Array = groups.max(1)
        scale: Array = (np.maximum(high - low, 2 * np.abs(groups).max(1) * symmetric) / top).astype(np.float16)
        wide: Array = scale.astype(np.float32)
        qz: Array = np.round(-low / wide) * (not symmetric) - 1 + half * symmetric
        qz = qz.clip(0, top - 1)
        q: Array = np.clip(np.round(groups / wide[:, None]) + qz[:, None] + 1, 0, top)
        meant = ((q - qz[:, None] - 1) * wide[:, None]).reshape(columns, rows).T
        signed: Array = (q - half).astype(np.int8).reshape(columns, rows)
        packed = signed if bits == 8 else (signed[:, 0::2] & 15) + ((signed[:, 1::2] & 15) << 4)
        zero: dict[str, Array] = {} if symmetric else {"zero": ((-qz + half - 1) * wide).astype(np.float32)}
        tensors = {"weight": packed.astype(np.uint8).view(np.int8), "weights_scaling_factor": scale, **zero}
        return of_torch(tensors), np.ascontiguousarray(meant, np.float32)

    return make


AHEAD = {
    "attention.qkv": "input_layernorm.scale_to_int", "attention.dense": "attention.quantization_scaling_factor",
    "mlp.fc": "post_layernorm.scale_to_int", "mlp.gate": "post_layernorm.scale_to_int",
    "mlp.proj": "mlp.quantization_scaling_factor",
}   # fmt: skip
X, Y = 3.0, 5.0   # the greatest that goes into a layer and comes out of it, where that is fixed


def smooth_quant(*, per_channel: bool, per_token: bool) -> Callable[[str, Array], Made]:
    """generate_int8 and get_tllm_linear_sq_weight of TensorRT-LLM's converter of LLaMA, in their names."""

    def make(name: str, w: Array) -> Made:
        layer, *module = name.rsplit(".", 2)
        is_qkv, is_smoothed = module[-1] == "qkv", module[-1] in ("dense", "proj")
        smoother = before(w) if is_smoothed else np.ones(w.shape[1], np.float32)
        kept = w * smoother   # what goes in is divided by it
        amax = np.abs(kept).max(1, keepdims=True) if per_channel else np.abs(kept).max(keepdims=True)
        amax = np.broadcast_to(amax, (w.shape[0], 1)) if is_qkv else amax
        w_orig_quant, x_orig_quant, y_orig_quant = 127.0 / amax, 127.0 / X, 127.0 / Y
        q: Array = np.round(kept * w_orig_quant).clip(-127, 127).astype(np.int8)
        scale = 1 / w_orig_quant if per_token else y_orig_quant / (x_orig_quant * w_orig_quant)
        tensors = of_torch({f"{name}.weight": q, f"{name}.per_channel_scale": scale.T.astype(np.float32)})
        tensors[f"{layer}.{AHEAD['.'.join(module)]}"] = torch.tensor([1.0 if per_token else x_orig_quant])
        if not per_token:
            tensors[f"{name}.act_scale"] = torch.tensor([[1 / y_orig_quant]])
        if is_smoothed:
            tensors[f"{name}.smoother"] = torch.from_numpy(smoother[None])
        return tensors, (q / w_orig_quant / smoother).astype(np.float32)

    return make


def qserve_pack(q: Array) -> Array:
    """Tiles of 32 x 32; a byte holds rows 16 apart; a to f are digits of a row and a column, as QServe orders them."""
    rows, columns = q.shape
    packed = np.zeros(rows * columns // 2, np.uint8)
    for row, column in np.ndindex(rows, columns):
        a, b, c = row % 32 // 16, row % 16 // 8, row % 8
        d, e, f = column % 32 // 16, column % 16 // 4, column % 4
        place = ((((row // 32 * (columns // 32) + column // 32) * 8 + c) * 4 + e) * 2 + d) * 2 + b
        packed[place * 4 + f] |= q[row, column] << (4 * a)
    return packed.reshape(rows, columns // 2).view(np.int8)


def qserve_rows(w: Array) -> Made:
    """q = round((w + szeros) / scale) in 0..15."""
    low, high = w.min(1), w.max(1)
    scale: Array = ((high - low) / 15).astype(np.float16)
    zeros: Array = (-low).astype(np.float16)
    q = np.clip(np.round((w + zeros[:, None]) / scale[:, None].astype(np.float32)), 0, 15).astype(np.uint8)
    meant = q.astype(np.float32) * scale[:, None].astype(np.float32) - zeros[:, None].astype(np.float32)
    return of_torch({"weight": qserve_pack(q), "s1_scales": scale, "s1_szeros": zeros}), meant


def qserve_groups(w: Array) -> Made:
    """8-bit integers within -119..119 by rows first, then q = round((integers + zeros) / scale) by groups."""
    rows, columns = w.shape
    first: Array = (np.abs(w).max(1, keepdims=True) / 119).astype(np.float16)
    eight: Array = np.round(w / first.astype(np.float32)).reshape(rows, columns // GROUP, GROUP)
    zeros: Array = -eight.min(2, keepdims=True)
    scale: Array = np.maximum(np.ceil((eight.max(2, keepdims=True) + zeros) / 15), 1)
    q: Array = np.round((eight + zeros) / scale)
    back: Array = (q * scale - zeros).reshape(rows, columns)
    meant: Array = (back * first.astype(np.float32)).astype(np.float32)
    order = [32 * (r // 32) + 8 * (r % 4) + r % 32 // 4 for r in range(rows)]   # rows that are 8 apart side by side

    def by_group(x: Array) -> Array:
        return x.reshape(rows, -1)[order].T.astype(np.int8)

    tensors = {
        "weight": qserve_pack(q.reshape(rows, columns).astype(np.uint8)), "s1_scales": first[:, 0],
        "s2_scales": by_group(scale), "s2_szeros": by_group(-zeros),
    }   # fmt: skip
    return of_torch(tensors), meant


def qserve_groups_before(w: Array) -> Made:
    """As the first versions spelt it."""
    tensors, meant = qserve_groups(w)
    return {name.replace("szeros", "zeros"): tensor for name, tensor in tensors.items()}, meant


def plainly(w: Array) -> Made:
    return {"weight": torch.from_numpy(w.copy())}, w


def _smooth(name: str, *, per_channel: bool, per_token: bool) -> Scheme:
    make = smooth_quant(per_channel=per_channel, per_token=per_token)
    return Scheme(make, {"quant_algo": f"W8A8_SQ_{name}_PLUGIN"}, ulps=6)


PLAIN = Scheme(named(plainly))
SCHEMES = {
    "fp8": Scheme(named(fp8), {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head"]}),
    "fp8-as-integers": Scheme(named(fp8_as_integers), {"enable_fp8": True, "fp8_kv_cache": True}),
    "fp8-rows": Scheme(named(fp8_rows), {"quant_algo": "FP8_PER_CHANNEL_PER_TOKEN"}),
    "fp8-blocks": Scheme(named(fp8_blocks), {"quant_algo": "FP8_BLOCK_SCALES"}),
    "nvfp4": Scheme(named(nvfp4), {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8"}),
    "awq": Scheme(named(awq), {"quant_algo": "W4A16_AWQ", "group_size": GROUP, "pre_quant_scale": True}),
    "w4a8": Scheme(named(w4a8), {"quant_algo": "W4A8_AWQ", "group_size": GROUP, "pre_quant_scale": True}),
    "int8": Scheme(named(int8), {"quant_algo": "W8A8_SQ_PER_CHANNEL"}),
    "gptq-4": Scheme(named(gptq(4)), {"quant_algo": "W4A16_GPTQ", "group_size": GROUP, "has_zero_point": True}),
    "gptq-4-inverted": Scheme(named(gptq(4)), {"quant_algo": "W4A16_GPTQ", "group_size": GROUP}),
    "gptq-4-symmetric": Scheme(named(gptq(4, symmetric=True)), {"quant_algo": "W4A16_GPTQ", "group_size": GROUP}),
    "gptq-8": Scheme(named(gptq(8)), {"quant_algo": "W8A16_GPTQ", "group_size": GROUP, "has_zero_point": True}),
    "smooth-quant": _smooth("PER_TENSOR", per_channel=False, per_token=False),
    "smooth-quant-rows": _smooth("PER_CHANNEL_PER_TENSOR", per_channel=True, per_token=False),
    "smooth-quant-tokens": _smooth("PER_TENSOR_PER_TOKEN", per_channel=False, per_token=True),
    "smooth-quant-both": _smooth("PER_CHANNEL_PER_TOKEN", per_channel=True, per_token=True),
    "smooth-quant-flags": Scheme(
        smooth_quant(per_channel=True, per_token=False), {"use_smooth_quant": True, "per_channel": True}, ulps=6
    ),
    "qserve-rows": Scheme(named(qserve_rows), {"quant_algo": "W4A8_QSERVE_PER_CHANNEL"}),
    "qserve-groups": Scheme(named(qserve_groups), {"quant_algo": "W4A8_QSERVE_PER_GROUP", "group_size": GROUP}),
    "qserve-groups-before": Scheme(
        named(qserve_groups_before), {"quant_algo": "W4A8_QSERVE_PER_GROUP", "group_size": GROUP}
    ),
    "int8-later": Scheme(named(plainly), {"quant_algo": "W8A16"}),
    "int4-later": Scheme(named(plainly), {"quant_aglo": "W4A16"}),
    "cache-alone": Scheme(named(plainly), {"quant_algo": None, "kv_cache_quant_algo": "INT8"}),
}   # fmt: skip
