"""Stripped plans get their weights as they are loaded, from the file beside them."""

from __future__ import annotations

from math import prod

import numpy as np

from trtc.errors import TrtcError
from trtc.runtime.bundle import EngineBundle
from trtc.runtime.gpu.device import Device
from trtc.runtime.tensorrt.module import logger
from trtc.runtime.tensorrt.plan import Plan
from trtc.runtime.tensorrt.weights import read_header

NAMES = {
    "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32", "I8": "int8", "U8": "uint8",
    "BOOL": "bool",
}   # fmt: skip
"""TensorRT's names of element types, by those in safetensors files."""


def fill(plan: Plan, bundle: EngineBundle, device: Device) -> None:
    """Refit a plan that was stripped of its weights; any other stays as it is.

    Errors:
        TrtcError: a weight is missing, or TensorRT does not take one.
    """
    said = bundle.ranks[0].weights
    if said is None or said.use != "refit":
        return
    file = bundle.path / said.file
    start, header = read_header(file)
    refitter = plan.trt.Refitter(plan.engine, logger(plan.trt)[0])
    data = np.memmap(file, np.uint8, "r")   # which TensorRT reads as it refits
    for name, key in said.tensors.items():
        if key not in header:
            raise TrtcError(f"{file} has no tensor {key}, but engine.json lists it")
        entry = header[key]
        pointer = data[start + entry["data_offsets"][0] :].ctypes.data
        view = plan.trt.Weights(getattr(plan.trt, NAMES[entry["dtype"]]), pointer, prod(entry["shape"]))
        if not refitter.set_named_weights(name, view):
            raise plan.refusal(device, f"the weight {name}")
    if missing := refitter.get_missing_weights():
        raise TrtcError(f"{file} has no weight {missing[0]}, but the plan needs it", "help: compile it again")
    if not refitter.refit_cuda_engine():
        raise plan.refusal(device, "the refit of its weights")
