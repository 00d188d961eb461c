"""Element types in TensorRT 8.6, whose networks are weakly typed: the builder may compute in f16 what it likes.

There, each layer is told its precision and what it gives, and the builder to obey. What the network says of a tensor's
element type is no more than a guess before it is built, so it is kept here. Later versions infer it.
"""

from __future__ import annotations

from typing import Any

from trtc.ir.graph import Graph
from trtc.ir.types import f16

MOVES = ("shuffle", "slice", "concatenation")   # 8.6 finds no kernel for f32 that only moves, where it is told to
BOOLEAN = ("LESS", "EQUAL", "GREATER", "AND", "OR", "NOT")


class WeakTypes:
    """The element types of a network's tensors.

    Args:
        trt: TensorRT's Python module.
    """

    def __init__(self, trt: Any) -> None:
        self.trt = trt
        self.strong = hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")
        self._known: dict[Any, Any] = {}

    def __getitem__(self, tensor: Any) -> Any:
        """TensorRT's element type of a tensor."""
        return tensor.dtype if self.strong else self._known[tensor]

    def __setitem__(self, tensor: Any, dtype: Any) -> None:
        self._known[tensor] = dtype

    def settle(self, layer: Any, kind: str, arguments: tuple[Any, ...]) -> None:
        """Bind a new layer to the types that its inputs give it."""
        if self.strong:
            return
        dtypes = self._given(layer, kind, arguments)
        computes = kind not in (*MOVES, "cast") and dtypes[0] in (self.trt.float32, self.trt.float16)
        bound = kind == "fill" or computes
        if bound and kind != "fill":
            layer.precision = dtypes[0]
        for index, dtype in enumerate(dtypes):
            if bound:
                layer.set_output_type(index, dtype)
            self._known[layer.get_output(index)] = dtype

    def output(self, tensor: Any) -> None:
        """Give an output of the network its own element type: f32 otherwise, whatever its layer gives."""
        if not self.strong:
            tensor.dtype = self._known[tensor]

    def configure(self, config: Any, graph: Graph) -> None:
        """Let the builder compute in what the graph is in, and in nothing else: f32 is f32, too."""
        flags = self.trt.BuilderFlag
        config.clear_flag(flags.TF32)
        if not self.strong:
            config.set_flag(flags.OBEY_PRECISION_CONSTRAINTS)
            if any(t.dtype == f16 for op in graph.ops for t in op.types):
                config.set_flag(flags.FP16)

    def _given(self, layer: Any, kind: str, arguments: tuple[Any, ...]) -> list[Any]:
        """The element types of a layer's outputs."""
        trt = self.trt
        if kind == "constant":
            return [arguments[1].dtype]
        if kind == "cast":
            return [arguments[1]]
        if kind in ("shape", "fill"):
            return [trt.int32]
        if kind in ("elementwise", "unary") and arguments[-1].name in BOOLEAN:
            return [trt.bool]
        if kind == "topk":
            return [self._known[arguments[0]], trt.int32]
        first = arguments[0][0] if kind == "concatenation" else arguments[1 if kind == "select" else 0]
        return [self._known[first]]
