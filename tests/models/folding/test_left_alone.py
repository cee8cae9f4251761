"""Whatever isn't provably the same stays as it is, with its reason."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from edgebuild.models import trained_grids
from edgebuild.models.folding.affine import ODD
from edgebuild.models.folding.fold import fold
from tests.models import nets
from tests.models.folding.written import IN, LAYERS, OUT, Net, ops, require_alone


class TestLeftAlone:
    """What is not provably the same stays, with its reason."""

    def behind(self, values: Any, op: str = "Mul", name: str = "conv", **swap: bool) -> Any:
        net, layer = Net(0), LAYERS[name]
        data, c = net.layer(layer, "x"), net.constant(np.asarray(values, np.float32))
        return net.model(layer.shape, net.add(op, *((c, data) if swap else (data, c))))

    def test_constants_that_are_not_one_per_channel(self) -> None:
        for values in (np.ones((5, 3)) * 2, np.full((2, 1, 1, 1), 3), np.full((1, OUT, 5, 3), 2), np.full((3,), 2)):
            result = require_alone(self.behind(values))
            assert result.left[0][1] == "its constants aren't one per channel"

    def test_constants_that_widen_the_output(self) -> None:
        require_alone(self.behind(np.full((1, 1, OUT, 1, 1), 2)))
        net = Net(0)
        data = net.add("Conv", "x", net.constant(net.away_from_zero(1, IN, 1, 1)))
        require_alone(net.model((1, IN, 4, 4), net.add("Mul", data, net.constant(net.away_from_zero(OUT, 1, 1)))))

    @pytest.mark.parametrize("odd", [0.0, np.inf, np.nan, 1e-45])
    @pytest.mark.parametrize("op", ["Mul", "Div"])
    def test_scales_that_lose_what_they_scale(self, odd: float, op: str) -> None:
        values = np.full((OUT, 1, 1), 2.0)
        values[2] = odd
        model = self.behind(values, op)
        result = fold(model)
        assert ops(result.model) == ["Conv", op]
        assert result.left[0][1] in {ODD, "its layer's weights would leave the range of float32"}
        assert odd != 0 or result.left[0][1] == ODD

    def test_additions_that_round(self) -> None:
        net, layer = Net(0), LAYERS["conv"]
        magic = net.constant(np.array(1.5 * 2**23, np.float32))
        rounded = net.add("Sub", net.add("Add", net.layer(layer, "x"), magic), magic)
        require_alone(net.model(layer.shape, rounded))

    def test_a_constant_over_a_tensor(self) -> None:
        assert ops(fold(self.behind(np.full((OUT, 1, 1), 2.0), "Div", swap=True)).model) == ["Conv", "Div"]

    def test_what_is_needed_elsewhere_too(self) -> None:
        net, layer = Net(0), LAYERS["conv"]
        data = net.layer(layer, "x")
        scaled = net.add("Mul", data, net.constant(net.away_from_zero(OUT, 1, 1)))
        result = require_alone(net.model(layer.shape, net.add("Add", scaled, net.add("Sigmoid", data))))
        assert result.left[0][1] == "what it reads is needed elsewhere too"

    def test_what_is_an_output_too(self) -> None:
        net, layer = Net(0), LAYERS["conv"]
        data = net.layer(layer, "x")
        scaled = net.add("Mul", data, net.constant(net.away_from_zero(OUT, 1, 1)))
        require_alone(net.model(layer.shape, scaled, data))

    def test_what_a_branch_reads(self) -> None:
        net, layer = Net(0), LAYERS["conv"]
        data = net.layer(layer, "x")
        scaled = net.add("Mul", data, net.constant(net.away_from_zero(OUT, 1, 1)))
        yes = net.constant(np.array(True))
        branches = {
            name: helper.make_graph([helper.make_node(op, [data], [name])], name, [], [nets.value(name, None)])
            for name, op in (("then", "Sigmoid"), ("else", "Relu"))
        }
        chosen = net.add("If", yes, then_branch=branches["then"], else_branch=branches["else"])
        require_alone(net.model(layer.shape, net.add("Add", scaled, chosen)))

    def test_constants_that_are_inputs_too(self) -> None:
        """As exporters wrote every weight before IR version 4: whoever runs the model may override them."""
        model = self.behind(np.full((OUT, 1, 1), 2.0))
        for tensor in model.graph.initializer:
            model.graph.input.append(nets.value(tensor.name, tensor.dims))
        assert ops(fold(model).model) == ["Conv", "Mul"]

    def test_a_bias_or_weights_that_the_model_computes(self) -> None:
        for computed in ("weight", "bias"):
            net = Net(0)
            w, b = net.constant(net.away_from_zero(OUT, IN)), net.constant(net.away_from_zero(OUT))
            w = net.add("Abs", w) if computed == "weight" else w
            b = net.add("Abs", b) if computed == "bias" else b
            data = net.add("Gemm", "x", w, b, transB=1)
            require_alone(net.model((3, IN), net.add("Mul", data, net.constant(net.away_from_zero(OUT)))))

    def test_a_gemm_whose_bias_differs_from_row_to_row(self) -> None:
        net = Net(0)
        w, b = net.constant(net.away_from_zero(OUT, IN)), net.constant(net.away_from_zero(3, 1))
        data = net.add("Gemm", "x", w, b, transB=1)
        require_alone(net.model((3, IN), net.add("Mul", data, net.constant(net.away_from_zero(OUT)))))

    def test_a_transposed_convolution_in_groups(self) -> None:
        for op, shape in (("Mul", (OUT, 1, 1)), ("Add", (1,))):
            net = Net(0)
            data = net.add("ConvTranspose", "x", net.constant(net.away_from_zero(IN, OUT // 2, 3, 3)), group=2)
            require_alone(net.model((1, IN, 4, 4), net.add(op, data, net.constant(net.away_from_zero(*shape)))))

    def test_whole_numbers_and_halves(self) -> None:
        for kind in (np.int32, np.float16):
            net = Net(0)
            net.nodes.append(
                helper.make_node("Cast", ["x"], ["whole"], to=helper.np_dtype_to_tensor_dtype(np.dtype(kind)))
            )
            data = net.add("MatMul", "whole", net.constant(np.ones((IN, OUT), kind)))
            data = net.add("Mul", data, net.constant(np.full(OUT, 3, kind)))
            require_alone(net.model((3, IN), net.add("Cast", data, to=TensorProto.FLOAT)))

    def test_a_shift_before_padding(self) -> None:
        net, layer = Net(0), LAYERS["padded conv"]
        data = net.add("Sub", "x", net.constant(net.away_from_zero(IN, 1, 1)))
        result = require_alone(net.model(layer.shape, net.layer(layer, data)))
        assert result.left[0][1] == "it shifts what the convolution pads with zeros"

    def test_the_last_factor_of_an_activation(self) -> None:
        """Runtimes have a kernel for hard swish, which they know by all of its operators."""
        net, layer = Net(0), LAYERS["conv"]
        three, none, six = (net.constant(np.array(number, np.float32)) for number in (3, 0, 6))
        gate = net.add("Clip", net.add("Add", "x", three), none, six)
        data = net.add("Div", net.add("Mul", "x", gate), six)
        require_alone(net.model(layer.shape, net.layer(layer, data)))

    def test_channels_that_only_a_constant_makes(self) -> None:
        net = Net(0)
        data = net.add("Mul", "x", net.constant(net.away_from_zero(IN, 1, 1)))
        data = net.add("Conv", data, net.constant(net.away_from_zero(OUT, IN, 1, 1)))
        require_alone(net.model((1, 1, 4, 4), data))

    def test_inputs_of_weights_that_were_trained_on_grids(self) -> None:
        net, layer = Net(0), LAYERS["conv"]
        data = net.add("Mul", "x", net.constant(net.away_from_zero(IN, 1, 1)))
        model = net.model(layer.shape, net.layer(layer, data))
        assert ops(fold(model).model) == ["Conv"]
        helper.set_model_props(model, {trained_grids.KEY: '{"digest": null}'})
        require_alone(model)

    def test_a_normalisation_with_no_layer_before_it_is_listed(self) -> None:
        net = Net(0)
        data, _ = net.link("normalisation", net.add("Relu", "x"), IN, -3, 4, "full")
        result = require_alone(net.model((1, IN, 4, 4), net.add("Relu", data)))
        assert result.left == ((f"BatchNormalization_{data}", "no layer stands right before it"),)

    def test_a_normalisation_that_trains(self) -> None:
        net, layer = Net(0), LAYERS["conv"]
        data, _ = net.link("normalisation", net.layer(layer, "x"), OUT, -3, 4, "full")
        net.nodes[-1].attribute.append(helper.make_attribute("training_mode", 1))
        net.nodes[-1].output.extend(["mean", "var"])
        assert ops(fold(net.model(layer.shape, data)).model) == ["Conv", "BatchNormalization"]

    def test_operators_of_the_model_s_own(self) -> None:
        model = self.behind(np.full((OUT, 1, 1), 2.0))
        assert ops(fold(model).model) == ["Conv"]
        body = [helper.make_node("Sub", ["a", "b"], ["c"])]
        model.functions.append(helper.make_function("", "Mul", ["a", "b"], ["c"], body, model.opset_import[:1]))
        assert ops(fold(model).model) == ["Conv", "Mul"]

    def test_a_model_of_the_time_before_broadcasting(self) -> None:
        model = self.behind(np.full((OUT, 1, 1), 2.0))
        model.opset_import[0].version = 6
        assert ops(fold(model).model) == ["Conv", "Mul"]
