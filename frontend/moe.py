"""Mixtures of experts in plain ops: which experts a token goes to, and what they give."""

from __future__ import annotations

from dataclasses import replace

from trtc.frontend.config import DecoderConfig, MoEConfig
from trtc.frontend.layers import Lookup, cast, linear, mlp, times
from trtc.ir.op import Value, at
from trtc.ir.ops import (
    Add,
    Div,
    Experts,
    Gather,
    Iota,
    Linear,
    Mul,
    ReduceMax,
    ReduceSum,
    Reshape,
    Sigmoid,
    Softmax,
    TopK,
    product,
    scalar,
)  # fmt: skip
from trtc.ir.types import f32

TINY = 1e-20   # DeepSeek's, lest a sum be 0


def mixture(config: DecoderConfig, weights: Lookup, name: str, x: Value) -> Value:
    """The weighted sum of what a token's experts give, and the shared expert's product where there is one."""
    moe = config.moe
    assert moe
    hidden, shape = config.hidden_size, x.shape
    experts, width = moe.num_experts, moe.intermediate_size
    with at(f"{name}.router"):
        tokens = Reshape(x, (product(shape[:-1]), hidden))
    scores = _scores(moe, weights, f"{name}.router", tokens, hidden)
    chosen = _chosen(moe, weights, f"{name}.router", scores)
    with at(f"{name}.router"):
        shares = cast(_shares(moe, scores, chosen), x.dtype)
    with at(name):
        fc, gate = (weights(f"{name}.{part}.weight", experts, width, hidden) for part in ("fc", "gate"))
        proj = weights(f"{name}.proj.weight", experts, hidden, width)
        y = Experts(tokens, chosen, shares, fc, gate, proj)
        y = Reshape(y, shape)
    return _with_shared(config, moe, weights, name, x, y) if moe.shared_intermediate_size else y


def _scores(moe: MoEConfig, weights: Lookup, name: str, tokens: Value, hidden: int) -> Value:
    """softmax or sigmoid of the router's products, taken in f32: f32[N, E]."""
    with at(name):
        logits = Linear(cast(tokens, f32), weights(f"{name}.weight", moe.num_experts, hidden, dtype=f32))
        return Softmax(logits, 1) if moe.scoring == "softmax" else Sigmoid(logits)


def _chosen(moe: MoEConfig, weights: Lookup, name: str, scores: Value) -> Value:
    """i32[N, K], the experts of the greatest scores, within the best groups where experts lie in such."""
    with at(name):
        if moe.correction_bias:
            scores = Add(scores, weights(f"{name}.e_score_correction_bias", moe.num_experts, dtype=f32))
        if moe.topk_group == moe.n_group:
            return TopK(scores, moe.num_experts_per_tok)
        tokens, size = scores.shape[0], moe.num_experts // moe.n_group
        grouped = Reshape(scores, (tokens, moe.n_group, size))
        if moe.group_best == 1:
            best = ReduceMax(grouped, 2)
        else:
            flat = Reshape(scores, (tokens * moe.n_group, size))
            best = ReduceSum(Gather(flat, TopK(flat, moe.group_best), 1, 1), 1)
        groups = TopK(Reshape(best, (tokens, moe.n_group)), moe.topk_group)
        kept = (tokens, moe.topk_group * size)
        among = TopK(Reshape(Gather(grouped, groups, 1, 1), kept), moe.num_experts_per_tok)
        numbers = Gather(Reshape(Iota(moe.num_experts), (moe.n_group, size)), groups)
        return Gather(Reshape(numbers, kept), among, 1, 1)


def _shares(moe: MoEConfig, scores: Value, chosen: Value) -> Value:
    """What each of a token's experts counts: f32[N, K]."""
    shares: Value = Gather(scores, chosen, 1, 1)
    if moe.norm_topk_prob:
        shares = Div(shares, Add(ReduceSum(shares, 1), scalar(TINY, f32)))
    return times(shares, moe.routed_scaling_factor)


def _with_shared(config: DecoderConfig, moe: MoEConfig, weights: Lookup, name: str, x: Value, y: Value) -> Value:
    """The sum of y and what the expert that every token goes to gives."""
    shared = mlp(replace(config, intermediate_size=moe.shared_intermediate_size), weights, f"{name}.shared_expert", x)
    if moe.shared_gate:
        gate = linear(weights, f"{name}.shared_expert_gate", x, 1, False)
        with at(f"{name}.shared_expert_gate"):
            shared = Mul(Sigmoid(gate), shared)
    with at(name):
        return Add(y, shared)
