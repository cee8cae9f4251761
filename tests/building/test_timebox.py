"""The time box while a build runs, on a clock of the test's own."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebuild.building import making
from edgebuild.building.evaluation import Evaluation, FailedCandidate
from edgebuild.building.making import make_candidates
from edgebuild.building.timebox import Limits, TimeBox, shared, wait_until
from edgebuild.core.record import StepRecord
from edgebuild.core.steps import NoProgress, never_stop
from edgebuild.core.verdict import Outcome, Verdict
from edgebuild.errors import Interrupted, OutOfTime
from edgebuild.execution.faults import Guard
from edgebuild.planning.account import FEW_SAMPLES, fewer_samples
from edgebuild.planning.costs import after_s
from edgebuild.planning.inputs import UnitCosts
from edgebuild.planning.plan import make_plan
from tests.building.test_decisions import artifact
from tests.planning.test_plan import FP32, NNCF, OURS, THEIRS, inputs, profile

if TYPE_CHECKING:
    from edgebuild.building.making import Made
    from edgebuild.planning.plan import PlannedCandidate

COSTS = UnitCosts(
    prepare_s=10,
    quantise_s={"edgebuild": 60, "nncf": 25, "onnxruntime": 20},
    compile_s=2,
    evaluate_s=8,
    evaluate_test_s=8,
    screen_launch_s=3,
    screen_launches=2,
    certify_launch_s=5,
    certify_least=5,
    certify_launches=10,
    report_s=3,
)


@dataclass
class Clock:
    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_work_past_its_limit_is_stopped_and_an_outer_limit_holds() -> None:
    clock = Clock()
    check = Limits(clock=clock)
    with check.until(10), check.until(20):
        clock.now_s = 10
        check()
        clock.now_s = 11
        with pytest.raises(OutOfTime, match="stopped to stay inside the time asked for"):
            check()
    check()


def test_a_limit_is_of_its_thread_and_the_user_s_stop_comes_first() -> None:
    def stop() -> None:
        raise Interrupted("stopped")

    clock, seen = Clock(now_s=5), threading.Event()
    check = Limits(clock=clock)

    def elsewhere() -> None:
        check()
        seen.set()

    with check.until(1):
        other = threading.Thread(target=elsewhere)
        other.start()
        other.join()
    assert seen.is_set()
    with Limits(stop, clock).until(1) as _, pytest.raises(Interrupted):
        Limits(stop, clock)()


def test_targets_share_what_is_left_evenly() -> None:
    clock = Clock(now_s=40)
    box = TimeBox(asked_s=100, begins_s=0, deadline_s=100, clock=clock)
    contexts: Any = [_context(box) for _ in range(3)]
    boxes = [each.box for each in shared(contexts)]
    assert [(each.begins_s, each.deadline_s) for each in boxes if each] == [(40, 60), (60, 80), (80, 100)]
    assert [each.box for each in shared([_context(None)])] == [None]


@dataclass(frozen=True)
class _Context:
    """As much of a build's context as making candidates looks at; ``takes_s`` is what each candidate really takes."""

    box: TimeBox | None
    limits: Limits
    guard: Guard
    executor: Any
    takes_s: dict[str, float] = field(default_factory=dict)
    options: Any = field(default_factory=lambda: SimpleNamespace(recipes=()))
    project: Any = field(default_factory=lambda: SimpleNamespace(limits=SimpleNamespace(file_size_mb=None)))
    progress: NoProgress = field(default_factory=NoProgress)
    check: Any = never_stop

    def concerning(self, **_: str) -> _Context:
        return self


def _context(box: TimeBox | None, takes_s: dict[str, float] | None = None) -> Any:
    limits = Limits(clock=box.clock) if box else Limits()
    guard, executor = Guard(alive=never_stop), SimpleNamespace(records=[])
    return _Context(box=box, limits=limits, guard=guard, executor=executor, takes_s=takes_s or {})


def _make(planned: PlannedCandidate, *args: Any) -> Evaluation:
    """Take as long as the test says, asking every second whether to stop."""
    context, clock = args[-1], args[-1].box.clock
    for _ in range(round(context.takes_s.get(planned.id, 0.0))):
        clock.now_s += 1
        context.limits()
    took = context.takes_s.get(planned.id, 0.0)
    step = StepRecord(label=f"compile {planned.id}", kind="x", key="k", reused=False, seconds=took, why="", made_s=took)
    context.executor.records.append(step)
    nothing: Any = None
    return Evaluation(planned=planned, artifact=artifact(), compiled=nothing, verdict=Verdict(outcome=Outcome.ACCEPTED))


def made_in(
    box_s: float, takes_s: dict[str, float], monkeypatch: pytest.MonkeyPatch, *, costs: UnitCosts = COSTS
) -> tuple[Made, TimeBox]:
    """Plan for the estimates, and make candidates that take what they take."""
    found = (profile("a", precisions=(FP32, OURS, THEIRS)), profile("b", "openvino", (FP32, OURS, NNCF)))
    plan = make_plan(inputs(*found, costs=costs, time_s=box_s))
    clock = Clock(now_s=costs.prepare_s)
    box = TimeBox(asked_s=box_s, begins_s=0, deadline_s=box_s, unit=costs, clock=clock)
    monkeypatch.setattr(making, "make", _make)
    monkeypatch.setattr(making, "quantised", lambda *_: ())
    nothing: Any = None
    made = make_candidates(plan, {}, nothing, nothing, _context(box, takes_s))
    return made, box


def names(made: Made) -> list[str]:
    return [each.planned.id for each in made.built]


@given(
    st.floats(60, 1200),
    st.lists(st.floats(0, 300), min_size=6, max_size=6),
)
@settings(deadline=None, max_examples=30)
def test_whatever_work_takes_enough_is_left_to_measure(box_s: float, takes: list[float]) -> None:
    ids = ["a/fp32", f"a/{OURS.label}", f"a/{THEIRS.label}", "b/fp32", f"b/{OURS.label}", f"b/{NNCF.label}"]
    takes_s = dict(zip(ids, takes, strict=True))
    costs = COSTS.model_copy(update={"evaluate_test_s": 0.0})  # else what is reserved grows with what was made
    with pytest.MonkeyPatch.context() as monkeypatch:
        made, box = made_in(box_s, takes_s, monkeypatch, costs=costs)
    assert names(made)[0] == "a/fp32"
    assert {*names(made), *(each.what for each in made.plan.refused)} >= set(ids), "nothing is lost"
    if len(made.built) > 1:
        # Measuring as dear as was expected, and a step asks every second whether it must stop.
        late = after_s([each.planned for each in made.built], replace_unit(made), 4, least=True)
        assert box.clock() + late <= box_s + 2


def replace_unit(made: Made) -> UnitCosts:
    assert made.measuring is not None
    return made.measuring.unit


def test_what_takes_less_than_expected_makes_room_for_what_was_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = ["a/fp32", f"a/{OURS.label}", f"a/{THEIRS.label}", "b/fp32", f"b/{OURS.label}", f"b/{NNCF.label}"]
    few, _ = made_in(260, dict.fromkeys(ids, 60.0), monkeypatch)
    many, _ = made_in(260, dict.fromkeys(ids, 1.0), monkeypatch)
    assert len(many.built) > len(few.built)
    assert not {each.what for each in many.plan.refused} & set(names(many))


def test_what_outruns_its_estimate_is_stopped_and_says_after_how_long(monkeypatch: pytest.MonkeyPatch) -> None:
    made, box = made_in(400, {f"a/{THEIRS.label}": 5_000.0, f"a/{OURS.label}": 10.0}, monkeypatch)
    why = {each.what: each.reason for each in made.plan.refused}
    assert why[f"a/{THEIRS.label}"].startswith("stopped to stay inside the time asked for")
    assert " s" in why[f"a/{THEIRS.label}"].rpartition(", after ")[2]
    assert "a/fp32" in names(made)
    assert box.clock() < 400


def test_settings_that_there_is_no_time_to_race_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = made_in(2_000, {"a/fp32": 1_600.0}, monkeypatch)
    assert {len(each.planned.settings) for each in made.built} == {1}
    assert any(each.what == "all runtime settings of a/fp32 but the first" for each in made.plan.refused)


def test_few_samples_are_for_where_there_is_no_time_for_all_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    costs = COSTS.model_copy(update={"calibrate_s": {"onnxruntime": 0.1}, "samples": FEW_SAMPLES + 150})
    theirs, what = f"a/{THEIRS.label}", fewer_samples(f"a/{THEIRS.label}")
    least_s = 10 + (2 + 8) + (20 + 2 + 8) + 2 * 5 * 5 + 2 * 8 + 3

    def samples(box_s: float, fp32_s: float) -> tuple[dict[str, int | None], bool]:
        made, _ = made_in(box_s, {"a/fp32": fp32_s, theirs: 15.0}, monkeypatch, costs=costs)
        found = {each.planned.id: each.planned.samples for each in made.built}
        return found, any(each.what == what for each in made.plan.refused)

    assert samples(least_s, 10.0) == ({"a/fp32": None, theirs: None}, False)
    assert samples(least_s - 10, 10.0) == ({"a/fp32": None, theirs: FEW_SAMPLES}, True)
    quick, said = samples(least_s - 10, 1.0)
    assert (quick[theirs], said) == (None, False), "planned with few, but there was time for all"
    assert theirs not in samples(least_s - 20, 10.0)[0]


def test_without_a_time_box_all_are_made_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_plan(inputs(profile("a", precisions=(FP32, OURS)), profile("b", precisions=(FP32,))))

    def fail(planned: PlannedCandidate, *_: Any) -> FailedCandidate:
        return FailedCandidate(planned=planned, reason="no")

    monkeypatch.setattr(making, "make", fail)
    monkeypatch.setattr(making, "quantised", lambda *_: ())
    nothing: Any = None
    made = make_candidates(plan, {}, nothing, nothing, _context(None))
    assert names(made) == ["a/fp32", f"a/{OURS.label}", "b/fp32"]
    assert made.measuring is None
    assert made.plan == plan


def test_another_build_is_waited_for_as_long_as_the_box_lasts() -> None:
    clock = Clock(now_s=50)
    box = TimeBox(asked_s=100, begins_s=0, deadline_s=100, reserved_s=20, clock=clock)
    assert wait_until(None) == float("inf")
    assert wait_until(box) == 80
    assert wait_until(box, 20) == 60
    clock.now_s = 90
    assert wait_until(box, 20) == 95, "late anyway: for a moment"


def test_the_box_says_what_is_left() -> None:
    clock = Clock(now_s=70)
    box = TimeBox(asked_s=100, begins_s=0, deadline_s=100, reserved_s=20, clock=clock)
    assert box.left_s == 10
    assert box.why_not(10) is None
    said = "left out to stay inside 100 s: it takes about 11 s, and 10 s are left for it"
    assert box.why_not(11) == said
    assert replace(box, reserved_s=0).why_not(11) is None
