from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebuild.core.artifact import Int8Scheme
from edgebuild.quantisers.own.arithmetic import (
    BINS,
    Histogram,
    affine,
    candidate_ranges,
    clipped_scale,
    encode,
    weight_levels,
    weight_scale,
)

finite = st.floats(-1e6, 1e6, allow_nan=False, width=32)
schemes = st.builds(
    Int8Scheme,
    activations=st.sampled_from(["uint8", "int8"]),
    weights=st.sampled_from(["uint8", "int8"]),
    symmetric_activations=st.booleans(),
    per_channel=st.booleans(),
    reduce_range=st.booleans(),
)


@given(a=finite, b=finite, scheme=schemes)
def test_activation_parameters_are_always_legal(a: float, b: float, scheme: Int8Scheme) -> None:
    parameters = affine(min(a, b), max(a, b), scheme)
    low, high = (0, 255) if scheme.activations == "uint8" else (-128, 127)
    assert parameters.scale > 0
    assert np.isfinite(np.float32(parameters.scale))
    assert np.float32(parameters.scale) > 0
    assert low <= parameters.zero_point <= high
    assert (parameters.low, parameters.high) == (low, high)
    assert parameters.apply(np.zeros(1))[0] == 0, "zero must be exact: padding and Relu make many"


@given(a=finite, b=finite, scheme=schemes)
def test_a_range_is_covered_up_to_half_a_step_per_end(a: float, b: float, scheme: Int8Scheme) -> None:
    low, high = min(a, b, 0.0), max(a, b, 0.0)
    parameters = affine(low, high, scheme)
    if high - low < 1e-20:
        return
    for end in (low, high):
        assert abs(parameters.apply(np.array(end)) - end) <= parameters.scale * 1.001


def test_what_a_relu_makes_starts_at_the_lowest_code() -> None:
    # onnxruntime drops a Relu before a QuantizeLinear only then.
    for activations, lowest in (("uint8", 0), ("int8", -128)):
        scheme = Int8Scheme.model_validate({"activations": activations})
        assert affine(0.0, 3.0, scheme).zero_point == lowest


def test_symmetric_int8_has_zero_point_zero() -> None:
    scheme = Int8Scheme(activations="int8", symmetric_activations=True)
    parameters = affine(-1.0, 4.0, scheme)
    assert parameters.zero_point == 0
    assert parameters.scale == pytest.approx(4 / 127)


@settings(max_examples=50)
@given(
    weight=st.lists(st.lists(finite, min_size=4, max_size=4), min_size=1, max_size=5).map(
        lambda rows: np.array(rows, np.float32)
    ),
    scheme=schemes,
)
def test_weights_are_symmetric_and_narrow(weight: np.ndarray, scheme: Int8Scheme) -> None:
    scale = weight_scale(weight, 0, scheme)
    codes = encode(weight, scale, 0, scheme)
    levels = weight_levels(scheme)
    centred = codes.centred
    np.testing.assert_array_equal(centred, codes.codes.astype(int) - codes.zero_point)
    assert scale.shape == ((len(weight),) if scheme.per_channel else ())
    assert (scale > 0).all()
    assert np.isfinite(scale).all()
    assert centred.min() >= -levels
    assert centred.max() <= levels
    assert levels == (63 if scheme.reduce_range else 127)
    bound = np.broadcast_to(scale.reshape(-1, 1), weight.shape)
    assert (np.abs(codes.reals(0) - weight) <= bound * 0.5001 + 1e-30).all()


def test_a_channel_of_zeros_has_a_scale_all_the_same() -> None:
    scale = weight_scale(np.zeros((2, 3), np.float32), 0, Int8Scheme(activations="uint8"))
    assert (scale == 1).all()


def test_the_floor_keeps_scales_up() -> None:
    weight = np.array([[1e-9, 1e-9], [1.0, 1.0]], np.float32)
    scale = weight_scale(weight, 0, Int8Scheme(activations="uint8"), np.array([1e-4, 1e-4]))
    assert scale[0] == np.float32(1e-4)
    assert scale[1] == pytest.approx(1 / 127)


def test_clipping_never_has_more_squared_error_than_the_whole_range() -> None:
    rng = np.random.default_rng(0)
    weight = rng.uniform(-0.9, 0.9, size=(6, 5000)).astype(np.float32)
    weight[:, 0] = 1.0  # one weight a little out of the crowd: cheaper to clip than to make room for
    for per_channel in (True, False):
        scheme = Int8Scheme(activations="uint8", per_channel=per_channel, reduce_range=True)
        full = weight_scale(weight, 0, scheme)
        clipped = clipped_scale(weight, 0, scheme, full)

        def error(scale: np.ndarray, scheme: Int8Scheme = scheme) -> float:
            return float(((encode(weight, scale, 0, scheme).reals(0) - weight) ** 2).sum())

        assert error(clipped) < error(full)


def _histogram(values: np.ndarray) -> Histogram:
    low, high = float(values.min()), float(values.max())
    return Histogram(low=low, high=high, counts=np.histogram(values, bins=BINS, range=(low, high))[0])


def test_outliers_make_the_rules_disagree() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(size=1_000_000), [20.0]])
    rules = candidate_ranges(_histogram(values), Int8Scheme(activations="uint8"))
    assert set(rules) >= {"minmax", "mse", "p99.9"}
    assert rules["minmax"][1] == pytest.approx(20.0)
    assert rules["mse"][1] < 15
    assert 2 < rules["p99.9"][1] < 5
    assert -5 < rules["p99.9"][0] < -2


def test_a_constant_tensor_has_one_range() -> None:
    histogram = Histogram(low=2.0, high=2.0, counts=np.zeros(BINS, np.int64))
    assert candidate_ranges(histogram, Int8Scheme(activations="uint8")) == {"minmax": (2.0, 2.0)}


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), relu=st.booleans(), scheme=schemes)
def test_candidates_lie_inside_what_was_seen(seed: int, relu: bool, scheme: Int8Scheme) -> None:
    rng = np.random.default_rng(seed)
    values = rng.standard_t(3, size=2000) + rng.normal()
    histogram = _histogram(np.maximum(values, 0) if relu else values)
    width = (histogram.high - histogram.low) / BINS
    for low, high in candidate_ranges(histogram, scheme).values():
        assert low < high or histogram.high == histogram.low
        assert low >= min(histogram.low, 0) - width
        assert high <= max(histogram.high, 0) + width
