"""The same as an op by torch's libraries, to be timed beside our kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from trtc.backend.kernels.ops import PrefillAttention
from trtc.ir.op import Op

Call: TypeAlias = Callable[[Mapping[str, torch.Tensor]], object]


def same(op: Op) -> Iterator[tuple[str, Call]]:
    """Names, and calls on the op's operands as flat tensors; none where no library has the op."""
    if not isinstance(op, PrefillAttention):
        return
    batch, tokens, _ = op.q.shape
    _, kv_heads, _, size = op.key_cache.shape
    for name, backend in (("cuDNN", SDPBackend.CUDNN_ATTENTION), ("FlashAttention", SDPBackend.FLASH_ATTENTION)):

        def call(operands: Mapping[str, torch.Tensor], backend: SDPBackend = backend) -> object:
            q = operands["q"].view(batch, tokens, op.heads, size).transpose(1, 2)   # pyright: ignore
            k, v = (operands[key].view(batch, kv_heads, -1, size) for key in ("key_cache", "value_cache"))   # pyright: ignore
            with sdpa_kernel(backend):
                return scaled_dot_product_attention(q, k, v, is_causal=True, scale=op.scale, enable_gqa=True)

        yield name, call
