"""A pass of your own: SwiGLU, spelt out.

    trtc opt model.trtc --load examples/custom_pass.py -p expand-swiglu --explain
    trtc compile MODEL_DIR -o ENGINE_DIR --load examples/custom_pass.py --passes fuse,expand-swiglu
"""

from trtc.ir.op import Value
from trtc.ir.ops import Mul, Sigmoid, SwiGLU
from trtc.passes import Skip, rewrite


@rewrite("expand-swiglu")
def expand_swiglu(op: SwiGLU) -> Value | Skip:
    """swiglu(gate, up)  ->  gate * sigmoid(gate) * up"""
    if op.dtype.name == "bf16":
        return Skip("bf16 would be rounded twice more")
    return Mul(Mul(op.gate, Sigmoid(op.gate)), op.up)
