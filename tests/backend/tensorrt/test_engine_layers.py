"""What TensorRT has fused, read from a real plan of TensorRT-RTX and from the inspector's JSON; and where time goes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from trtc.backend.tensorrt.engine_layers import EngineLayer, inspected_layers, plan_layers, spelt
from trtc.backend.tensorrt.layer_times import grouped, timed
from trtc.backend.tensorrt.origins import origins
from trtc.backend.tensorrt.weightless import without_weights
from trtc.errors import TrtcError
from trtc.ir import Graph, at, f16
from trtc.ir.cost import cost, fused_cost
from trtc.ir.op import Op
from trtc.ir.ops import Add, Attention, Input, Linear, Mul, Reshape, SiLU, Weight


def block() -> Graph:
    """y = x + proj(silu(fc(x)) * fc(x)), all by 64; a reshape that moves nothing stands between."""
    x = Input("x", f16["B", 64])
    with at("layers.0.mlp.fc"):
        fc = Linear(x, Weight("fc", f16[64, 64]))
    with at("layers.0.mlp.act"):
        act = Mul(SiLU(fc), fc)
    with at("layers.0.mlp.proj"):
        proj = Linear(Reshape(act, act.shape), Weight("proj", f16[64, 64]))
    with at("layers.0.mlp.residual"):
        y = Add(x, proj)
    return Graph("g", (x,), {"y": y}, {"B": (1, 4)})


def names(ops: Sequence[Op]) -> list[str]:
    return [f"{op.loc.rpartition('.')[2]}/{op.name}" for op in ops]


DETAILED = {   # as TensorRT 10 and 11 write it: metadata of each layer, joined
    "Layers": [
        {
            "Name": "layers.0.mlp.fc/linear_myl0_0", "LayerType": "gemm", "StreamId": 0,
            "Inputs": [{"Name": "x", "Dimensions": [4, 64], "Format/Datatype": "Half"}],
            "Outputs": [{"Name": "__my0", "Dimensions": [4, 64], "Format/Datatype": "Half"}],
            "TacticName": "sm90_xmma_gemm_f16f16_f16f32_f32_tn_n", "Metadata": "layers.0.mlp.fc/linear",
        },
        {
            "Name": "__myl_SiluMul_myl0_1", "LayerType": "kgen",
            "Metadata": "layers.0.mlp.act/mul\u001elayers.0.mlp.act/silu\u001fsomething else",
        },
        {
            "Name": "__myl_FcAdd_myl0_2", "LayerType": "gemm",
            "Metadata": "layers.0.mlp.proj/linear\u001elayers.0.mlp.residual/add",
        },
        {"Name": "Reformatting CopyNode for Output Tensor 0 to y", "LayerType": "Reformat", "Metadata": ""},
        {"Name": "__myl_SiluMul_myl1_1 [profile 1]", "LayerType": "kgen", "Metadata": "layers.0.mlp.act/silu"},
    ],
    "Bindings": ["x", "y"],
}   # fmt: skip

NAMED = {   # as TensorRT 8.6 writes it, with layer_names_only: strings
    "Layers": [
        "layers.0.mlp.fc/linear",
        "PWN(PWN(layers.0.mlp.act/silu.sigmoid), layers.0.mlp.act/mul)",
        "layers.0.mlp.proj/linear.lift",
        "layers.0.mlp.proj/linear + layers.0.mlp.residual/add",
        "Reformatting CopyNode for Input Tensor 0 to layers.0.mlp.fc/linear [profile 1]",
        "{ForeignNode[layers.0.mlp.act/silu...layers.0.mlp.residual/add]} [profile 1]",
    ],
    "Bindings": ["x", "y"],
}


def test_layers_are_mapped_by_what_they_say() -> None:
    first, second = inspected_layers(DETAILED, block())
    assert [names(layer.ops) for layer in first] == [
        ["fc/linear"], ["act/silu", "act/mul"], ["proj/linear", "residual/add"], [],
    ]   # fmt: skip
    assert [(layer.name, layer.kind) for layer in second] == [("__myl_SiluMul_myl1_1", "kgen")]


def test_layers_are_mapped_by_their_names_where_they_say_nothing() -> None:
    first, second = inspected_layers(NAMED, block())
    assert [names(layer.ops) for layer in first] == [
        ["fc/linear"], ["act/silu", "act/mul"], ["proj/linear"], ["proj/linear", "residual/add"],
    ]   # fmt: skip
    assert [names(layer.ops) for layer in second] == [
        ["fc/linear"], ["act/silu", "act/mul", "proj/reshape", "proj/linear", "residual/add"],
    ]   # fmt: skip


def test_a_network_that_is_one_layer_begins_with_a_constant() -> None:
    """As 8.6 names it; copies before and after it are of no op."""
    whole = "{ForeignNode[layers.0.mlp.fc.weight...layers.0.mlp.residual/add]}"
    document = {"Layers": [f"Reformatting CopyNode for Input Tensor 0 to {whole}", whole]}
    copied, fused = inspected_layers(document, block())[0]
    assert copied.ops == () and names(fused.ops) == [
        "fc/linear", "act/silu", "act/mul", "proj/reshape", "proj/linear", "residual/add",
    ]   # fmt: skip


def test_a_name_that_is_no_layers_of_ours_maps_to_nothing() -> None:
    document = {"Layers": ["(Unnamed Layer* 65) [Shuffle]", "{ForeignNode[a...b]}", {"LayerType": "NoOp"}]}
    assert [layer.ops for layer in inspected_layers(document, block())[0]] == [(), (), ()]
    assert inspected_layers({}, block()) == []


def test_ops_of_one_place_and_kind_are_told_apart() -> None:
    x = Input("x", f16["B", 4])
    with at("norm"):
        first = Mul(x, x)
        second = Mul(first, x)
    graph = Graph("g", (x,), {"y": second}, {"B": (1, 4)})
    assert origins(graph) == {first: "norm/mul", second: "norm/mul#2"}
    document = {"Layers": [{"Name": "a", "Metadata": "norm/mul#2"}, "norm/mul#2", "norm/mul.number#7"]}
    assert [layer.ops for layer in inspected_layers(document, graph)[0]] == [(second,), (second,), (first,)]


def test_places_are_spelt_once() -> None:
    graph = block()
    fc, silu, mul, proj, add = computed(graph)
    reshape = next(op for op in graph.ops if op.name == "reshape")
    assert spelt([fc, silu, mul]) == "layers.0.mlp: fc/linear, act/silu+mul"
    assert spelt([proj, add]) == "layers.0.mlp: proj/linear, residual/add"
    assert spelt([reshape]) == "layers.0.mlp: proj/reshape"
    assert spelt([]) == ""


@pytest.mark.parametrize("weightless", [False, True])
def test_the_plan_of_tensorrt_rtx_says_what_it_fused(weightless: bool, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    from tensorrt_evaluator import build_plan, kernels
    from tensorrt_models import BASE, model

    made = model(BASE, f16)
    graph = without_weights(made.lowered) if weightless else made.lowered
    plan, _ = build_plan(graph, made.tensors, tmp_path / "engine")
    profiles = plan_layers(plan, made.lowered)   # which is what the bundle holds, in either case
    assert len(profiles) == 2
    for layers in profiles:
        fused = [layer for layer in layers if "_mha_" in layer.name]
        assert [layer.ops[0].loc for layer in fused] == [f"transformer.layers.{n}.attention" for n in range(2)]
        assert all(isinstance(layer.ops[0], Attention) for layer in fused)
        named = {op for layer in layers for op in layer.ops}
        left = {op for op in origins(made.lowered) if op not in named}
        moves = {"reshape", "size_of", "broadcast", "transpose"}   # a transpose of one token moves nothing
        assert {op.name for op in left} <= moves   # all other ops run somewhere
        residual = next(x for x in layers if any(op.loc == "transformer.layers.0.mlp.residual" for op in x.ops))
        assert "transformer.layers.0.mlp.proj" in {op.loc for op in residual.ops}   # added by the product's own kernel
        assert {layer.name[:90] for layer in layers if "/" not in layer.name} <= kernels(plan)


def test_a_plan_without_text_is_refused() -> None:
    with pytest.raises(TrtcError, match="the plan does not say what its layers are"):
        plan_layers(b"ftrt" + bytes(64), block())


def computed(graph: Graph) -> list[Op]:
    """fc, silu, mul, proj, add."""
    return [op for op in graph.ops if op.name in ("linear", "silu", "mul", "add")]


def layer(name: str, *ops: Op) -> EngineLayer:
    return EngineLayer(name, "kgen", ops)


def test_layers_that_share_an_op_are_counted_together() -> None:
    a, b, c, d, *_ = computed(block())
    one, two, three, four = layer("1", a), layer("2", b, c), layer("3", c, d), layer("4")
    assert grouped([one, two, three, four]) == [[one], [two, three], [four]]
    assert grouped([layer("5", a), layer("6", b), layer("7", b, a)]) == [
        [layer("6", b), layer("5", a), layer("7", b, a)],
    ]   # fmt: skip


def test_recorded_times_are_merged_with_what_the_ops_cost() -> None:
    graph, sizes = block(), {"B": 4}
    layers, _ = inspected_layers(DETAILED, graph)
    recorded = {
        "layers.0.mlp.fc/linear_myl0_0": [2e-6], "__myl_SiluMul_myl0_1": [1e-6], "__myl_FcAdd_myl0_2": [4e-6],
        "Reformatting CopyNode for Output Tensor 0 to y": [0.5e-6],
    }   # fmt: skip
    found = timed(layers, recorded, graph, sizes)
    assert [(group.seconds, names(group.ops)) for group in found] == [
        (4e-6, ["proj/linear", "residual/add"]), (2e-6, ["fc/linear"]), (1e-6, ["act/silu", "act/mul"]), (0.5e-6, []),
    ]   # fmt: skip
    rows, weight = 4 * 64 * 2, 64 * 64 * 2   # bytes
    fused = found[0].cost                    # reads act, x and the weight; the product stays inside
    assert (fused.flops, fused.read, fused.written) == (2 * 4 * 64 * 64 + 4 * 64, 2 * rows + weight, rows)
    assert (found[2].cost.read, found[2].cost.written) == (rows, rows)
    assert found[1].efficiency(flops=1e12, bandwidth=1e10) == pytest.approx((2 * rows + weight) / 1e10 / 2e-6)
    assert found[3].cost.bytes == 0


def test_layers_of_one_name_take_their_times_in_turn() -> None:
    graph = block()
    a, b, *_ = computed(graph)
    found = timed([layer("k", a), layer("k", b), layer("none")], {"k": [1.0, 3.0]}, graph, {"B": 4})
    assert [group.seconds for group in found] == [3.0, 1.0, 0.0]


def test_what_several_read_leaves_a_fused_group_once() -> None:
    graph = block()
    fc, silu, mul, *_ = computed(graph)
    sizes, rows = {"B": 4}, 4 * 64 * 2
    assert fused_cost([silu], graph, sizes) == cost(silu, sizes)
    both = fused_cost([silu, mul], graph, sizes)
    assert (both.read, both.written) == (rows, rows)   # of what fc gives, which both read
    assert fused_cost([fc, silu, mul], graph, sizes).written == rows


def test_attention_is_costed_at_what_was_seen() -> None:
    q, k = Input("q", f16["B", 4, "S", 16]), Input("k", f16["B", 2, 1000, 16])
    with at("a"):
        y = Attention(q, k, k)
    graph = Graph("g", (q, k), {"y": y}, {"B": (1, 4), "S": (1, 8)})
    (found,) = timed([layer("mha", y)], {"mha": [1.0]}, graph, {"B": 1, "S": 1}, context=10)
    assert found.cost.flops == 2 * 4 * 10 * (16 + 16)
