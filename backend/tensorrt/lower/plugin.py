"""Ops that a kernel of ours computes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trtc.backend.tensorrt.plugins import call_of, registered
from trtc.ir.op import Op

if TYPE_CHECKING:
    from trtc.backend.tensorrt.emit import Emitter


def plugin(op: Op, emit: Emitter) -> Any:
    """one layer, whose further outputs are the op's further results"""
    call = call_of(op, emit.architecture)
    assert not isinstance(call, str), call   # which `legalize` has asked, too
    make = registered(emit.trt, call, emit.architecture)
    layer = emit.layer("plugin", make(*(emit[op.operands[name]] for name in call.operands)), True)
    for index, value in enumerate(op.results):
        emit.tensors[value] = layer.get_output(index)
    return layer.get_output(0)
