"""Kernels of ONNX Runtime that ONNX has no op for, as ops of the IR."""

from __future__ import annotations

from trtc.backend.fused import SumAndRMSNorm, turned_heads
from trtc.ir.op import Op, Value, require
from trtc.ir.ops import Attention, Experts, KVCacheUpdate, Reshape, SizeOf, Slice, Sub, Transpose
from trtc.ir.types import TensorType


class GroupQueryAttention(Op, name="onnxruntime.group_query_attention"):
    """Rope, cache update and causal attention in one kernel, whose cost follows the length and not the capacity.

    Token s of a sequence stands at position ``length - S + s``; its key and value are written there. The kernel
    takes several tokens (S > 1) of a batch (B > 1) only where all caches are empty, and refuses them otherwise.

    Operands:
        qkv: float[B, S, (Hq + 2 * Hkv) * D], the heads of q, then of k, then of v.
        key_cache, value_cache: float[B, Hkv, M, D], updated in place where both results alias them.
        lengths: i32[B], keys of each sequence, new tokens included.
        cos, sin: float[P, R/2], by position, of qkv's dtype or wider; none for no rotation.
        slopes: as of attention.
    Attributes:
        heads, kv_heads: Hq and Hkv.
        scale, window, softcap: as of attention.
        interleaved: as of rope.
        flash: take the flash kernel. The other is quicker where a batch has several sequences (a decode step of 8: 1.1
            times; of 1: 0.95 times), and only with a scale of 1.
    Result:
        float[B, S, Hq * D], then the two caches.
    """

    qkv: Value
    key_cache: Value
    value_cache: Value
    lengths: Value
    cos: Value | None = None
    sin: Value | None = None
    slopes: Value | None = None
    heads: int = 1
    kv_heads: int = 1
    scale: float = 1.0
    window: int = 0
    softcap: float = 0.0
    interleaved: bool = False
    flash: bool = True

    def infer(self) -> tuple[TensorType, TensorType, TensorType]:
        batch, kv_heads, _, size = self.key_cache.shape
        require(kv_heads == self.kv_heads, f"key_cache has {kv_heads} heads, but kv_heads is {self.kv_heads}")
        _, tokens, _ = self.qkv.shape
        assert isinstance(size, int)
        want = self.qkv.dtype[batch, tokens, (self.heads + 2 * self.kv_heads) * size]
        require(self.qkv.type == want, f"qkv is {self.qkv.type}, but must be {want}")
        return self.qkv.dtype[batch, tokens, self.heads * size], self.key_cache.type, self.value_cache.type

    def decompose(self) -> tuple[Value, ...]:
        batch, tokens, _ = self.qkv.shape
        size = self.key_cache.shape[3]
        assert isinstance(size, int)
        start = Sub(self.lengths, SizeOf(self.qkv, 1))
        q, k, v = turned_heads(
            self.qkv, start, self.cos, self.sin,
            heads=self.heads, kv_heads=self.kv_heads, size=size, interleaved=self.interleaved,
        )   # fmt: skip
        keys, values = KVCacheUpdate(self.key_cache, k, start), KVCacheUpdate(self.value_cache, v, start)
        y = Attention(
            q, keys, values, self.lengths, None, self.slopes,
            scale=self.scale, window=self.window, softcap=self.softcap,
        )   # fmt: skip
        return Reshape(Transpose(y, (0, 2, 1, 3)), (batch, tokens, self.heads * size)), keys, values


class SkipRMSNorm(SumAndRMSNorm, name="onnxruntime.skip_rms_norm"):
    """``rms_norm(x + skip)``, and the sum.

    Operands:
        x, skip: float[B, S, H].
        weight: float[H].
    Attributes:
        eps: as of rms_norm.
    Result:
        The norm, then ``x + skip``, both of x's type.
    """

    def infer(self) -> tuple[TensorType, TensorType]:
        require(self.x.type.rank == 3, f"x has rank {self.x.type.rank}, but must have rank 3")
        return super().infer()


class MoE(Op, name="onnxruntime.moe"):
    """``experts``, each computed for its own tokens only, with the rows of fc and gate in turns.

    Operands:
        x, chosen, shares, proj: as of experts.
        fc_gate: float[E, 2 * I, H], a row of fc, then one of gate, and so on.
    """

    x: Value
    chosen: Value
    shares: Value
    fc_gate: Value
    proj: Value

    def infer(self) -> TensorType:
        return self.decompose().type

    def decompose(self) -> Value:
        experts, hidden, width = self.proj.shape
        paired = Reshape(self.fc_gate, (experts, width, 2, hidden))
        fc, gate = (Reshape(Slice(paired, 2, i, 1), (experts, width, hidden)) for i in (0, 1))
        return Experts(self.x, self.chosen, self.shares, fc, gate, self.proj)
