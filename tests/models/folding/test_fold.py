"""What is folded computes the same, within 1e-5 of the largest number."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models.folding.written import (
    CONVOLUTIONS,
    FORMS,
    IN,
    LAYERS,
    LINKS,
    OUT,
    Layer,
    Net,
    chain,
    folded,
    ops,
    require_alone,
)


@settings(deadline=None, max_examples=150)
@given(
    name=st.sampled_from(list(LAYERS)),
    kinds=st.lists(st.sampled_from(LINKS), min_size=1, max_size=6),
    forms=st.lists(st.sampled_from(FORMS), min_size=6, max_size=6),
    as_nodes=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_a_chain_behind_a_layer_is_folded_and_the_outputs_stay(
    name: str, kinds: list[str], forms: list[str], as_nodes: bool, seed: int
) -> None:
    net, layer = Net(seed, as_nodes=as_nodes), LAYERS[name]
    data, axis = net.layer(layer, "x"), layer.axis
    for kind, form in zip(kinds, forms, strict=False):
        data, axis = net.link(kind, data, OUT, axis, layer.rank, form)
    model = net.model(layer.shape, data)
    result = folded(model)
    left = [op for op in ops(result.model) if op not in {layer.op, "Transpose", "Identity"}]
    assert left == [] if layer.op != "MatMul" else left in ([], ["Add"])
    assert "Identity" not in ops(result.model)


@settings(deadline=None, max_examples=80)
@given(
    name=st.sampled_from(CONVOLUTIONS),
    kinds=st.lists(st.sampled_from(LINKS[:9]), min_size=1, max_size=4),
    form=st.sampled_from(FORMS),
    seed=st.integers(0, 2**16),
)
def test_a_chain_before_a_convolution_is_folded_where_nothing_is_padded(
    name: str, kinds: list[str], form: str, seed: int
) -> None:
    net, layer = Net(seed), LAYERS[name]
    data, channels = "x", layer.shape[1]
    for kind in kinds:
        data, _ = net.link(kind, data, channels, layer.axis, layer.rank, form)
    result = folded(net.model(layer.shape, net.layer(layer, data)))
    if "pads" not in layer.attributes:
        assert ops(result.model) == ["Conv"]
    else:
        shifts = [i for i, kind in enumerate(kinds) if kind not in {"x * c", "c * x", "x / c", "-x"}]
        assert len(ops(result.model)) == 1 + (shifts[-1] + 1 if shifts else 0)


@settings(deadline=None, max_examples=80)
@given(
    kinds=st.lists(st.sampled_from([*LINKS, "relu", "conv", "twice"]), min_size=1, max_size=10),
    forms=st.lists(st.sampled_from(FORMS), min_size=10, max_size=10),
    seed=st.integers(0, 2**16),
)
def test_deeper_nets_with_branches_answer_alike(kinds: list[str], forms: list[str], seed: int) -> None:
    net, same = Net(seed), Layer("Conv", (1, OUT, 5, 5), {"w": (OUT, OUT, 1, 1), "b": (OUT,)}, -3, 4)
    data, axis = net.layer(same, "x"), same.axis
    for kind, form in zip(kinds, forms, strict=False):
        if kind == "relu":
            data = net.add("Relu", data)
        elif kind == "twice":
            data = net.add("Mul", data, net.add("Sigmoid", data))
        elif kind == "conv":
            data = net.layer(same, data) if axis == same.axis else data
        elif kind != "transpose":
            data, axis = net.link(kind, data, OUT, axis, 4, form)
    folded(net.model(same.shape, data))


def test_a_normalisation_that_is_written_out_goes_into_its_convolution() -> None:
    result = folded(chain("padded conv", ["x - c", "x * c", "x + c"]))
    assert ops(result.model) == ["Conv"]
    assert result.notes == ("scales and shifts folded into 1 layer: 3 fewer operators",)


def test_a_product_keeps_one_addition_behind_it() -> None:
    result = folded(chain("product of sequences", ["x + c", "x * c", "x - c"]))
    assert ops(result.model) == ["MatMul", "Add"]
    assert ops(folded(chain("product of sequences", ["x * c", "x / c"])).model) == ["MatMul"]


def test_the_bias_of_a_product_is_no_work() -> None:
    assert not folded(chain("product", ["x + c"])).changed


def test_layer_scale_behind_a_transpose_goes_into_the_product() -> None:
    """As ConvNeXt writes it: channels last in the product, then first."""
    net = Net(0)
    data = net.add("MatMul", "x", net.constant(net.away_from_zero(IN, OUT)))
    data = net.add("Add", data, net.constant(net.away_from_zero(OUT)))
    data = net.add("Transpose", data, perm=[0, 3, 1, 2])
    data = net.add("Mul", data, net.constant(net.away_from_zero(1, OUT, 1, 1)))
    result = folded(net.model((1, 5, 5, IN), data))
    assert ops(result.model) == ["MatMul", "Add", "Transpose"]


@pytest.mark.parametrize(
    ("name", "shape", "constant"),
    [
        ("gemm", (1, 3, OUT), (OUT,)),
        ("product of sequences", (10, OUT), (1, OUT)),
        ("product of sequences", (5, 2, 1, OUT), (OUT,)),
        ("conv", (2, OUT, 15), (OUT, 1)),
        ("conv", (2, OUT, 3, 5), (1, OUT, 1, 1)),
        ("conv of signals", (1, 2, OUT, 7, 1), (OUT, 1, 1)),
    ],
)
def test_a_reshape_that_keeps_the_channels_apart_is_passed_by(
    name: str, shape: tuple[int, ...], constant: tuple[int, ...]
) -> None:
    """As onnxruntime writes a product of sequences: a Gemm between two Reshapes."""
    net, layer = Net(0), LAYERS[name]
    data = net.add("Reshape", net.layer(layer, "x"), net.constant(np.array(shape)))
    result = folded(net.model(layer.shape, net.add("Mul", data, net.constant(net.away_from_zero(*constant)))))
    assert ops(result.model) == [layer.op, "Reshape"]


@pytest.mark.parametrize(
    ("name", "shape", "constant"),
    [
        ("gemm", (OUT, 3), (OUT, 1)),
        ("gemm", (3, OUT // 2, 2), (OUT // 2, 1)),
        ("conv", (2, 5, OUT, 3), (OUT, 1)),
        ("conv", (2, OUT * 15), (OUT * 15,)),
        ("product", (1, OUT, 3), (OUT, 1)),
    ],
)
def test_a_reshape_that_mixes_the_channels_is_not(name: str, shape: tuple[int, ...], constant: tuple[int, ...]) -> None:
    net, layer = Net(0), LAYERS[name]
    data = net.add("Reshape", net.layer(layer, "x"), net.constant(np.array(shape)))
    require_alone(net.model(layer.shape, net.add("Mul", data, net.constant(net.away_from_zero(*constant)))))


def test_weights_that_two_layers_share_are_copied() -> None:
    net = Net(0)
    w = net.constant(net.away_from_zero(OUT, IN, 1, 1))
    one = net.add("Mul", net.add("Conv", "x", w), net.constant(net.away_from_zero(OUT, 1, 1)))
    other = net.add("Relu", net.add("Conv", "x", w))
    result = folded(net.model((1, IN, 4, 4), net.add("Add", one, other)))
    assert ops(result.model) == ["Conv", "Conv", "Relu", "Add"]


def test_large_weights_that_others_read_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgebuild.models.folding.layers.MOST_COPIED_BYTES", 16)
    net = Net(0)
    w = net.constant(net.away_from_zero(OUT, IN, 1, 1))
    one = net.add("Mul", net.add("Conv", "x", w), net.constant(net.away_from_zero(OUT, 1, 1)))
    other = net.add("Relu", net.add("Conv", "x", w))
    result = require_alone(net.model((1, IN, 4, 4), net.add("Add", one, other)))
    assert "too large to be copied" in result.notes[0]
