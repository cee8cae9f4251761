"""Operators that do nothing are taken out; those that do something stay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from onnx import TensorProto

from edgebuild.models.folding.fold import fold
from tests.models.folding.written import Net, folded, ops, require_alone

if TYPE_CHECKING:
    from collections.abc import Sequence


class TestIdle:
    def of(self, op: str, *inputs: Any, shape: Sequence[int] = (2, 3), **attributes: Any) -> Any:
        net = Net(0)
        constants = [net.constant(np.asarray(each)) for each in inputs]
        data = net.add(op, net.add("Relu", "x"), *constants, **attributes)
        return net.model(shape, net.add("Abs", data))

    @pytest.mark.parametrize(
        ("op", "inputs", "attributes"),
        [
            ("Identity", (), {}),
            ("Dropout", (), {}),
            ("Dropout", (np.float32(0.5), np.array(False)), {}),
            ("Cast", (), {"to": TensorProto.FLOAT}),
            ("Reshape", (np.array([2, -1]),), {}),
            ("Flatten", (), {"axis": 1}),
            ("Expand", (np.array([1, 3]),), {}),
            ("Transpose", (), {"perm": [0, 1]}),
            ("Pad", (np.zeros(4, np.int64),), {}),
            ("Concat", (), {"axis": 0}),
            ("Sum", (), {}),
            ("Mul", (np.float32(1),), {}),
            ("Add", (np.zeros((1, 1), np.float32),), {}),
            ("Sub", (np.float32(0),), {}),
            ("Div", (np.ones(1, np.float32),), {}),
        ],
    )
    def test_what_does_nothing_is_taken_out(self, op: str, inputs: Any, attributes: Any) -> None:
        result = folded(self.of(op, *inputs, **attributes))
        assert ops(result.model) == ["Relu", "Abs"]
        assert result.idle == 1

    @pytest.mark.parametrize(
        ("op", "inputs", "attributes"),
        [
            ("Reshape", (np.array([3, 2]),), {}),
            ("Expand", (np.array([1, 2, 3]),), {}),
            ("Transpose", (), {"perm": [1, 0]}),
            ("Transpose", (), {}),
            ("Pad", (np.array([0, 0, 0, 1]),), {}),
            ("Mul", (np.float32(2),), {}),
            ("Add", (np.zeros((1, 1, 1), np.float32),), {}),
            ("Add", (np.zeros((2, 3), np.float32),), {}),
        ],
    )
    def test_what_does_something_stays(self, op: str, inputs: Any, attributes: Any) -> None:
        require_alone(self.of(op, *inputs, **attributes))

    def test_casts_there_and_back_stay(self) -> None:
        net = Net(0)
        whole = net.add("Cast", "x", to=TensorProto.INT32)
        require_alone(net.model((2, 3), net.add("Cast", whole, to=TensorProto.FLOAT)))

    def test_a_dropout_that_drops_stays(self) -> None:
        training = self.of("Dropout", np.float32(0.5), np.array(True))
        assert ops(fold(training).model) == ops(training)

    def test_a_dropout_whose_mask_is_read_stays(self) -> None:
        net = Net(0)
        data = net.add("Dropout", "x")
        net.nodes[-1].output.append("mask")
        mask = net.add("Cast", "mask", to=TensorProto.FLOAT)
        require_alone(net.model((2, 3), net.add("Add", data, mask)))

    def test_two_transposes_that_cancel(self) -> None:
        net = Net(0)
        there = net.add("Transpose", net.add("Relu", "x"), perm=[1, 2, 0])
        back = net.add("Transpose", there, perm=[2, 0, 1])
        assert ops(folded(net.model((2, 3, 4), net.add("Abs", back))).model) == ["Relu", "Abs"]
        net = Net(0)
        there = net.add("Transpose", "x", perm=[1, 2, 0])
        require_alone(net.model((2, 3, 4), net.add("Transpose", there, perm=[1, 2, 0])))

    def test_outputs_keep_their_names(self) -> None:
        net = Net(0)
        result = folded(net.model((2, 3), net.add("Identity", net.add("Relu", "x"), output="answer")))
        assert ops(result.model) == ["Relu"]
        net = Net(0)
        require_alone(net.model((2, 3), net.add("Identity", "x", output="answer")))

    def test_a_tensor_that_is_an_output_under_two_names(self) -> None:
        net = Net(0)
        data = net.add("Relu", "x")
        require_alone(net.model((2, 3), net.add("Identity", data), net.add("Identity", data)))
