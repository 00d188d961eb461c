"""Lifts from ONNX, in files by kind. Importing this package registers them all."""

from trtc.frontend.onnx.lift import elementwise, folds, indexing, linear, shape
from trtc.frontend.onnx.lift.registry import FOLDS, LIFTS, Lifted, Node, lift

__all__ = ["FOLDS", "LIFTS", "Lifted", "Node", "elementwise", "folds", "indexing", "lift", "linear", "shape"]
