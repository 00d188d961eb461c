"""Quantised tensors of a weight, packed as each tool's published code packs them, and the weight that they mean.

AutoAWQ, AutoGPTQ and ModelOpt are loops in the words of their sources (awq/modules/linear/gemm.py,
auto_gptq/nn_modules/qlinear/qlinear_cuda_old.py, modelopt/torch/export/quant_utils.py); compressed-tensors is the
package itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
torch: Any = import_module("torch")
Tensors = dict[str, Any]
Made = tuple[Tensors, Any]
"""The tensors by the last part of their keys, and the weight in f32, all of torch."""


@dataclass(frozen=True)
class Scheme:
    """One way to quantise: how config.json says it, and what makes the tensors of a weight."""

    config: dict[str, Any]
    make: Callable[[Any], Made]
    file: str = ""   # what says it in the place of config.json


def integers(weight: Any, bits: int, groups: Array, *, symmetric: bool = False) -> tuple[Array, Array, Array]:
    """q, zero of [rows, G], scale of [rows, G] in f16, for the group of each column."""
    w: Array = weight.numpy()
    top, count = (1 << bits) - 1, int(groups.max()) + 1
    low: Array = np.stack([w[:, groups == g].min(1) for g in range(count)], 1)
    high: Array = np.stack([w[:, groups == g].max(1) for g in range(count)], 1)
    if symmetric:
        high = np.maximum(high, -low)
        low = -high
    scale: Array = np.maximum((high - low) / top, 1e-5).astype(np.float16)
    wide: Array = scale.astype(np.float32)
    zero: Array = np.full_like(low, (top + 1) // 2) if symmetric else np.clip(np.round(-low / wide), 0, top)
    q: Array = np.clip(np.round(w / wide[:, groups]) + zero[:, groups], 0, top)
    return q.astype(np.int64), zero.astype(np.int64), scale


def meaning(q: Array, zero: Array, scale: Array, groups: Array) -> Any:
    return torch.from_numpy((q - zero[:, groups]).astype(np.float32) * scale.astype(np.float32)[:, groups])


def awq(group: int) -> Callable[[Any], Made]:
    def pack(values: Any) -> Any:   # [N, columns]
        words = np.zeros((values.shape[0], values.shape[1] // 8), np.int64)
        for column in range(words.shape[1]):
            for i, source in enumerate([0, 2, 4, 6, 1, 3, 5, 7]):
                words[:, column] |= values[:, column * 8 + source] << (i * 4)
        return torch.from_numpy(words.astype(np.uint32).view(np.int32))

    def make(weight: Any) -> Made:
        columns: int = weight.shape[1]
        groups: Array = np.arange(columns) // (columns if group == -1 else group)
        q, zero, scale = integers(weight, 4, groups)
        tensors = {"qweight": pack(q.T), "qzeros": pack(zero.T), "scales": torch.from_numpy(scale.T.copy())}
        return tensors, meaning(q, zero, scale, groups)

    return make


def pack_rows(values: Any, bits: int) -> Any:
    """AutoGPTQ's loop over the rows of [N, columns]; with 3 bits, two numbers of 32 are cut in two."""
    values, out = values.astype(np.uint64), np.zeros((values.shape[0] * bits // 32, values.shape[1]), np.uint64)
    i = row = 0
    while row < len(out):
        if bits != 3:
            for j in range(i, i + 32 // bits):
                out[row] |= values[j] << np.uint64(bits * (j - i))
            i, row = i + 32 // bits, row + 1
            continue
        for j in range(i, i + 10):
            out[row] |= values[j] << np.uint64(3 * (j - i))
        i += 10
        out[row] |= values[i] << np.uint64(30)
        row += 1
        out[row] |= (values[i] >> np.uint64(2)) & np.uint64(1)
        i += 1
        for j in range(i, i + 10):
            out[row] |= values[j] << np.uint64(3 * (j - i) + 1)
        i += 10
        out[row] |= values[i] << np.uint64(31)
        row += 1
        out[row] |= (values[i] >> np.uint64(1)) & np.uint64(3)
        i += 1
        for j in range(i, i + 10):
            out[row] |= values[j] << np.uint64(3 * (j - i) + 2)
        i, row = i + 10, row + 1
    return torch.from_numpy(out.astype(np.uint32).view(np.int32))


def gptq(bits: int, group: int, *, ordered: bool = False, v2: bool = False, sym: bool = False) -> Callable[[Any], Made]:
    def make(weight: Any) -> Made:
        columns: int = weight.shape[1]
        groups: Array = np.arange(columns) // (columns if group == -1 else group)
        if ordered:
            groups = np.random.default_rng(columns).permutation(groups)
        q, zero, scale = integers(weight, bits, groups, symmetric=sym)
        kept = zero if v2 else (zero - 1) % (1 << bits)
        tensors = {
            "qweight": pack_rows(q.T, bits), "qzeros": pack_rows(kept, bits).T.contiguous(),
            "scales": torch.from_numpy(scale.T.copy()), "g_idx": torch.from_numpy(groups.astype(np.int32)),
        }   # fmt: skip
        return tensors, meaning(q, zero, scale, groups)

    return make


def fp8_blocks(rows: int, columns: int) -> Callable[[Any], Made]:
    def make(weight: Any) -> Made:
        out, width = weight.shape
        wanted = -(-out // rows), -(-width // columns)
        scale = torch.zeros(wanted)
        q, meant = torch.zeros(out, width, dtype=torch.float8_e4m3fn), torch.zeros(out, width)
        for i, j in np.ndindex(*wanted):
            part = slice(i * rows, (i + 1) * rows), slice(j * columns, (j + 1) * columns)
            scale[i, j] = weight[part].abs().max() / 448
            q[part] = (weight[part] / scale[i, j]).to(torch.float8_e4m3fn)
            meant[part] = q[part].float() * scale[i, j]
        return {"weight": q, "weight_scale_inv": scale}, meant

    return make


def fp8_whole(rows: bool = False) -> Callable[[Any], Made]:
    """FP8 with one scale, or one a row, as AutoFP8 and ModelOpt write it."""

    def make(weight: Any) -> Made:
        scale = weight.abs().amax(1) / 448 if rows else weight.abs().max() / 448
        each = scale[:, None] if rows else scale
        q = (weight / each).to(torch.float8_e4m3fn)
        tensors = {"weight": q, "weight_scale": scale, "input_scale": torch.tensor(0.1)}
        return tensors, q.float() * each

    return make


def fp8_blocks_of_modelopt(weight: Any) -> Made:
    """FP8_PB_WO: blocks of 128 x 128, a scale each in [rows, 1, columns, 1]."""
    tensors, meant = fp8_blocks(128, 128)(weight)
    return {"weight": tensors["weight"], "weight_scale": tensors["weight_scale_inv"][:, None, :, None]}, meant


def modelopt_w4a8(weight: Any) -> Made:
    """W4A8_AWQ: as W4A16_AWQ; weight_scale_2, by which the first is divided as 8-bit floats, is in it already."""
    tensors, meant = modelopt_awq(weight)
    second = tensors["weight_scale"].max() / 448
    return {**tensors, "weight_scale_2": second, "input_scale": torch.tensor(0.1)}, meant


def nvfp4(weight: Any) -> Made:
    """NVFP4QTensor: weight_scale_2 = amax / (6 * 448), weight_scale = block's amax / 6 / weight_scale_2 as e4m3."""
    blocks = weight.reshape(weight.shape[0], -1, 16)
    second = weight.abs().max() / (6 * 448)
    scale = (blocks.abs().amax(-1) / 6 / second).to(torch.float8_e4m3fn)
    each = (scale.float() * second)[:, :, None]
    q: Array = (blocks / each).numpy().astype(ml_dtypes.float4_e2m1fn)
    bits = q.view(np.uint8).reshape(weight.shape)
    packed = torch.from_numpy(bits[:, 1::2] << 4 | bits[:, 0::2])
    tensors = {"weight": packed, "weight_scale": scale, "weight_scale_2": second}
    return tensors, (torch.from_numpy(q.astype(np.float32)) * each).reshape(weight.shape)


def modelopt_awq(weight: Any) -> Made:
    """pack_int4_in_uint8 of modelopt, and pre_quant_scale, by which x is multiplied first."""
    out, width = weight.shape
    before = torch.linspace(0.5, 2, width)
    kept = (weight / before).reshape(out, -1, 16)
    scale = (kept.abs().amax(-1) / 7).float()
    q = (kept / scale[:, :, None]).round().clamp(-8, 7).to(torch.int8)
    meant = (q * scale[:, :, None]).reshape(out, width) * before
    pairs = q.reshape(out, width).T.reshape(width, out // 2, 2)
    packed = ((pairs[..., 0] & 0x0F) | (pairs[..., 1] << 4)).T.contiguous().view(torch.uint8)
    return {"weight": packed, "weight_scale": scale, "pre_quant_scale": before}, meant


def smooth_quant(weight: Any) -> Made:
    before = torch.linspace(0.5, 2, weight.shape[1])
    kept = weight / before
    scale = kept.abs().amax(1) / 127
    q = (kept / scale[:, None]).round().to(torch.int8)
    tensors = {"weight": q, "weight_scale": scale, "pre_quant_scale": before, "input_scale": torch.tensor(0.1)}
    return tensors, q.float() * scale[:, None] * before


def compressed(form: str, **weights: Any) -> Scheme:
    """What the package compresses to, and what it says that this means."""
    quantization: Any = import_module("compressed_tensors.quantization")
    packages: Any = import_module("compressed_tensors.compressors")
    helpers: Any = import_module("compressed_tensors.quantization.utils.helpers")
    helpers_of_4: Any = import_module("compressed_tensors.compressors.nvfp4.helpers")
    lifecycle: Any = import_module("compressed_tensors.quantization.lifecycle.forward")
    kind: Any = {
        "pack-quantized": packages.PackedQuantizationCompressor,
        "nvfp4-pack-quantized": packages.NVFP4PackedCompressor,
    }.get(form, packages.NaiveQuantizationCompressor)
    args = quantization.QuantizationArgs(**weights)
    scheme = quantization.QuantizationScheme(targets=["Linear"], weights=args)

    def make(weight: Any) -> Made:
        parts = weight.reshape(weight.shape[0], -1, args.group_size or weight.shape[1])
        if args.strategy == "tensor":
            parts = weight.reshape(1, 1, -1)
        low, high = parts.amin(-1), parts.amax(-1)
        state: Tensors = {"weight": weight}
        if form.startswith("nvfp4"):
            state["weight_global_scale"] = (448 * 6 / weight.abs().max()).reshape(1)
            found = high.maximum(-low) / 6 * state["weight_global_scale"]
            state["weight_scale"] = found.to(torch.float8_e4m3fn).float()
        else:
            state["weight_scale"], zero = helpers.calculate_qparams(low, high, args)
            if not args.symmetric:
                state["weight_zero_point"] = zero
        tensors = kind.compress(state, scheme)
        if form.startswith("nvfp4"):   # decompress rounds to bf16
            q = helpers_of_4.unpack_fp4_from_uint8(tensors["weight_packed"], *weight.shape, dtype=torch.float32)
            wide = {"scale": tensors["weight_scale"].float(), "global_scale": state["weight_global_scale"]}
            back = lifecycle.dequantize(q, **wide, args=args, dtype=torch.float32)
        else:
            back = kind.decompress(tensors, scheme)["weight"]
        assert back.dtype == torch.float32
        return {name: tensor for name, tensor in tensors.items() if tensor is not None}, back

    config = {
        "quant_method": "compressed-tensors", "format": form, "quantization_status": "compressed",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": args.model_dump(mode="json")}},
        "ignore": ["lm_head"],
    }   # fmt: skip
    return Scheme(config, make)


def _gptq(bits: int, group: int, **options: Any) -> Scheme:
    config = {
        "quant_method": "gptq", "bits": bits, "group_size": group, "desc_act": options.get("ordered", False),
        "sym": options.get("sym", False), "checkpoint_format": "gptq_v2" if options.get("v2") else "gptq",
    }   # fmt: skip
    return Scheme(config, gptq(bits, group, **options))


FP8 = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic"}
SCHEMES: dict[str, Scheme] = {
    "awq": Scheme({"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "zero_point": True}, awq(32)),
    "awq-columns": Scheme({"quant_method": "awq", "w_bit": 4, "q_group_size": -1, "version": "GEMM"}, awq(-1)),
    "gptq-4": _gptq(4, 32),
    "gptq-4-ordered": _gptq(4, 32, ordered=True),
    "gptq-4-sym-columns": _gptq(4, -1, sym=True),
    "gptq-3-v2": _gptq(3, 16, v2=True),
    "gptq-3-ordered": _gptq(3, 32, ordered=True),
    "gptq-2": _gptq(2, 16),
    "gptq-8-v2-last-group-cut": _gptq(8, 40, v2=True),
    "fp8-blocks": Scheme({**FP8, "weight_block_size": [16, 32]}, fp8_blocks(16, 32)),
    "fp8-blocks-cut": Scheme({**FP8, "weight_block_size": [40, 24]}, fp8_blocks(40, 24)),
    "fp8-blocks-of-128": Scheme({**FP8, "weight_block_size": [128, 128]}, fp8_blocks(128, 128)),
    "fp8-whole": Scheme({"quant_method": "fp8", "activation_scheme": "static"}, fp8_whole()),
    "packed-4-symmetric": compressed("pack-quantized", num_bits=4, group_size=32, strategy="group"),
    "packed-4": compressed("pack-quantized", num_bits=4, group_size=16, strategy="group", symmetric=False),
    "packed-8-rows": compressed("pack-quantized", num_bits=8, strategy="channel", symmetric=False),
    "int-8-rows": compressed("int-quantized", num_bits=8, strategy="channel"),
    "int-8-whole": compressed("naive-quantized", num_bits=8, strategy="tensor", symmetric=False),
    "float-8": compressed("float-quantized", num_bits=8, type="float", strategy="channel"),
    "packed-nvfp4": compressed(
        "nvfp4-pack-quantized", num_bits=4, type="float", strategy="tensor_group", group_size=16
    ),
    "modelopt-fp8": Scheme({"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}, fp8_whole(), "hf_quant_config.json"),
    "modelopt-fp8-rows": Scheme(
        {"quant_method": "modelopt", "quant_algo": "FP8_PER_CHANNEL_PER_TOKEN"}, fp8_whole(rows=True)
    ),
    "modelopt-fp8-blocks": Scheme({"quant_method": "modelopt", "quant_algo": "FP8_PB_WO"}, fp8_blocks_of_modelopt),
    "modelopt-w4a8": Scheme({"quant_method": "modelopt", "quant_algo": "W4A8_AWQ", "group_size": 16}, modelopt_w4a8),
    "modelopt-nvfp4": Scheme({"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16}, nvfp4),
    "modelopt-awq": Scheme({"quant_method": "modelopt", "quant_algo": "W4A16_AWQ", "group_size": 16}, modelopt_awq),
    "modelopt-smoothquant": Scheme({"quant_method": "modelopt", "quant_algo": "W8A8_SQ_PER_CHANNEL"}, smooth_quant),
}   # fmt: skip


def quantise(scheme: Scheme, plain: Path, folder: Path) -> dict[str, Any]:
    """The model of a folder in another, quantised. Gives what its weights mean, by key."""
    tensors: dict[str, Any] = import_module("safetensors.torch").load_file(plain / "model.safetensors")
    kept, meant = dict[str, Any](), dict[str, Any]()
    for key, tensor in tensors.items():
        if not key.endswith("_proj.weight") and ".experts." not in key:
            kept[key] = tensor
            continue
        made, meant[key] = scheme.make(tensor.float())
        kept |= {key.removesuffix("weight") + name: part.contiguous() for name, part in made.items()}
    folder.mkdir()
    import_module("safetensors.torch").save_file(kept, folder / "model.safetensors")
    config = json.loads((plain / "config.json").read_text())
    if scheme.file:
        (folder / scheme.file).write_text(json.dumps({"producer": {}, "quantization": scheme.config}))
    else:
        config["quantization_config"] = scheme.config
    (folder / "config.json").write_text(json.dumps(config))
    return meant
