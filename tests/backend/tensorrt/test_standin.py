"""Stand-ins of TensorRT's modules have the names of one version, and refuse what pybind11 refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorrt_api
from tensorrt_standin import standin


def test_the_table_of_rtx_is_what_the_installed_bindings_say() -> None:
    rtx = pytest.importorskip("tensorrt_rtx_bindings")
    assert rtx.__version__.startswith("1.7.")
    assert tensorrt_api.described(rtx.tensorrt_rtx) == tensorrt_api.table("rtx 1.7")


def test_versions_are_written_as_spans() -> None:
    for some in ({"8.6"}, {"10.0", "10.1", "11.4", "rtx 1.4"}, {*tensorrt_api.VERSIONS}, {"8.6", "10.1"}):
        assert tensorrt_api.spelt_out(tensorrt_api.spans(some)) == some


def network(version: str) -> Any:
    trt = standin(version)
    made = trt.Builder(trt.Logger()).create_network(1)
    return trt, made, made.add_input("x", trt.float32, (2, 3))


def test_names_are_those_of_the_version() -> None:
    assert hasattr(standin("10.14").INetworkDefinition, "add_attention")
    assert not hasattr(standin("10.13").INetworkDefinition, "add_attention")
    assert not hasattr(standin("8.6"), "bfloat16") and hasattr(standin("10.0"), "bfloat16")
    assert hasattr(standin("10.16").BuilderFlag, "FP16") and not hasattr(standin("11.0").BuilderFlag, "FP16")


def test_arguments_are_those_of_the_version() -> None:
    trt, net, x = network("10.13")
    assert net.add_topk(x, trt.TopKOperation.MAX, 2, 2).k == 2
    with pytest.raises(TypeError, match="takes"):
        net.add_topk(x, trt.TopKOperation.MAX, 2, 2, trt.int64)
    trt, net, x = network("10.14")
    net.add_topk(x, trt.TopKOperation.MAX, 2, 2, trt.int64)
    for wrong in ((x, trt.UnaryOperation.NEG, 2, 2), (x, trt.TopKOperation.MAX, 2.5, 2), (None, trt.TopKOperation.MAX)):
        with pytest.raises(TypeError, match="takes"):
            net.add_topk(*wrong)
    with pytest.raises(TypeError, match="takes"):
        net.add_topk(x, trt.TopKOperation.MAX, k=2, ax=1)


def test_properties_are_those_of_the_version() -> None:
    trt, net, x = network("10.16")
    layer = net.add_unary(x, trt.UnaryOperation.NEG)
    layer.precision = trt.float16
    trt, net, x = network("11.0")
    layer = net.add_unary(x, trt.UnaryOperation.NEG)
    with pytest.raises(AttributeError, match=r"IUnaryLayer has no precision in TensorRT 11\.0"):
        layer.precision = trt.float16
    with pytest.raises(TypeError, match=r"op = 3: TensorRT 11\.0 takes UnaryOperation"):
        layer.op = 3
    with pytest.raises(AttributeError):
        layer.num_inputs = 4


def test_shapes_and_types_follow() -> None:
    trt, net, x = network("10.14")
    y = net.add_reduce(x, trt.ReduceOperation.SUM, 2, True).get_output(0)
    z = net.add_elementwise(x, y, trt.ElementWiseOperation.LESS).get_output(0)
    assert (y.shape, y.dtype, z.shape, z.dtype) == ((2, 1), trt.float32, (2, 3), trt.bool)
    shape = net.add_shape(z).get_output(0)
    assert (shape.shape, shape.dtype) == ((2,), trt.int64)
    w = net.add_constant((3, 5), trt.Weights(np.zeros((3, 5), np.float32))).get_output(0)
    none = trt.MatrixOperation.NONE
    assert net.add_matrix_multiply(x, none, w, none).get_output(0).shape == (2, 5)
    with pytest.raises(AssertionError, match="multiplies"):
        _ = net.add_matrix_multiply(w, none, w, none).get_output(0).shape
    assert net.num_layers == 6 and net.get_layer(0).name == "(Unnamed Layer 0)"


def test_outputs_of_a_weakly_typed_network_are_f32_unless_told() -> None:
    for version, told in (("8.6", False), ("8.6", True), ("10.0", False)):
        trt, net, x = network(version)
        y = net.add_cast(x, trt.float16).get_output(0)
        if told:
            y.dtype = trt.float16
        net.mark_output(y)
        assert net.get_output(0).dtype == (trt.float16 if told or version == "10.0" else trt.float32)
