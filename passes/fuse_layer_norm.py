"""Normalisation to mean 0, as one op."""

from __future__ import annotations

from trtc.ir.graph import Graph
from trtc.ir.op import Value
from trtc.ir.ops import Add, LayerNorm, ReduceMean, RMSNorm, Sub
from trtc.passes.rewrite import Skip, rewrite


@rewrite("fuse-layer-norm")
def fuse_layer_norm(op: RMSNorm | Add, graph: Graph) -> Value | Skip | None:
    """rms_norm(x - mean(x), weight)  ->  layer_norm(x, weight);  layer_norm(x, weight) + bias  ->  with a bias

    What exporters write out of a layer norm is the root-mean-square norm, found first, of what is centred.
    """
    match op:
        case RMSNorm(Sub(x, ReduceMean(y, axis)), weight, eps) if x is y:
            if axis != x.type.rank - 1:
                return Skip(f"the mean is over axis {axis}, but must be over the last, {x.type.rank - 1}")
            return LayerNorm(x, weight, eps=eps)
        case Add(LayerNorm() as normal, bias) | Add(bias, LayerNorm() as normal) if normal.bias is None:
            read_besides = len(graph.users[normal]) > 1 or normal in graph.outputs.values()
            if bias.type != normal.weight.type or read_besides:
                return Skip(f"{bias.type} is no bias of it, or something else reads the norm")
            return LayerNorm(normal.x, normal.weight, bias, eps=normal.eps)
        case _:
            return None
