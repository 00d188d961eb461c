"""Quantised checkpoints: which layers of a rank are quantised, and by which algorithm they become plain."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from trtc.errors import TrtcError
from trtc.frontend.checkpoint import read_json
from trtc.frontend.config import Keys
from trtc.frontend.quantized import Dequantize, Stored
from trtc.frontend.quantized.layers import Patterns
from trtc.frontend.trtllm.quantization import Quantization, read_quantization
from trtc.frontend.trtllm.schemes import PLAINLY, SCHEMES, WEIGHT
from trtc.frontend.weights import PLAIN
from trtc.ir.op import Value

MIXED, LAYERS, FILE = "MIXED_PRECISION", "quantized_layers", "quant_cfg.json"
OfLayer = Callable[[str], Quantization | None]
"""How a layer is quantised, by its name in the rank files; None where it is not."""


def dequantizer(keys: Keys, folder: Path) -> Dequantize | None:
    """What makes a weight of a rank's tensors; None where config.json says that all are plain.

    Args:
        keys: of config.json.
        folder: which holds quant_cfg.json where each layer has an algorithm of its own.
    Errors:
        TrtcError: an algorithm that is not read.
    """
    section = keys.section("quantization") or Keys({}, keys.file, "quantization.")
    quantization = read_quantization(section)
    if quantization.quant_algo is None:
        return None
    of_layer = _mixed(section, folder) if quantization.quant_algo == MIXED else _same(section, quantization)

    def dequantize(stored: Stored, rows: int, columns: int) -> Value | None:
        found = of_layer(stored.stem.partition("/")[2])
        if found is None or found.quant_algo is None or _is_plain(stored, rows, columns):
            return None
        return SCHEMES[found.quant_algo](stored, rows, columns, found)

    return dequantize


def _is_plain(stored: Stored, rows: int, columns: int) -> bool:
    """Whether the weight is floats, such as that of lm_head."""
    return stored.dtype(WEIGHT) in PLAIN and stored.shape(WEIGHT) == (rows, columns)


def _same(section: Keys, quantization: Quantization) -> OfLayer:
    """One algorithm for all layers but those that ``exclude_modules`` matches."""
    _check(section, quantization)
    excluded = Patterns(quantization.exclude_modules)
    return lambda name: None if name in excluded else quantization


def _mixed(section: Keys, folder: Path) -> OfLayer:
    """The algorithm of the first of ``quantized_layers`` that a layer's name matches."""
    if LAYERS not in section.values:
        section = Keys(read_json(folder / FILE), FILE)
    layers: Any = section.values.get(LAYERS)
    if not isinstance(layers, dict):
        raise section.wrong(LAYERS, cast("object", layers), "an object, of an algorithm by the name of each layer")
    found = [_of_layer(section, name, inner) for name, inner in cast("dict[str, Any]", layers).items()]
    patterns = Patterns(cast("dict[str, Any]", layers))

    def of_layer(name: str) -> Quantization | None:
        number = patterns.first(name)
        return None if number is None else found[number]

    return of_layer


def _of_layer(section: Keys, name: str, inner: object) -> Quantization:
    prefix = f"{section.prefix}{LAYERS}."
    if not isinstance(inner, Mapping):
        raise Keys({}, section.file, prefix).wrong(name, inner, "an object")
    keys = Keys(cast("Mapping[str, Any]", inner), section.file, f"{prefix}{name}.")
    quantization = read_quantization(keys)
    _check(keys, quantization)
    return quantization


def _check(keys: Keys, quantization: Quantization) -> None:
    algo = quantization.quant_algo
    if algo is not None and algo not in SCHEMES:
        want = f"null or one of {', '.join(SCHEMES)}"
        raise TrtcError(f"{keys.file}: {keys.prefix}quant_algo is {algo}, but must be {want}", PLAINLY)
