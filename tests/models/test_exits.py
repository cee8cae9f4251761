"""A graph cut behind its exits: the parts together give what the whole gives, and what can't be cut says why."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgebuild.core.artifact import Artifact, Contract, Exit, Precision, Stage, TensorSpec
from edgebuild.errors import ModelError
from edgebuild.models.edits import AddHead
from edgebuild.models.exits import cut, with_exits
from edgebuild.models.host_session import HostSession

CLASSES = 4


def head(name: str, **more: Any) -> AddHead:
    return AddHead(name=name, after="0", features=8, outputs=CLASSES, **more)


def whole(*, batch: int = 1, exits: tuple[str, ...] = ("exit_a", "exit_b")) -> Any:
    """Dense layers in a row with a shortcut past the second exit; the exits are dense layers on the way."""
    random = np.random.default_rng(0)
    weights = {"w0": random.standard_normal((6, 8))}
    weights |= {name: random.standard_normal((8, 8)) for name in ("w1", "w2")}
    weights |= {name: random.standard_normal((8, CLASSES)) for name in ("exit_a_w", "exit_b_w", "w3")}
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["h0"]),
        helper.make_node("Constant", [], ["two"], value=numpy_helper.from_array(np.array(2.0, np.float32))),
        helper.make_node("Mul", ["h0", "two"], ["d0"]),
        helper.make_node("MatMul", ["d0", "exit_a_w"], ["exit_a"]),
        helper.make_node("MatMul", ["d0", "w1"], ["h1"]),
        helper.make_node("Mul", ["h1", "two"], ["d1"]),
        helper.make_node("MatMul", ["d1", "exit_b_w"], ["exit_b"]),
        helper.make_node("MatMul", ["d1", "w2"], ["h2"]),
        helper.make_node("Add", ["h2", "d0"], ["sum"]),
        helper.make_node("MatMul", ["sum", "w3"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "whole",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 6])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, CLASSES]) for name in (*exits, "logits")],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.mark.parametrize("confidence", ["max-probability", "entropy"])
def test_parts_give_what_the_whole_gives_and_how_sure_they_are(confidence: Any) -> None:
    model = whole()
    parts = cut(model, (head("b", confidence=confidence), head("a", confidence=confidence)))
    assert [part.output for part in parts] == ["exit_a", "exit_b", ""]
    for part in parts:
        onnx.checker.check_model(part.model, full_check=True)
    # What a later part reads is passed on, past the next one too; constants are in each.
    assert [value.name for value in parts[0].model.graph.output] == ["exit_a", "d0", "confidence_a"]
    assert [value.name for value in parts[2].model.graph.input] == ["d0", "d1"]
    x = np.random.default_rng(1).standard_normal((1, 6)).astype(np.float32) / 50
    expected = HostSession(model)({"x": x})
    values: dict[str, Any] = {"x": x}
    for part in parts:
        session = HostSession(part.model)
        values |= session({name: values[name] for name in session.inputs})
    for name, value in expected.items():
        np.testing.assert_allclose(values[name], value, rtol=1e-5)
    likely = np.exp(values["exit_b"]) / np.exp(values["exit_b"]).sum()
    sure = likely.max() if confidence == "max-probability" else (likely * np.log(likely)).sum()
    np.testing.assert_allclose(values["confidence_b"].item(), sure, rtol=1e-4)


def test_what_cant_be_cut_says_why() -> None:
    with pytest.raises(ModelError, match="one sample at a time, the model a batch of: 2"):
        cut(whole(batch=2), (head("a"), head("b")))
    with pytest.raises(ModelError, match="for one row of classes"):
        cut(whole(), (head("a"),))
    late = whole(exits=())
    late.graph.node.append(helper.make_node("Identity", ["logits"], ["exit_late"]))
    late.graph.output.insert(0, helper.make_tensor_value_info("exit_late", TensorProto.FLOAT, [1, CLASSES]))
    with pytest.raises(ModelError, match="'late' stands behind the whole model"):
        cut(late, (head("late"),))


def test_exits_stand_before_the_models_own_outputs() -> None:
    contract = Contract(
        inputs=(TensorSpec(name="x", shape=("batch", 6), dtype="float32"),),
        outputs=(TensorSpec(name="logits", shape=("batch", 4), dtype="float32"),),
    )
    told = with_exits(contract, (head("a"), head("b")))
    assert [spec.name for spec in told.outputs] == ["exit_a", "exit_b", "logits"]
    assert with_exits(contract, ()) == contract


def test_only_the_last_stage_of_a_chain_has_no_exit() -> None:
    way_out = Exit(name="a", output="exit_a", confidence="confidence_a", threshold=0.5)
    contract = Contract(inputs=(TensorSpec(name="x", shape=(1, 6), dtype="float32"),), outputs=())
    for stages in (
        (Stage(folder="0", exit=way_out),),
        (Stage(folder="0"), Stage(folder="1")),
        (Stage(folder="0"), Stage(folder="1", exit=way_out)),
    ):
        with pytest.raises(ValueError, match="every stage of a chain but the last has an exit"):
            Artifact(
                backend="x", entry="x", files=(), contract=contract, precision=Precision(kind="fp32"), stages=stages
            )
