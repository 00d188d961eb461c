"""Gemma 3, its text part: Gemma 2 with norms of q and k, one cap, and rotary positions of their own in windows.

Gemma Team, Gemma 3 Technical Report, 2025, arXiv:2503.19786.
"""

from __future__ import annotations

from dataclasses import replace

from trtc.frontend.config import DecoderConfig, Keys, RopeConfig
from trtc.frontend.families.base import Family, register
from trtc.frontend.families.gemma import FEEDFORWARD_NORMS, gemma2_config
from trtc.frontend.families.llama import NAMES
from trtc.frontend.families.qwen import QK_NORMS
from trtc.frontend.families.windows import read_windows
from trtc.frontend.rope import read_rope

TEXT_NAMES = NAMES | QK_NORMS | FEEDFORWARD_NORMS


def gemma3_config(keys: Keys) -> DecoderConfig:
    """The decoder's config of a Gemma 3 checkpoint of text alone."""
    keys = keys.over(
        vocab_size=262208, num_attention_heads=8, max_position_embeddings=131072, attn_logit_softcapping=None,
        final_logit_softcapping=None, rope_theta=1e6, rope_local_base_freq=1e4, sliding_window=4096,
        sliding_window_pattern=6,
    )   # fmt: skip
    _uncapped(keys, "attn_logit_softcapping")
    config = gemma2_config(keys)
    pattern, size, positions = keys.positive("sliding_window_pattern"), config.head_dim, config.max_position_embeddings
    section = keys.section("rope_parameters") or Keys({}, keys.file)
    local = RopeConfig(keys.above(1, "rope_local_base_freq"), size)
    if inner := section.section("sliding_attention"):
        local = read_rope(Keys({"rope_theta": local.theta}, keys.file), size, positions, section=inner)
    full = None if keys.section("rope_scaling") else section.section("full_attention")
    return replace(
        config,
        architecture="Gemma3ForCausalLM",
        qk_norm="head",
        windows=read_windows(keys, config.num_hidden_layers, lambda n: (n + 1) % pattern > 0),
        rope=read_rope(keys, size, positions, section=full),
        local_rope=local,
    )


def gemma3_text_config(keys: Keys) -> DecoderConfig:
    """The decoder's config of the text part of a Gemma 3 checkpoint of text and images."""
    text = keys.section("text_config")
    if text is None:
        raise keys.wrong("text_config", keys.values.get("text_config"), "an object")
    _uncapped(text, "final_logit_softcapping")
    text = text.over(hidden_size=2304, intermediate_size=9216, num_hidden_layers=26)
    tied = keys.get(bool, "tie_word_embeddings", default=True)   # that of the text part is not asked
    return replace(gemma3_config(text), architecture="Gemma3ForConditionalGeneration", tie_word_embeddings=tied)


def _uncapped(keys: Keys, key: str) -> None:
    if keys.values.get(key) is not None:
        raise keys.wrong(key, keys.values[key], "null, as in every published checkpoint")


GEMMA3 = Family(
    name="Gemma 3",
    architectures=("Gemma3ForCausalLM",),
    features="as Gemma 2, norms of q and k by head, local rope in windows",
    config=gemma3_config,
    names=TEXT_NAMES,
)
GEMMA3_TEXT = Family(
    name="Gemma 3, text part",
    architectures=("Gemma3ForConditionalGeneration",),
    features="as Gemma 3, within a model of text and images",
    config=gemma3_text_config,
    names={role: f"language_model.{key}" for role, key in TEXT_NAMES.items()},
)
register(GEMMA3)
register(GEMMA3_TEXT)
