"""A plan that was built without its weights is given them when it is loaded."""

from __future__ import annotations

import numpy as np

from trtc.errors import TrtcError
from trtc.runtime.bundle import EngineBundle, Weights
from trtc.runtime.gpu.device import Device
from trtc.runtime.safetensors import read_places
from trtc.runtime.tensorrt.module import logger
from trtc.runtime.tensorrt.plan import Plan

DTYPES = {
    "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "fp8", "I64": "int64", "I32": "int32",
    "I8": "int8", "U8": "uint8", "BOOL": "bool",
}   # fmt: skip
"""TensorRT's names of the element types that safetensors files have."""


def refit(plan: Plan, bundle: EngineBundle, said: Weights, device: Device) -> None:
    """Put the weights of a bundle's file into a plan.

    Errors:
        TrtcError: the runtime cannot, the file lacks a weight, or TensorRT refuses one.
    """
    trt, file = plan.trt, bundle.path / said.file
    if not hasattr(trt, "Refitter"):
        raise TrtcError(f"{bundle.path} has a plan without weights, but {trt.__name__} cannot give it any",
                        "help: run it with the full TensorRT")   # fmt: skip
    places = read_places(file, said.tensors.values())
    refitter, data = trt.Refitter(plan.engine, logger(trt)), np.memmap(file, np.uint8, "r")
    for name, key in said.tensors.items():
        place = places[key]
        weights = trt.Weights(getattr(trt, DTYPES[place.dtype]), data[place.start :].ctypes.data, place.count)
        if not refitter.set_named_weights(name, weights):
            raise plan.refusal(device, f"the weight {name}")
    if missing := refitter.get_missing_weights():
        raise TrtcError(f"{file} has no weight {missing[0]}, but the plan needs it")
    if not refitter.refit_cuda_engine():   # which reads them all
        raise plan.refusal(device, "the refit of its weights")
