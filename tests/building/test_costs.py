"""Estimates: from a timed look at the model, and revised by what work really took."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edgebuild.building.context import Options
from edgebuild.building.costs import Taken, launch_s, revised, taken, unit_costs
from edgebuild.building.probe import MOST_CALLS, ModelTimes, assumed, call_seconds
from edgebuild.catalogue.project import parse_project
from edgebuild.core.capabilities import BOARD
from edgebuild.core.record import StepRecord
from edgebuild.measuring.protocols import CERTIFY
from edgebuild.planning.plan import make_plan
from tests.catalogue.example import tables
from tests.planning.test_plan import FP32, OURS, inputs, profile

if TYPE_CHECKING:
    from edgebuild.planning.inputs import UnitCosts

FAST, SLOW = (ModelTimes(load_s=s, call_s=s, plain_s=2 * s) for s in (0.001, 0.1))
FRAMES = {"calibration": 300, "validation": 1_000, "test": 4_000}
PLAIN, INT8 = make_plan(inputs(profile("a", precisions=(FP32, OURS)))).candidates


def costs(times: ModelTimes, reference_s: float | None = None) -> UnitCosts:
    project = parse_project(tables(), Path())
    return unit_costs(project, Options(), times, FRAMES, BOARD, macs=None, reference_s=reference_s)[0]


def test_a_slow_model_costs_more_wherever_it_is_run() -> None:
    fast, slow = costs(FAST), costs(SLOW)
    for name in ("evaluate_s", "evaluate_test_s", "crosscheck_s", "certify_launch_s", "screen_launch_s", "prepare_s"):
        assert getattr(slow, name) > getattr(fast, name), name
    assert slow.quantise_s["nncf"] > 50 * fast.quantise_s["nncf"] / 10


def test_what_the_reference_took_says_what_it_takes_on_the_test_set() -> None:
    assert costs(FAST, reference_s=10.0).reference_test_s == 40.0


def test_a_launch_takes_its_loading_and_the_warm_up_of_long_calls() -> None:
    assert launch_s(CERTIFY, FAST) == pytest.approx(CERTIFY.launch_s + 0.002)
    long = ModelTimes(load_s=2.0, call_s=1.0, plain_s=1.0)
    warm_up_s = CERTIFY.warmup_min_inferences - CERTIFY.warmup_min_s
    bursts_s = CERTIFY.bursts * (CERTIFY.burst_inferences - CERTIFY.burst_s)
    assert launch_s(CERTIFY, long) == pytest.approx(CERTIFY.launch_s + 4.0 + warm_up_s + bursts_s)


def test_what_can_t_be_timed_is_assumed_by_its_arithmetic() -> None:
    assert not assumed(None).measured
    assert assumed(10**9).call_s > assumed(10**6).call_s


def step(label: str, made_s: float, *, reused: bool = False) -> StepRecord:
    seconds = 0.01 if reused else made_s
    return StepRecord(label=label, kind="x", key="k", reused=reused, seconds=seconds, why="", made_s=made_s)


def test_what_a_candidate_took_is_told_apart_whoever_made_it() -> None:
    found = taken(
        INT8,
        [
            step(f"{OURS.label} for a", 30.0, reused=True),
            step("compile a/x", 2.0),
            step("evaluate a/x on validation", 5.0),
            step("cross-check: compare a/x", 4.0),
            step("cross-check: run a/x", 3.0),
        ],
    )
    assert found == Taken(planned=INT8, quantise_s=30.0, rest_s=7.0, crosscheck_s=7.0)
    assert taken(PLAIN, [step("compile a/fp32", 2.0)]).quantise_s is None


def test_costs_are_revised_by_what_was_made_and_the_test_set_with_validation() -> None:
    unit = costs(FAST)
    assert revised(unit, []) == unit
    expected_s = unit.compile_s + unit.evaluate_s
    twice = Taken(planned=INT8, quantise_s=99.0, rest_s=2 * expected_s, crosscheck_s=5.0)
    new = revised(unit, [twice])
    assert new.quantise_s["edgebuild"] == 99.0
    assert new.quantise_s["nncf"] == unit.quantise_s["nncf"]
    assert new.crosscheck_s == 5.0
    few = INT8.model_copy(update={"samples": 100, "precision": INT8.precision.model_copy(update={"quantiser": "nncf"})})
    hasty = Taken(planned=few, quantise_s=9.0, rest_s=expected_s, crosscheck_s=None)
    assert unit.samples == 300
    assert revised(unit, [hasty]).quantise_s["nncf"] == 9.0 + 200 * unit.calibrate_s["nncf"], "with all samples"
    assert new.evaluate_s == pytest.approx(2 * unit.evaluate_s)
    assert new.evaluate_test_s == pytest.approx(2 * unit.evaluate_test_s)


class Calls:
    """A clock on which every call takes what its turn says."""

    def __init__(self, first_s: float, later_s: float) -> None:
        self.now_s, self.count, self._takes = 0.0, 0, (first_s, later_s)

    def __call__(self) -> None:
        self.now_s += self._takes[self.count > 0]
        self.count += 1

    def clock(self) -> float:
        return self.now_s


def test_the_first_call_is_no_measure_and_long_calls_are_timed_once() -> None:
    quick = Calls(1.0, 0.01)
    assert call_seconds(quick, quick.clock) == pytest.approx(0.01)
    assert quick.count == 1 + MOST_CALLS
    slow = Calls(9.0, 3.0)
    assert call_seconds(slow, slow.clock) == 3.0
    assert slow.count == 2
