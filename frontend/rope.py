"""Angles of rotary positions: frequencies for every kind of context scaling."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from trtc.frontend.config import Keys, RopeConfig
from trtc.ir.op import Value
from trtc.ir.ops import (
    Add,
    Cast,
    Constant,
    Cos,
    Gather,
    Iota,
    Less,
    Maximum,
    Mul,
    Pow,
    Reshape,
    Sin,
    Where,
    scalar,
)  # fmt: skip
from trtc.ir.types import DType, TensorType, f32, i32

Frequencies = npt.NDArray[np.float32]
KINDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "default": ((), ()),
    "linear": (("factor",), ()),
    "dynamic": (("factor",), ()),
    "llama3": (("factor", "low_freq_factor", "high_freq_factor"), ()),
    "yarn": (("factor",), ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim")),
    "longrope": ((), ("factor", "attention_factor")),
}
"""Each kind of scaling with the keys it cannot do without, and those that it may have."""
MAX_DIM = 8192   # elements of a head: far beyond any model, and tables of it still fit


def read_rope(
    keys: Keys, dim: int, max_position: int, *, interleaved: bool = False, base: str = "rope_theta",
    section: Keys | None = None,
) -> RopeConfig:
    """The rotary part of a Hugging Face config: ``rope_theta`` with ``rope_scaling``, or ``rope_parameters``.

    Args:
        dim: elements of a head that turn.
        max_position: the positions that the model was trained on.
        base: the key of the base beside the section.
        section: where the parameters are, if elsewhere.
    """
    section = section or keys.section("rope_scaling", "rope_parameters") or Keys({}, keys.file)
    inside = section.values.get("rope_theta") is not None
    theta = section.above(1, "rope_theta") if inside else keys.above(1, base, default=10000.0)
    key = "rope_type" if section.values.get("rope_type") is not None else "type"
    kind = section.choice(key, KINDS, default="default")
    least = 4 if kind == "dynamic" else 2
    if not least <= dim <= MAX_DIM or dim % 2:
        want = f"even and in {least}..{MAX_DIM}, as {kind} rotary positions ask"
        note = "help: head_dim is hidden_size / num_attention_heads where it is not stated"
        raise keys.wrong("head_dim", dim, want, note)
    parameters = _parameters(kind, keys, section, max_position)
    if kind == "longrope":
        parameters |= {key: section.numbers(key, dim // 2) for key in ("short_factor", "long_factor")}
        if parameters["original_max_position_embeddings"] < 2:
            raise keys.wrong("original_max_position_embeddings", 1, "at least 2, as longrope rotary positions ask")
    return RopeConfig(theta, dim, kind, parameters, interleaved)


def rotary_dim(keys: Keys, size: int, default: float, key: str = "partial_rotary_factor") -> int:
    """The elements of a head of this size that turn: the share that ``partial_rotary_factor`` says.

    Args:
        key: of the share beside the section.
    """
    section = keys.section("rope_scaling", "rope_parameters")
    home, inside = keys, "partial_rotary_factor"
    if section and section.values.get(inside) is not None:
        home, key = section, inside
    factor = home.above(0, key, default=default)
    dim = int(size * factor)
    if factor > 1 or dim < 2 or dim % 2:
        raise home.wrong(key, factor, f"such that an even number of a head's {size} elements turn")
    return dim


def _parameters(kind: str, keys: Keys, section: Keys, max_position: int) -> dict[str, Any]:
    """What a kind of scaling needs, checked; a 0 among what it may have stands for nothing, as in transformers."""
    needed, optional = KINDS[kind]
    values = section.values
    p: dict[str, Any] = {key: section.above(0, key) for key in needed}
    p |= {key: section.above(0, key) for key in optional if values.get(key) not in (None, 0)}
    if kind == "llama3" and p["high_freq_factor"] <= p["low_freq_factor"]:
        want = f"greater than low_freq_factor, {p['low_freq_factor']:g}"
        raise section.wrong("high_freq_factor", values["high_freq_factor"], want)
    trained = "original_max_position_embeddings"
    p[trained] = (keys if keys.values.get(trained) is not None else section).positive(trained, default=max_position)
    return p | {"truncate": section.get(bool, "truncate", default=True), "max_position": max_position}


def inverse_frequencies(rope: RopeConfig, *, long: bool = False) -> tuple[Frequencies, float]:
    """Radians a position for each pair, float[dim / 2], and the factor of cos and sin.

    Args:
        long: those of sequences longer than what was trained; of kind longrope only.
    """
    p: dict[str, Any] = dict(rope.parameters or {})
    plain = (1 / np.float32(rope.theta) ** _exponents(rope.dim)).astype(np.float32)
    if rope.kind == "linear":
        return plain / np.float32(p["factor"]), 1.0
    if rope.kind == "llama3":
        return _llama3(plain, p), 1.0
    if rope.kind == "yarn":
        return _yarn(plain, rope, p)
    if rope.kind == "longrope":
        return _longrope(rope, p, long)
    return plain, 1.0


def _exponents(dim: int) -> Frequencies:
    return np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)


def _llama3(plain: Frequencies, p: dict[str, Any]) -> Frequencies:
    """Long waves are stretched by ``factor``, short ones are kept, those between are blended. Llama 3.1."""
    old, low, high = p["original_max_position_embeddings"], p["low_freq_factor"], p["high_freq_factor"]
    wavelength = 2 * math.pi / plain
    blend = (old / wavelength - low) / (high - low)
    blended = (1 - blend) * plain / p["factor"] + blend * plain
    stretched = np.where(wavelength > old / low, plain / p["factor"], plain)
    between = (wavelength >= old / high) & (wavelength <= old / low)
    return np.where(between, blended, stretched).astype(np.float32)


def _yarn(plain: Frequencies, rope: RopeConfig, p: dict[str, Any]) -> tuple[Frequencies, float]:
    """Interpolate slow pairs, keep fast ones, a ramp between. Peng et al., YaRN, 2023, arXiv:2309.00071."""
    old, factor = p["original_max_position_embeddings"], p["factor"]

    def pair_of(turns: float) -> float:
        return rope.dim * float(np.log(old / (turns * 2 * math.pi))) / (2 * math.log(rope.theta))

    low, high = pair_of(p.get("beta_fast") or 32), pair_of(p.get("beta_slow") or 1)
    if p.get("truncate", True):
        low, high = float(np.floor(low)), float(np.ceil(high))
    low, high = max(low, 0), min(high, rope.dim - 1)
    width = high - low or 0.001   # below 0 where every pair is slow: the ramp falls, as in transformers
    ramp = np.clip((np.arange(rope.dim // 2, dtype=np.float32) - low) / width, 0, 1)
    scaled = plain / factor * ramp + plain * (1 - ramp)
    return scaled.astype(np.float32), _yarn_attention(factor, p)


def _yarn_attention(factor: float, p: dict[str, Any]) -> float:
    def mscale(m: float) -> float:
        return 0.1 * m * math.log(factor) + 1 if factor > 1 else 1.0

    if p.get("attention_factor") is not None:
        return float(p["attention_factor"])
    if p.get("mscale") and p.get("mscale_all_dim"):
        return mscale(p["mscale"]) / mscale(p["mscale_all_dim"])
    return mscale(1)


def _longrope(rope: RopeConfig, p: dict[str, Any], long: bool) -> tuple[Frequencies, float]:
    """Each pair is stretched by a factor of its own. Ding et al., LongRoPE, 2024, arXiv:2402.13753."""
    stretch = np.array(p["long_factor" if long else "short_factor"], np.float32)
    frequencies = (1 / (stretch * np.float32(rope.theta) ** _exponents(rope.dim))).astype(np.float32)
    old = math.log(p["original_max_position_embeddings"])
    growth = math.log(p["factor"]) if p.get("factor") else math.log(p["max_position"]) - old
    return frequencies, float(p.get("attention_factor") or math.sqrt(1 + max(growth, 0) / old))


def angles(rope: RopeConfig, positions: Value, totals: Value, capacity: int, dtype: DType) -> tuple[Value, Value]:
    """cos and sin of each new token, float[B, S, dim / 2] of ``dtype``.

    Args:
        positions: i32[B, S].
        totals: i32[B], tokens of each sequence, new ones included; dynamic scaling and longrope depend on it.
        capacity: positions that the tables need.
    """
    p: dict[str, Any] = dict(rope.parameters or {})
    if rope.kind == "dynamic" and capacity > p["max_position"]:
        return _dynamic_angles(rope, positions, totals, p, dtype)
    if rope.kind == "longrope" and capacity > p["original_max_position_embeddings"]:
        return _long_angles(rope, positions, totals, p["original_max_position_embeddings"], dtype)
    frequencies, factor = inverse_frequencies(rope)
    pairs = rope.dim // 2
    turn = Constant(tuple(map(float, frequencies)), TensorType(f32, (1, pairs)))
    radians = Mul(Cast(Reshape(Iota(capacity), (capacity, 1)), f32), turn)
    cos, sin = (Gather(Mul(f(radians), scalar(factor, f32)), positions) for f in (Cos, Sin))
    return _narrowed(cos, dtype), _narrowed(sin, dtype)


def _dynamic_angles(
    rope: RopeConfig, positions: Value, totals: Value, p: dict[str, Any], dtype: DType
) -> tuple[Value, Value]:
    """The base grows with the length once it exceeds what was trained: no table can hold the angles."""
    batch = positions.shape[0]
    factor, trained = float(p["factor"]), float(p["max_position"])
    length = Maximum(Cast(totals, f32), scalar(trained, f32))
    growth = Add(Mul(length, scalar(factor / trained, f32)), scalar(1 - factor, f32))
    base = Mul(Pow(growth, scalar(rope.dim / (rope.dim - 2), f32)), scalar(rope.theta, f32))
    exponents = Constant(tuple(map(float, -_exponents(rope.dim))), TensorType(f32, (1, rope.dim // 2)))
    return _turned(positions, Pow(Reshape(base, (batch, 1)), exponents), 1.0, dtype)


def _long_angles(
    rope: RopeConfig, positions: Value, totals: Value, trained: int, dtype: DType
) -> tuple[Value, Value]:
    """Sequences that have outgrown what was trained turn by other frequencies, from the call on in which they do."""
    pairs = TensorType(f32, (1, rope.dim // 2))
    short, long = (
        Constant(tuple(map(float, inverse_frequencies(rope, long=grown)[0])), pairs) for grown in (False, True)
    )
    outgrown = Less(scalar(trained, i32), Reshape(totals, (positions.shape[0], 1)))
    return _turned(positions, Where(outgrown, long, short), inverse_frequencies(rope)[1], dtype)


def _turned(positions: Value, turn: Value, factor: float, dtype: DType) -> tuple[Value, Value]:
    """factor * cos and sin of positions i32[B, S] times f32[B, dim / 2], each sequence's own radians a position."""
    batch, tokens = positions.shape
    turn = Reshape(turn, (batch, 1, turn.shape[1]))
    radians = Mul(Reshape(Cast(positions, f32), (batch, tokens, 1)), turn)
    cos, sin = (f(radians) if factor == 1 else Mul(f(radians), scalar(factor, f32)) for f in (Cos, Sin))
    return _narrowed(cos, dtype), _narrowed(sin, dtype)


def _narrowed(x: Value, dtype: DType) -> Value:
    return x if dtype == f32 else Cast(x, dtype)
