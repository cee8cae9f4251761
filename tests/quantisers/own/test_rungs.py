"""Each rung by itself: what it promises, on small nets."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edgebuild.core.artifact import Int8Scheme
from edgebuild.quantisers.own import equalise, ladder, ranges
from edgebuild.quantisers.own.graph import prepare
from edgebuild.quantisers.own.layers import as_rows, from_rows, mean_patch, moments, patches, products
from edgebuild.quantisers.own.placement import place
from edgebuild.quantisers.own.reconstruct import compensated, corrected, float_layers, reconstructed
from edgebuild.quantisers.own.samples import choose_frames
from edgebuild.quantisers.own.sessions import make_session, run_session
from edgebuild.quantisers.own.simulator import Simulator, expose, float_numbers
from edgebuild.quantisers.own.statistics import observe
from edgebuild.quantisers.own.step import _observed
from edgebuild.quantisers.own.workbench import Calibration
from tests.techniques.nets import U8S8, depthwise_net, residual_net, run_model, stateful_net, token_net, write_project

if TYPE_CHECKING:
    from pathlib import Path


def _bench(
    folder: Path, model: Any, scheme: Int8Scheme = U8S8, *, state: tuple[tuple[str, str], ...] = ()
) -> Calibration:
    inputs, contract = write_project(folder / "project", model, state=state)
    graph = prepare(model)
    placement = place(graph, scheme)
    simulator = Simulator(graph, placement, scheme)
    numbers = float_numbers(graph, placement)
    fit, held = choose_frames(
        inputs["calibration"],
        contract,
        samples=40,
        seed=0,
        call=lambda feeds: simulator.run(numbers, feeds),
        check=lambda: None,
    )
    bench = _observed(graph, simulator, (fit, held), 1000, lambda _: None, 0)
    assert isinstance(bench, Calibration)
    return replace(bench, budget_macs=10**9)


def _plain(bench: Calibration) -> Any:
    found = bench.seen.histograms
    return bench.nearest(bench.with_ranges(bench.original, ladder._ends(found))), found


@pytest.mark.parametrize("make", [residual_net, depthwise_net, token_net])
def test_with_nothing_rounded_the_simulator_is_the_float_model(make: Any, tmp_path: Path) -> None:
    bench = _bench(tmp_path, make())
    feeds = next(iter(bench.fit))
    expected = run_model(tmp_path / "project" / "model" / "model.onnx", feeds)
    got = bench.simulator.run(bench.original, feeds)
    np.testing.assert_allclose(next(iter(got.values())), expected[0], rtol=1e-4, atol=1e-5)


def test_equalisation_keeps_the_function(tmp_path: Path) -> None:
    bench = _bench(tmp_path, depthwise_net())
    pairs = equalise.pairs(bench.graph, bench.placement)
    assert {(p.first.name, p.second.name) for p in pairs} == {("wide", "deep"), ("deep", "narrow")}
    for strength in (0.0, 0.5, 1.0):
        equal, _ = equalise.equalised(bench.original, pairs, bench.seen.channels, strength, per_channel=True)
        assert any(not np.array_equal(equal.weights[n], w) for n, w in bench.original.weights.items())
        assert bench.judge(equal).sqnr_db > 100


def test_equalisation_evens_out_what_a_depthwise_layer_reads(tmp_path: Path) -> None:
    bench = _bench(tmp_path, depthwise_net())
    pairs = equalise.pairs(bench.graph, bench.placement)
    equal, factors = equalise.equalised(bench.original, pairs, bench.seen.channels, 0.5, per_channel=True)
    before = bench.seen.channels["wide_relu"][1]
    tensors = ("wide_relu",)
    after = observe(bench.simulator, equal, bench.fit, bench.tick, tensors=tensors, channels=tensors)
    reach = after.channels["wide_relu"][1]
    assert reach.std() / reach.mean() < 0.7 * before.std() / before.mean()
    # How far it reaches is known without another run.
    np.testing.assert_allclose(reach, before / factors["wide_relu"], rtol=1e-4)


def test_a_clip_is_never_equalised(tmp_path: Path) -> None:
    bench = _bench(tmp_path, depthwise_net(clip=True))
    assert equalise.pairs(bench.graph, bench.placement) == ()


def test_a_tensor_with_two_readers_is_never_equalised(tmp_path: Path) -> None:
    bench = _bench(tmp_path, residual_net())
    assert {p.first.name for p in equalise.pairs(bench.graph, bench.placement)} == {"c1"}


def test_equalisation_helps_weights_per_tensor(tmp_path: Path) -> None:
    scheme = Int8Scheme(activations="uint8", per_channel=False)
    bench = _bench(tmp_path, depthwise_net(), scheme)
    top = ladder.climb(bench)
    kept = {rung.name for rung in top.rungs if rung.kept}
    assert any(name.startswith("cross-layer") for name in kept)


def test_bias_correction_takes_the_mean_error_out(tmp_path: Path) -> None:
    bench = _bench(tmp_path, residual_net(), Int8Scheme(activations="uint8", reduce_range=True, per_channel=False))
    numbers, _ = _plain(bench)
    right = _means(bench, bench.original)
    better = corrected(bench, numbers, float_layers(bench, numbers))
    before, after = _means(bench, numbers), _means(bench, better)
    for op in bench.placement.ops:
        assert np.abs(after[op.name] - right[op.name]).mean() < 0.2 * np.abs(before[op.name] - right[op.name]).mean()


def _means(bench: Calibration, numbers: Any) -> dict[str, Any]:
    """The mean of every op's output channels, over all fitted frames: what bias correction is about."""
    means: dict[str, Any] = {}
    walk = bench._walk(bench.walkers, in_eight_bits=bool(numbers.ranges))
    for op in bench.placement.ops:
        inputs = walk.step(bench.simulator.feeds(numbers))
        codes = numbers.codes.get(op.name)
        weight = numbers.weights[op.name] if codes is None else codes.reals(op.axis)
        mean = np.einsum("goi,gi->go", as_rows(op, weight), mean_patch(bench.graph, op, inputs)).reshape(-1)
        means[op.name] = mean + numbers.biases[op.name].reshape(-1)
    return means


def test_chosen_ranges_are_no_worse_where_they_were_chosen(tmp_path: Path) -> None:
    bench = _bench(tmp_path, residual_net())
    numbers, found = _plain(bench)
    chosen, choices = ranges.choose(bench, numbers, found)
    assert set(choices) == set(bench.placement.groups)
    assert bench.trial(chosen, len(bench.fit)).total <= bench.trial(numbers, len(bench.fit)).total


def test_a_small_budget_tries_fewer_tensors(tmp_path: Path) -> None:
    bench = _bench(tmp_path, residual_net())
    numbers, found = _plain(bench)
    poor = replace(bench, budget_macs=bench.macs * 8 * 15)
    _, choices = ranges.choose(poor, numbers, found)
    tried = [c for c in choices.values() if c.tried > 1]
    assert 0 < len(tried) < len(choices)


@pytest.mark.parametrize("make", [residual_net, depthwise_net, token_net])
def test_the_ladder_never_ends_below_plain_min_max(make: Any, tmp_path: Path) -> None:
    top = ladder.climb(_bench(tmp_path, make()))
    first = top.rungs[0]
    assert first.name == "min/max ranges"
    assert top.best.total <= first.distance.total
    assert top.best.total == pytest.approx(min(r.distance.total for r in top.rungs if r.kept))
    assert top.bench.judge(top.numbers).total == pytest.approx(top.best.total)


def test_climbing_twice_gives_the_same(tmp_path: Path) -> None:
    one, two = (ladder.climb(_bench(tmp_path / name, residual_net())) for name in ("a", "b"))
    assert one.rungs == two.rungs
    for name, codes in one.numbers.codes.items():
        np.testing.assert_array_equal(codes.codes, two.numbers.codes[name].codes)


@pytest.mark.parametrize("make", [residual_net, depthwise_net])
def test_patches_times_weight_are_the_layer(make: Any, tmp_path: Path) -> None:
    bench = _bench(tmp_path, make())
    expose(bench.graph.model, [op.output for op in bench.placement.ops])
    layers = make_session(bench.graph.model, None, 1)
    walk = bench._walk(bench.fit, in_eight_bits=False)
    for op in bench.placement.ops:
        x = walk.step(bench.simulator.feeds(bench.original))[0]
        y = run_session(layers, [op.output], next(iter(bench.fit)))[op.output]
        rows = patches(bench.graph, op, x, np.random.default_rng(0))
        bias = bench.original.biases.get(op.name, np.zeros(op.channels))
        got = np.einsum("gpk,gok->pgo", rows, as_rows(op, bench.original.weights[op.name])).reshape(-1, op.channels)
        channels = y.reshape(op.channels, -1).T if op.kind == "Conv" else y.reshape(-1, op.channels)
        # All 64 positions of the 8x8 images are drawn, in random order.
        np.testing.assert_allclose(np.sort(got + bias, axis=0), np.sort(channels, axis=0), rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(rows.mean(axis=1), mean_patch(bench.graph, op, [x]), rtol=1e-3, atol=1e-4)


def test_rows_and_back(tmp_path: Path) -> None:
    bench = _bench(tmp_path, depthwise_net())
    for op in bench.placement.ops:
        weight = bench.original.weights[op.name]
        np.testing.assert_array_equal(from_rows(op, as_rows(op, weight), weight.shape), weight)


def test_compensated_codes_have_less_output_error_than_the_nearest(tmp_path: Path) -> None:
    bench = _bench(tmp_path, residual_net(), Int8Scheme(activations="uint8", reduce_range=True))
    numbers, _ = _plain(bench)
    op = next(op for op in bench.placement.ops if op.name == "c1")
    walk = bench._walk(bench.fit, in_eight_bits=True)
    inputs = [walk.step(bench.simulator.feeds(numbers)) for _ in range(2)][1]
    weight = numbers.weights["c1"]
    right = products(bench.graph, op, weight, inputs, 0)
    found = moments(bench.graph, op, weight, zip(inputs, right, strict=True), 0)
    np.testing.assert_allclose(found.missing, 0, atol=1e-5)
    covariance = found.covariance + np.eye(found.covariance.shape[-1]) * 1e-3
    inverse = np.linalg.inv(covariance).astype(np.float64)
    inputs_of = np.diagonal(covariance, axis1=1, axis2=2), inverse
    better = compensated(op, weight, numbers.codes["c1"].scale, inputs_of, bench.scheme)

    def output_error(reals: Any) -> float:
        gap = as_rows(op, reals - weight)
        return float(np.einsum("goi,gij,goj->", gap, covariance, gap))

    assert output_error(better.reals(0)) < 0.8 * output_error(numbers.codes["c1"].reals(0))


def test_a_firm_ridge_keeps_the_weights(tmp_path: Path) -> None:
    bench = _bench(tmp_path, residual_net())
    numbers, _ = _plain(bench)
    firm = reconstructed(bench, numbers, float_layers(bench, numbers), 1e9)
    for op in bench.placement.ops:
        step = firm.codes[op.name].scale.max()
        gap = firm.codes[op.name].reals(op.axis) - numbers.weights[op.name]
        assert np.abs(gap).max() <= 0.51 * step


def test_states_come_from_running_the_sequence(tmp_path: Path) -> None:
    bench = _bench(tmp_path, stateful_net(), state=(("state", "state_out"),))
    assert any(np.abs(state["state"]).max() > 0 for state in bench.fit.states)
    assert bench.fit.runs == len(bench.fit)
    assert set(bench.fit.chosen).isdisjoint(bench.held.chosen)
