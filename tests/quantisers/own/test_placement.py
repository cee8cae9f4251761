from __future__ import annotations

from typing import Any

import pytest

from edgebuild.core.artifact import Int8Scheme
from edgebuild.quantisers.own.graph import is_kept, prepare
from edgebuild.quantisers.own.placement import Placement, place
from tests.techniques.nets import U8S8, Builder, depthwise_net, residual_net, stateful_net, token_net


def _place(model: Any, scheme: Int8Scheme = U8S8, keep: tuple[str, ...] = ()) -> Placement:
    return place(prepare(model), scheme, keep_float=keep)


def _tensors(placement: Placement) -> set[str]:
    return {point.tensor for point in placement.points}


def test_both_branches_of_a_residual_add_are_quantised() -> None:
    graph = prepare(residual_net())
    placement = place(graph, U8S8)
    add = next(i for i, node in enumerate(graph.nodes) if node.op_type == "Add")
    read = {(node, slot) for point in placement.points for node, slot in point.readers}
    assert {(add, 0), (add, 1)} <= read
    assert "sum" in placement.joint


def test_pairs_stand_after_the_fused_activation() -> None:
    tensors = _tensors(_place(residual_net()))
    assert {"image", "stem_relu", "c1_relu", "c2", "sum_relu", "pool"} == tensors - {"flat"}
    assert not {"stem", "c1", "sum"} & tensors, "a pair between a convolution and its Relu stops the fusion"


def test_what_only_moves_data_shares_its_range() -> None:
    groups = {point.tensor: point.group for point in _place(residual_net()).points}
    assert groups["flat"] == groups["pool"] == "pool"


def test_the_output_stays_float() -> None:
    placement = _place(residual_net())
    assert "logits" not in _tensors(placement)
    assert "logits" in {op.output for op in placement.ops}


def test_weighted_placement_takes_only_what_has_weights() -> None:
    placement = _place(residual_net(), Int8Scheme(activations="uint8", placement="weighted"))
    assert placement.joint == ()
    assert _tensors(placement) == {"image", "stem_relu", "c1_relu", "flat"}


def test_keep_float_takes_names_and_op_types() -> None:
    by_name = _place(residual_net(), keep=("c1",))
    assert "c1" not in {op.name for op in by_name.ops}
    assert dict(by_name.left_float)["c1"] == "kept float as asked"
    by_type = _place(residual_net(), keep=("Conv",))
    assert {op.kind for op in by_type.ops} == {"Gemm"}
    assert by_type.joint == (), "an Add between float convolutions gains nothing"


def test_keep_float_takes_scopes_and_what_was_fused_from_a_node() -> None:
    assert is_kept("encoder/0/MatMul/MatMulAddFusion", "Gemm", ("encoder/0/MatMul",))
    assert is_kept("encoder/0/Conv", "Conv", ("encoder",))
    assert not is_kept("encoder10/Conv", "Conv", ("encoder1", "encoder"))


def test_few_input_channels_stay_float_where_the_scheme_says_so() -> None:
    placement = _place(residual_net(), Int8Scheme(activations="uint8", float_below_channels=16))
    assert "stem" not in {op.name for op in placement.ops}
    assert "fewer than 16 input channels" in dict(placement.left_float)["stem"]
    assert "c1" in {op.name for op in placement.ops}


def test_depthwise_groups_and_the_matrix_product_behind_them() -> None:
    ops = {op.output: op for op in _place(depthwise_net()).ops}
    assert (ops["deep"].groups, ops["deep"].channels, ops["deep"].axis) == (16, 16, 0)
    assert (ops["logits"].kind, ops["logits"].axis) == ("MatMul", 1)
    assert ops["deep"].macs == 8 * 8 * 16 * 9


def test_the_bias_of_a_matrix_product_is_the_add_behind_it() -> None:
    ops = {op.kind: op for op in _place(token_net()).ops}
    assert ops["MatMul"].bias == "up_b"
    assert ops["MatMul"].bias_slot is not None
    assert ops["Gemm"].axis == 1


def test_bodies_of_control_flow_stay_float_and_are_reported() -> None:
    placement = _place(stateful_net())
    assert {op.name for op in placement.ops} == {"enc"}
    assert dict(placement.left_float)["score"] == "the bodies of If stay float"
    assert "state_out" not in _tensors(placement), "a subgraph reads it"


def test_constant_nodes_are_weights_too() -> None:
    assert len(_place(residual_net(constants_as_nodes=True)).ops) == len(_place(residual_net()).ops) == 4


def test_a_mean_over_space_is_pooling() -> None:
    b = Builder()
    x = b.add("Relu", [b.conv("image", "c", 3, 4)], "relu")
    x = b.add("Flatten", [b.add("ReduceMean", [x], "mean", axes=[2, 3], keepdims=1)], "flat")
    b.add("MatMul", [x, b.weight("w", 4, 2)], "logits")
    model = b.model({"image": (1, [1, 3, 4, 4])}, {"logits": [1, 2]})
    graph = prepare(model)
    assert "GlobalAveragePool" in {node.op_type for node in graph.nodes}
    assert place(graph, U8S8).joint == ("mean",)


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_a_scaled_gemm_has_no_kernel(alpha: float) -> None:
    b = Builder()
    b.add("Gemm", ["x", b.weight("w", 4, 2), b.weight("c", 2)], "y", alpha=alpha)
    model = b.model({"x": (1, [1, 4])}, {"y": [1, 2]})
    placement = _place(model)
    assert bool(placement.ops) == (alpha == 1.0)
    if alpha != 1.0:
        assert "alpha" in dict(placement.left_float)["y"]
