"""What a build decides between its measurements, as it is: finalists, failures, outcome, and every loser's sentence."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from edgebuild.building import conclude, race
from edgebuild.building.emulated import NO_SPEED, Emulated, finalists_of, without_speed
from edgebuild.building.evaluation import Evaluation
from edgebuild.building.results import CertifiedCandidate, MeasurementResults, Screened
from edgebuild.core.artifact import Artifact, Contract, FileEntry, Fp16Meaning, Int8Scheme, Precision
from edgebuild.core.measurement import LatencySummary, Memory, ThroughputSummary
from edgebuild.core.objective import OBJECTIVES
from edgebuild.core.verdict import CrossCheck, Drop, Outcome, Verdict
from edgebuild.judging.screening import best_settings, finalists
from edgebuild.judging.selection import Selection
from edgebuild.measuring.protocols import MAX_FINALISTS
from edgebuild.measuring.session import Arm
from edgebuild.planning.plan import PlannedCandidate

INT8 = Precision(kind="int8", quantiser="edgebuild", scheme=Int8Scheme(activations="uint8"))
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
    profile: str = "p",
    precision: Precision = FP32,
    size_bytes: int = 1000,
    reasons: tuple[str, ...] = (),
    **more: Any,
) -> Evaluation:
    planned = PlannedCandidate(
        id=name,
        profile=profile,
        backend="onnxruntime",
        precision=precision,
        settings=((),),
        raced=True,
        baseline=more.pop("baseline", False),
        recipe=more.pop("recipe", ""),
    )
    verdict = None if outcome is None else Verdict(outcome=outcome, reasons=reasons)
    given = {"artifact": artifact(size_bytes), "verdict": verdict, **more}
    return Evaluation(planned=planned, **given)


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


def arm(each: Evaluation, label: str = "") -> tuple[Arm, Evaluation]:
    found = Arm(
        id=f"{each.planned.id} ({label})",
        artifact=each.artifact or artifact(),
        folder=Path("a"),
        inputs=Path("i"),
        inputs_digest="d",
        contest=each.planned.profile,
    )
    return found, each


def arms(*pairs: tuple[Arm, Evaluation]) -> dict[str, tuple[Arm, Evaluation]]:
    return {pair[0].id: pair for pair in pairs}


def certified(each: Evaluation, ms: float = 1.0, label: str = "", **more: Any) -> CertifiedCandidate:
    given: dict[str, Any] = {
        "arm": f"{each.planned.id} ({label})",
        "built": each,
        "artifact": each.artifact,
        "summary": latency(ms),
        "memory": None,
        "energy": None,
        "layers": (),
        "versus_reference": None,
        "samples_folder": Path("s"),
        "launches": (),
    }
    return CertifiedCandidate(**{**given, **more})


def raced(**more: Any) -> MeasurementResults:
    given: dict[str, Any] = {
        "screened": {},
        "dropped": {},
        "finalists": (),
        "anchor_ms": (),
        "sessions": (),
        "resolution": None,
    }
    return MeasurementResults(**{**given, **more})


WORLD: Any = SimpleNamespace(objective=OBJECTIVES["latency"])


def chosen(costs: dict[str, float], *each: Evaluation) -> tuple[str, ...]:
    """The finalists among candidates with one setting each, by what that costs."""
    found = arms(*(arm(one) for one in each))
    return finalists(best_settings(race._contenders(found, costs)), MAX_FINALISTS)


class TestFinalists:
    def test_the_best_of_every_profile_comes_first_then_what_cannot_be_told_from_the_fastest(self) -> None:
        each = (built("p/a"), built("p/b"), built("p/c"), built("q/a", profile="q"))
        costs = {"p/a ()": 1.0, "p/b ()": 1.09, "p/c ()": 1.2, "q/a ()": 5.0}
        assert chosen(costs, *each) == ("p/a ()", "q/a ()", "p/b ()")

    def test_accepted_ones_come_before_undecided_and_those_before_mismatched(self) -> None:
        each = (built("p/open", Outcome.INCONCLUSIVE), built("p/gapped", crosscheck=gap()), built("p/sure"))
        costs = {f"{one.planned.id} ()": 1.0 for one in each}
        assert chosen(costs, *each) == ("p/sure ()", "p/gapped ()", "p/open ()")

    def test_refused_ones_are_none_and_there_are_no_more_than_fit_a_session(self) -> None:
        each = [*(built(f"p/{i}") for i in range(MAX_FINALISTS + 3)), built("p/no", Outcome.REFUSED)]
        found = chosen({f"{one.planned.id} ()": 1.0 for one in each}, *each)
        assert len(found) == MAX_FINALISTS
        assert "p/no ()" not in found

    def test_emulated_ones_are_the_baseline_and_then_the_accepted(self) -> None:
        base, sure = built("base", Outcome.INCONCLUSIVE, baseline=True), built("sure")
        undecided, refused = built("open", Outcome.INCONCLUSIVE), built("no", Outcome.REFUSED)
        found = finalists_of([undecided, refused, sure, base])
        assert [each.planned.id for each in found] == ["base", "sure", "open"]


class TestCosts:
    def costs(self, objective: Any, summaries: dict[str, Screened]) -> dict[str, float]:
        a, nothing = built("p/a"), cast("Any", None)
        found = arms(arm(a, "one"), arm(a, "two"))
        return race._costs(found, summaries, OBJECTIVES[objective], nothing, nothing, {})

    def test_time_size_and_what_is_completed(self) -> None:
        times: dict[str, Screened] = {"p/a (one)": latency(2.0), "p/a (two)": latency(1.0)}
        assert self.costs("latency", times) == {"p/a (one)": 2.0, "p/a (two)": 1.0}
        assert self.costs("size", times) == {"p/a (one)": 1000.0, "p/a (two)": 1000.0}
        flight = ThroughputSummary(launches=2, invalid_launches=0, requests=2, concurrent=True, per_s=100.0)
        rates: dict[str, Screened] = {"p/a (one)": flight, "p/a (two)": flight.model_copy(update={"per_s": 200.0})}
        assert self.costs("throughput", rates) == {"p/a (one)": 10.0, "p/a (two)": 5.0}


class TestWhyNot:
    """The status and the sentence of a candidate that was not certified."""

    def said(self, each: Evaluation, found: MeasurementResults) -> tuple[str, str]:
        record = conclude._other_record(each, found, WORLD)
        return record.status, record.reason

    def test_what_was_not_built(self) -> None:
        lost = built("p/a", None, failure="can't be converted", artifact=None)
        assert self.said(lost, raced()) == ("failed", "can't be converted")

    def test_what_was_refused_on_validation(self) -> None:
        each = built("p/a", Outcome.REFUSED, reasons=("falls behind", "too large"))
        assert self.said(each, raced()) == ("refused", "falls behind; too large")

    def test_what_crashed(self) -> None:
        assert self.said(built("p/a"), raced(failed={"p/a": "died"})) == ("failed", "died")

    def test_what_was_dropped_and_what_was_only_slower(self) -> None:
        screened = {"p/a (one)": ("p/a", latency(2.0)), "p/a (two)": ("p/a", latency(1.5))}
        found = raced(screened=screened)
        sentence = "screened at 1.5 ms, more than 10% behind the fastest of its kind"
        assert self.said(built("p/a"), found) == ("screened", sentence)
        found = raced(screened=screened, dropped={"p/a (two)": "1.8x"})
        assert self.said(built("p/a"), found) == ("screened", "dropped in screening: 1.8x")

    def test_what_was_disturbed_or_only_saves_space(self) -> None:
        found = raced(dropped={"p/a (one)": "none of its 3 launches counts", "p/ab (one)": "another's"})
        assert self.said(built("p/a"), found) == ("unraced", "none of its 3 launches counts")
        status, reason = self.said(built("p/h", precision=STORED), raced())
        assert status == "unraced"
        assert reason.startswith("fp16 is storage on this profile")
        assert reason.endswith("not raced for latency")

    def test_what_no_device_measured(self) -> None:
        assert self.said(built("p/a", None), raced(unmeasured="compiled only")) == ("unraced", "compiled only")
        emulated = Emulated(device="a core", samples="10 frames")
        status, reason = self.said(built("p/a"), raced(emulated=emulated))
        assert (status, reason) == ("unraced", f"not scored on the test set: 0 others came first; {NO_SPEED}")


class TestEnd:
    def selection(self, chosen: str | None = None, nearest: str | None = None) -> Selection:
        return Selection(chosen=chosen, nearest=nearest, front=(), reasons={"a": "the fastest"})

    def test_outcomes(self) -> None:
        accepted, undecided = Verdict(outcome=Outcome.ACCEPTED), Verdict(outcome=Outcome.INCONCLUSIVE)
        refused = Verdict(outcome=Outcome.REFUSED, reasons=("falls behind",))
        assert conclude._outcome(self.selection("a"), {"a": accepted}) == "ok"
        assert conclude._outcome(self.selection(), {"a": refused}) == "missed"
        assert conclude._outcome(self.selection(), {"a": refused, "b": undecided}) == "inconclusive"

    def test_summaries(self) -> None:
        refused = {"a": Verdict(outcome=Outcome.REFUSED, reasons=("falls behind",))}
        each = [built("a")]
        assert conclude._summary(self.selection("a"), refused, "ok", each, raced()) == "a: the fastest"
        missed = conclude._summary(self.selection(nearest="a"), refused, "missed", each, raced())
        assert missed == "No candidate stays inside the budget; the nearest is a: falls behind"
        undecided = conclude._summary(self.selection(nearest="a"), refused, "inconclusive", each, raced())
        assert undecided == "No candidate could be certified; the nearest is a: falls behind"
        nothing = conclude._summary(self.selection(), {}, "missed", [built("a", None, failure="broke")], raced())
        assert nothing == "Nothing could be measured: a: broke"
        compiled = conclude._summary(self.selection(), {}, "inconclusive", each, raced(unmeasured="compiled only"))
        assert compiled == "Nothing is proven: compiled only"

    def test_two_settings_of_one_candidate_are_told_apart(self) -> None:
        a, b = built("a"), built("b")
        finalists = (certified(a, label="one"), certified(a, label="two"), certified(b, label="one"))
        assert list(conclude._names(raced(finalists=finalists))) == ["a (one)", "a (two)", "b"]

    @pytest.mark.parametrize(
        ("objective", "value"), [("latency", 2.0), ("size", 1000.0), ("memory", 70.0), ("throughput", 5.0)]
    )
    def test_the_figure_that_an_objective_chooses_by(self, objective: Any, value: float) -> None:
        flight = ThroughputSummary(launches=2, invalid_launches=0, requests=2, concurrent=True, per_s=5.0)
        memory = Memory(baseline_bytes=10, load_peak_bytes=60, inference_peak_bytes=70, pss_peak_bytes=50)
        finalist = certified(built("p/a"), 2.0, memory=memory, throughput=flight)
        verdict = Verdict(outcome=Outcome.ACCEPTED)
        option = conclude._option("p/a", finalist, verdict, OBJECTIVES[objective], {"p": "p/plain"})
        assert (option.value, option.plain, option.outcome) == (value, "p/plain", Outcome.ACCEPTED)

    def test_an_emulated_device_decides_nothing_about_speed(self) -> None:
        drop = Drop(
            metric="accuracy",
            split="validation",
            samples=10,
            reference=0.9,
            artifact=0.9,
            drop=0.0,
            low=0.0,
            high=0.0,
            level=0.95,
            method="m",
            budget=0.1,
        )
        verdict = Verdict(outcome=Outcome.ACCEPTED, drop=drop)
        assert without_speed(verdict, OBJECTIVES["size"]) == verdict
        assert without_speed(verdict, OBJECTIVES["latency"]).outcome is Outcome.INCONCLUSIVE
        refused = Verdict(outcome=Outcome.REFUSED)
        assert without_speed(refused, OBJECTIVES["latency"]) == refused
