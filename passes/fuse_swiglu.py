"""silu(gate) * up, as one op."""

from __future__ import annotations

from trtc.ir.op import Value
from trtc.ir.ops import Mul, SiLU, SwiGLU
from trtc.passes.rewrite import Skip, rewrite


@rewrite("fuse-swiglu")
def fuse_swiglu(op: Mul) -> Value | Skip | None:
    """silu(gate) * up  ->  swiglu(gate, up)"""
    match op:
        case Mul(SiLU(gate), up) | Mul(up, SiLU(gate)):
            if gate.type != up.type:
                return Skip(f"up is broadcast: gate is {gate.type}, up is {up.type}")
            return SwiGLU(gate, up)
        case _:
            return None
