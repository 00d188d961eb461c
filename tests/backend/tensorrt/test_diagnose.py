"""What TensorRT says, made readable."""

from __future__ import annotations

import pytest
from tensorrt_standin import standin

from trtc.backend.tensorrt.diagnose import Diagnostics, readable
from trtc.ir import f16
from trtc.ir.ops import Input

SAID = {
    "IAttention::setMask: Error Code 3: API Usage Error (Parameter check failed, condition: a.causalKind == kNONE. "
    "Option mask cannot be used with it. In setMask at /_src/optimizer/api/attention.cpp:107)": (
        "Option mask cannot be used with it"
    ),
    "INetworkDefinition::addInput: Error Code 3: API Usage Error (Parameter check failed, condition: inName != "
    "knownInput->getName().  In addInput at /_src/optimizer/api/network.cpp:2397)": (
        "Parameter check failed, condition: inName != knownInput->getName()"
    ),
    "[elementWiseNode.cpp::computeOutputExtents::85] Error Code 2: Internal Error (Assertion x.nbDims == y.nbDims "
    "failed.  mismatched inputs : x [B] and y [] in z In computeOutputExtents at /_src/nodes.cpp:85)": (
        "Assertion x.nbDims == y.nbDims failed. mismatched inputs : x [B] and y [] in z"
    ),
    "IBuilder::build: Error Code 1: Myelin ([myelin_graph.h:1295: attachExceptionMsgToGraph] MyelinCheckException: "
    "decompose.cpp:59: CHECK(fits) failed. No kernel fits.)": "CHECK(fits) failed. No kernel fits.",
    "2: [virtualMemoryBuffer.cpp::resizePhysical::144] Error Code 2: OutOfMemory (no further information)": (
        "out of memory: no further information"
    ),
    "[x.cpp::allocate::38] Error Code 1: Cuda Runtime ()": "Cuda Runtime: no further information",
    "[x.cpp::allocate::38] Error Code 1: Cuda Driver (no further information)": "Cuda Driver: no further information",
    "a line of another form": "a line of another form",
}


@pytest.mark.parametrize(("line", "means"), SAID.items())
def test_a_line_loses_places_in_tensorrts_source(line: str, means: str) -> None:
    assert readable(line) == means


EXPLAINED = {   # as 8.6 said it on a GPU
    "[optimizer.cpp::computeCosts::3869] Error Code 10: Internal Error (Could not find any implementation for node "
    "{ForeignNode[x...y]}.)": "TensorRT finds no kernels for a part of the network",
    "Unable to load library: libnvinfer_lean.so.8.6.0": (
        "TensorRT needs the library of its lean runtime to build version-compatible plans"
    ),
}


@pytest.mark.parametrize(("line", "means"), EXPLAINED.items())
def test_a_line_that_does_not_say_what_to_do(line: str, means: str) -> None:
    """And the first op of a network that is one layer is not to blame."""
    diagnostics = Diagnostics(standin("8.6"))
    error = diagnostics.refusal(Input("x", f16[4]), readable(line))
    first, *_, last = str(error).splitlines()
    assert first == f"error: {means}" and last.startswith("  = help: ")
