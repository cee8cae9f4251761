"""What a build decides between its measurements, as it is: finalists, failures, outcome, and every loser's sentence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from edgebuild.building import certify, conclude, race, rows
from edgebuild.building.certify import Entrant
from edgebuild.building.decisions import Decisions
from edgebuild.building.emulated import finalists_of
from edgebuild.building.evaluation import Evaluation, FailedCandidate
from edgebuild.building.race import finalists_that_fit
from edgebuild.building.results import CertifiedCandidate, MeasurementResults
from edgebuild.building.timebox import TimeBox
from edgebuild.core.artifact import Artifact, Contract, FileEntry, Fp16Meaning, Precision
from edgebuild.core.candidate import Variant
from edgebuild.core.measurement import LatencySummary, Measurements, ThroughputSummary
from edgebuild.core.objective import OBJECTIVES, ObjectiveName
from edgebuild.core.verdict import CrossCheck, Outcome, Verdict
from edgebuild.judging.screening import best_settings, finalists
from edgebuild.measuring.protocols import CERTIFY, MAX_FINALISTS, Protocol
from edgebuild.measuring.session import Arm
from edgebuild.planning.inputs import UnitCosts
from edgebuild.planning.plan import PlannedCandidate

if TYPE_CHECKING:
    from edgebuild.building.evaluation import Built

FP32 = Precision(kind="fp32")
STORED = Precision(kind="fp16", fp16=Fp16Meaning.STORAGE)
CONTRACT = Contract(inputs=(), outputs=())


def artifact(size_bytes: int = 1000) -> Artifact:
    file = FileEntry(path="model.onnx", size_bytes=size_bytes, sha256=f"{size_bytes:064d}")
    return Artifact(
        backend="onnxruntime", entry="model.onnx", files=(file,), contract=CONTRACT, settings=(), precision=FP32
    )


def built(
    name: str,
    outcome: Outcome | None = Outcome.ACCEPTED,
    *,
    precision: Precision = FP32,
    size_bytes: int = 1000,
    reasons: tuple[str, ...] = (),
    **more: Any,
) -> Evaluation:
    """A candidate ``profile/recipe``; its id ends with the precision."""
    verdict = None if outcome is None else Verdict(outcome=outcome, reasons=reasons)
    given: dict[str, Any] = {"artifact": artifact(size_bytes), "compiled": cast("Any", None), "verdict": verdict}
    return Evaluation(planned=planned(name, precision, more.pop("baseline", False)), **{**given, **more})


def planned(name: str, precision: Precision = FP32, baseline: bool = False) -> PlannedCandidate:
    profile, _, recipe = name.partition("/")
    return PlannedCandidate(
        profile=profile,
        backend="onnxruntime",
        precision=precision,
        settings=((),),
        raced=precision.fp16 is not Fp16Meaning.STORAGE,
        baseline=baseline,
        recipe=recipe,
    )


def gap() -> CrossCheck:
    return CrossCheck(cause="layer", explanation="conv saturates")


def latency(ms: float) -> LatencySummary:
    return LatencySummary(
        launches=2,
        invalid_launches=0,
        point_ms=ms,
        low_ms=0.9 * ms,
        high_ms=1.1 * ms,
        throughput_per_s=1e3 / ms,
        load_ms=1.0,
        first_inference_ms=1.0,
    )


def variant(name: str, label: str = "") -> Variant:
    return Variant(candidate=f"{name}/fp32", settings=(("at", label),) if label else ())


def entrant(each: Evaluation, label: str = "") -> Entrant:
    own = Variant(candidate=each.planned.id, settings=(("at", label),) if label else ())
    arm = Arm(
        id=own.id,
        artifact=each.artifact,
        folder=Path("a"),
        inputs=Path("i"),
        inputs_digest="d",
        contest=each.planned.profile,
    )
    return Entrant(variant=own, evaluation=each, arm=arm)


def entrants(*each: Entrant) -> dict[str, Entrant]:
    return {one.arm.id: one for one in each}


def certified(each: Evaluation, label: str = "") -> CertifiedCandidate:
    return CertifiedCandidate(
        variant=entrant(each, label).variant,
        evaluation=each,
        artifact=each.artifact,
        measured=Measurements(latency=latency(1.0)),
        samples_folder=Path("s"),
    )


def chosen(costs: dict[str, float], *each: Evaluation) -> tuple[str, ...]:
    """The finalists among candidates with one setting each, by what that costs."""
    found = entrants(*(entrant(one) for one in each))
    named = {f"{name}/fp32 (defaults)": cost for name, cost in costs.items()}
    chosen = finalists(best_settings(race._contenders(found, named)), MAX_FINALISTS)
    return tuple(name.removesuffix("/fp32 (defaults)") for name in chosen)


class TestFinalists:
    def test_the_best_of_every_profile_comes_first_then_what_cannot_be_told_from_the_fastest(self) -> None:
        each = (built("p/a"), built("p/b"), built("p/c"), built("q/a"))
        costs = {"p/a": 1.0, "p/b": 1.09, "p/c": 1.2, "q/a": 5.0}
        assert chosen(costs, *each) == ("p/a", "q/a", "p/b")

    def test_accepted_ones_come_before_undecided_and_those_before_mismatched(self) -> None:
        each = (built("p/open", Outcome.INCONCLUSIVE), built("p/gapped", crosscheck=gap()), built("p/sure"))
        costs = {one.planned.id.removesuffix("/fp32"): 1.0 for one in each}
        assert chosen(costs, *each) == ("p/sure", "p/gapped", "p/open")

    def test_refused_ones_are_none_and_there_are_no_more_than_fit_a_session(self) -> None:
        each = [*(built(f"p/{i}") for i in range(MAX_FINALISTS + 3)), built("p/no", Outcome.REFUSED)]
        found = chosen({one.planned.id.removesuffix("/fp32"): 1.0 for one in each}, *each)
        assert len(found) == MAX_FINALISTS
        assert "p/no" not in found

    def test_emulated_ones_are_the_baseline_and_then_the_accepted(self) -> None:
        base, sure = built("base", Outcome.INCONCLUSIVE, baseline=True), built("sure")
        undecided, refused = built("open", Outcome.INCONCLUSIVE), built("no", Outcome.REFUSED)
        found = finalists_of([undecided, refused, sure, base])
        assert [each.planned.id for each in found] == ["base/fp32", "sure/fp32", "open/fp32"]


class TestLate:
    """Another build was waited for: what there is no time for any more isn't measured."""

    UNIT = UnitCosts(screen_launch_s=3, certify_launch_s=5, certify_least=2, session_s=2, finalist_s=1)

    def left(self, left_s: float) -> tuple[list[str], dict[Variant, str], list[str]]:
        base, a, b = built("p", baseline=True), built("p/a"), built("q")
        reference = entrant(base, "one")
        reference = replace(reference, arm=replace(reference.arm, keep=True))
        raced = entrants(reference, entrant(base, "two"), entrant(b, "one"), entrant(a, "one"), entrant(a, "two"))
        box = TimeBox(asked_s=240, begins_s=0, deadline_s=left_s, unit=self.UNIT, clock=lambda: 0.0)
        said: list[str] = []
        context = SimpleNamespace(box=box, decisions=Decisions(), say=lambda _, text: said.append(text))
        kept, late = race.in_time(raced, cast("Any", context))
        return sorted(kept), dict(late), said

    def test_all_are_measured_where_there_is_time(self) -> None:
        kept, late, said = self.left(1_000)
        assert (len(kept), late, said) == (5, {}, [])

    def test_first_settings_come_before_further_ones(self) -> None:
        # 8 s for two in screening and 24 s for certifying both; 3 s for each further one.
        kept, late, said = self.left(32 + 4)
        assert kept == ["p/a/fp32 (at=one)", "p/fp32 (at=one)", "q/fp32 (at=one)"]
        (why,) = set(late.values())
        assert why == "left out to stay inside 240 s: it takes about 41 s, and 36 s are left for it"
        assert said == [f"2 of 5 artifacts and settings aren't measured: {why}"]

    def test_the_reference_and_the_most_promising_one_always_are(self) -> None:
        kept, late, _ = self.left(-10)
        assert kept == ["p/fp32 (at=one)", "q/fp32 (at=one)"]
        assert len(late) == 3

    def test_without_a_time_box_all_are(self) -> None:
        context = SimpleNamespace(box=None, decisions=Decisions())
        raced = entrants(entrant(built("p"), "one"), entrant(built("p"), "two"))
        assert race.in_time(raced, cast("Any", context)) == (raced, {})


@pytest.mark.parametrize(("made", "said"), [(2, "2 of 6 launches"), (6, "6 of 12 launches"), (13, "13 of 24 launches")])
def test_a_session_that_was_cut_short_says_how_much_it_holds(made: int, said: str) -> None:
    measured = {name: SimpleNamespace(launches=[None] * count) for name, count in (("a", made), ("b", 1))}
    session = SimpleNamespace(cut_short=True, measurements=measured, protocol=CERTIFY)
    assert said in certify.cut_short(cast("Any", session))
    assert certify.cut_short(cast("Any", SimpleNamespace(cut_short=False))) == ""


class TestCosts:
    def costs(self, objective: ObjectiveName, found: dict[str, Measurements]) -> dict[str, float]:
        a, nothing = built("p/a"), cast("Any", None)
        raced = entrants(entrant(a, "one"), entrant(a, "two"))
        named = {variant("p/a", label).id: each for label, each in found.items()}
        costs = race._costs(raced, named, OBJECTIVES[objective], nothing, nothing, {})
        return {label: costs[variant("p/a", label).id] for label in found}

    def test_time_size_and_what_is_completed(self) -> None:
        times = {label: Measurements(latency=latency(ms)) for label, ms in (("one", 2.0), ("two", 1.0))}
        assert self.costs("latency", times) == {"one": 2.0, "two": 1.0}
        assert self.costs("size", times) == {"one": 1000.0, "two": 1000.0}
        flight = ThroughputSummary(launches=2, invalid_launches=0, requests=2, concurrent=True, per_s=100.0)
        twice = flight.model_copy(update={"per_s": 200.0})
        rates = {label: Measurements(throughput=found) for label, found in (("one", flight), ("two", twice))}
        assert self.costs("throughput", rates) == {"one": 10.0, "two": 5.0}


class TestWhyNot:
    """The status and the sentence of a candidate that was not certified."""

    def said(self, each: Built, found: MeasurementResults) -> tuple[str, str]:
        record = rows.other_record(each, found, OBJECTIVES["latency"])
        return record.status, record.reason

    def test_what_was_not_built(self) -> None:
        lost = FailedCandidate(planned=planned("p/a"), reason="can't be converted")
        assert self.said(lost, MeasurementResults()) == ("failed", "can't be converted")

    def test_what_was_refused_on_validation(self) -> None:
        each = built("p/a", Outcome.REFUSED, reasons=("falls behind", "too large"))
        assert self.said(each, MeasurementResults()) == ("refused", "falls behind; too large")

    def test_what_crashed(self) -> None:
        assert self.said(built("p/a"), MeasurementResults(failed={"p/a/fp32": "died"})) == ("failed", "died")

    def test_what_was_dropped_and_what_was_only_slower(self) -> None:
        times = {"one": 2.0, "two": 1.5}
        screened = {variant("p/a", label): Measurements(latency=latency(ms)) for label, ms in times.items()}
        status, reason = self.said(built("p/a"), MeasurementResults(screened=screened))
        assert status == "screened"
        assert reason.startswith("screened at 1.5 ms, behind the finalists")
        found = MeasurementResults(screened=screened, dropped={variant("p/a", "two"): "1.8x"})
        assert self.said(built("p/a"), found) == ("screened", "dropped in screening: 1.8x")

    def test_what_was_disturbed_or_only_saves_space(self) -> None:
        dropped = {variant("p/ab", "one"): "another's", variant("p/a", "one"): "none of its 3 launches counts"}
        found = MeasurementResults(dropped=dropped)
        assert self.said(built("p/a"), found) == ("unraced", "none of its 3 launches counts")
        status, reason = self.said(built("p/h", precision=STORED), MeasurementResults())
        assert status == "unraced"
        assert reason.startswith("fp16-storage computes in fp32")
        assert reason.endswith("not raced for latency")

    def test_what_no_device_measured(self) -> None:
        unproven = MeasurementResults(unproven="compiled only")
        assert self.said(built("p/a", None), unproven) == ("unraced", "compiled only")
        emulated = MeasurementResults(passed_over="others came first")
        assert self.said(built("p/h", precision=STORED), emulated) == ("unraced", "others came first")


def test_two_settings_of_one_candidate_are_told_apart() -> None:
    a, b = built("a"), built("b")
    finalists = (certified(a, label="one"), certified(a, label="two"), certified(b, label="one"))
    names = conclude._names(MeasurementResults(finalists=finalists))
    assert list(names) == ["a/fp32 (at=one)", "a/fp32 (at=two)", "b/fp32"]


@pytest.mark.parametrize(("left_s", "count"), [(float("inf"), 4), (-5.0, 1), (61.0, 1), (95.0, 2), (1e9, 4)])
def test_as_many_finalists_as_can_be_certified_in_the_time_left(left_s: float, count: int) -> None:
    """An arm takes 5 launches of 5 s and two loads of half a second: 30 s, and the reference is an arm, too."""
    protocol = Protocol(name="certify", launches=5, max_launches=20, sample_s=2.8, warmup_cap_s=1.0)
    assert protocol.launch_s == 5.0
    slow_to_load = Measurements(latency=latency(1.0).model_copy(update={"load_ms": 500.0}))
    assert finalists_that_fit(protocol, [slow_to_load], left_s) == count
    # What else is measured of three arms takes ten seconds each.
    assert finalists_that_fit(protocol, [slow_to_load], left_s + 30.0, 10.0) == min(count, 2) or left_s > 1e6
