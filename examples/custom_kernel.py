"""A kernel of your own: an op, a rule that finds it, and CUDA C++ that computes it.

    trtc opt model.trtc --load examples/custom_kernel.py -p fuse-relu-squared --check --explain
    trtc compile MODEL_DIR -o ENGINE_DIR --target tensorrt:10.13/sm90 --load examples/custom_kernel.py \
        -p fuse,fuse-relu-squared
"""

from trtc.backend.kernels import Launch, ceildiv, count, kernel, operand, product, result
from trtc.ir.op import Op, Value
from trtc.ir.ops import Mul, ReLU
from trtc.ir.types import TensorType, f32
from trtc.passes import rewrite


class ReLUSquared(Op, name="example.relu_squared"):
    """``max(x, 0)^2``."""

    x: Value

    def infer(self) -> TensorType:
        return self.x.type

    def decompose(self) -> Value:
        return Mul(ReLU(self.x), ReLU(self.x))


@rewrite("fuse-relu-squared")
def fuse_relu_squared(op: Mul) -> Value | None:
    """relu(x) * relu(x)  ->  relu_squared(x)"""
    match op.a, op.b:
        case ReLU(x), ReLU(y) if x is y:
            return ReLUSquared(x)
        case _:
            return None


@kernel("custom_kernel.cu", serves=lambda op: None if op.dtype == f32 else f"x is {op.dtype}, but must be f32")
def relu_squared(op: ReLUSquared) -> Launch:
    """A thread makes an element."""
    elements = product(*op.type.shape)
    return Launch(
        "relu_squared", {"THREADS": 256}, (ceildiv(elements, 256), 1, 1), (256, 1, 1),
        (operand("x"), result(), count(elements)), overlaps=False,
    )   # fmt: skip
