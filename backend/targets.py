"""Every target. Importing this module registers their records; it imports no package that builds or runs them."""

from trtc.backend.cuda import target as cuda
from trtc.backend.onnx import target as onnx
from trtc.backend.tensorrt import target as tensorrt
from trtc.ir.target import TARGETS, Target, target

__all__ = ["TARGETS", "Target", "cuda", "onnx", "target", "tensorrt"]
