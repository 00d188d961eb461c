"""Rotary positions of GGUF files: what the metadata say of their scaling, and factors that are tensors.

Source: convert_hf_to_gguf.py of llama.cpp: LLaMA 3.1's factors of each pair are ``rope_freqs``, Phi-3's are
``rope_factors_short`` and ``rope_factors_long``, of which the context's length chooses.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from trtc.errors import TrtcError
from trtc.frontend.config import Keys
from trtc.frontend.sources.gguf import GgufSource

FREQUENCIES = "rope_freqs.weight"   # what the frequencies of each pair are divided by
SHORT, LONG = "rope_factors_short.weight", "rope_factors_long.weight"
LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
TRAINED = 8192   # positions, LLaMA 3


def rope_keys(keys: Keys, prefix: str, size: int, source: GgufSource) -> dict[str, Any]:
    """The scaling of rotary positions, under Hugging Face's names.

    Args:
        prefix: of the keys.
        size: of the part of a head that turns.
    """
    name = f"{prefix}.rope.scaling"
    trained = keys.values.get(f"{name}.original_context_length")
    original = {"original_max_position_embeddings": trained} if trained else {}
    if SHORT in source or LONG in source:
        scaling: dict[str, Any] = {
            "rope_type": "longrope", "short_factor": _factors(source, SHORT, size),
            "long_factor": _factors(source, LONG, size),
        }   # fmt: skip
        if keys.values.get(f"{name}.attn_factor") is not None:
            scaling["attention_factor"] = keys.above(0, f"{name}.attn_factor")
        return {"rope_scaling": scaling, **original}
    if FREQUENCIES in source:
        return {"rope_scaling": _by_pair(keys, prefix, size, source)}
    kind = keys.choice(f"{name}.type", ("none", "linear", "yarn"), default="none")
    if kind == "none":
        return {}
    return {"rope_scaling": {"rope_type": kind, "factor": keys.above(0, f"{name}.factor"), **original}}


def _by_pair(keys: Keys, prefix: str, size: int, source: GgufSource) -> dict[str, Any]:
    """The scaling with a factor a pair: LLaMA 3's where they are its own, else one that has any."""
    stated, base = _factors(source, FREQUENCIES, size), keys.above(1, f"{prefix}.rope.freq_base", default=10000.0)
    factors = np.array(stated)
    factor = float(factors.max(initial=0))
    with np.errstate(all="ignore"):
        waves = 2 * math.pi * base ** (np.arange(0, size, 2) / size)
        part = np.clip((TRAINED / waves - 1) / 3, 0, 1)
        fits = np.allclose(factors, 1 / ((1 - part) / factor + part), rtol=1e-3)
    if fits and factor > 1:
        return {**LLAMA3, "factor": factor, "original_max_position_embeddings": TRAINED}
    return {"rope_type": "longrope", "short_factor": stated, "long_factor": stated, "attention_factor": 1.0}


def _factors(source: GgufSource, key: str, size: int) -> list[float]:
    stored = source.type(key)
    if stored.shape != (size // 2,):
        raise TrtcError(f"tensor {key} is {stored}, but must have {size // 2} numbers, one a pair that turns")
    return [float(factor) for factor in source[key]]
