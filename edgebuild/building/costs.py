"""What one piece of work is expected to take: from a timed look at the model, revised by what was made. Estimates."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from edgebuild.building.layer_times import untimed
from edgebuild.building.ways import way_of
from edgebuild.core.objective import OBJECTIVES
from edgebuild.measuring.session import ANCHOR_SAMPLE_S, LEAST_ROUNDS
from edgebuild.measuring.side import MEMORY_S
from edgebuild.planning.costs import spared_s
from edgebuild.planning.inputs import UnitCosts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgebuild.building.context import Options
    from edgebuild.building.probe import ModelTimes
    from edgebuild.catalogue.project import Project
    from edgebuild.core.capabilities import Capabilities
    from edgebuild.core.record import StepRecord
    from edgebuild.measuring.protocols import Protocol
    from edgebuild.planning.candidates import PlannedCandidate

ASSUMED_FRAMES = 5_000
#: What a frame costs in addition to the model's call: to be read, written, and judged.
FRAME_S = 0.0002
#: Starting a runner where that wasn't timed, importing its runtime, and what compiling takes in addition to loading.
START_S, IMPORT_S, COMPILE_S = 0.3, 0.7, 1.0
#: Judging one candidate, by a metric that is no dearer than most.
JUDGE_S = 0.5
#: Frames that a quantiser gets, at most.
CALIBRATION_FRAMES = 300
#: What quantising takes: seconds whatever the model, and calls of the unoptimised model per calibration frame. Seen on
#: two nets of 0.2 and 900 MMAC on 2 x86 cores; a build goes on with what its own quantisers take. A plug-in's is taken
#: to be as dear as the dearest.
QUANTISERS = {"edgebuild": (14.0, 4.0), "nncf": (3.0, 2.0), "onnxruntime": (0.5, 2.0)}
#: What quantises no sooner with fewer frames: of large models ours takes few anyway.
UNHURRIED = frozenset({"edgebuild"})
#: What the cross-check of one candidate runs: 32 frames, drawn eight times over, unoptimised.
CROSSCHECK_CALLS = 32 * 9
#: What a step of a recipe takes in addition to its training. A sample of the training counts as the arithmetic of four
#: inferences: forwards, twice that backwards, and what the teacher answers.
ASSUMED_COMPRESS_S = 10.0
ASSUMED_TRAIN_FRAMES = 50_000
TRAINING_INFERENCES = 4
#: How often a session launches the anchor model; once less where its arms are alive together.
ANCHOR_LAUNCHES = 3
#: Choosing, writing the record, and the HTML report.
REPORT_S = 3.0


def unit_costs(
    project: Project,
    options: Options,
    times: ModelTimes,
    frames: Mapping[str, int],
    can: Capabilities,
    *,
    macs: int | None,
    batch: int = 1,
    reference_s: float | None = None,
    start_s: float = START_S,
) -> tuple[UnitCosts, tuple[str, ...]]:
    """Return the costs, and what a plan says of them. ``frames`` holds the size of each split that was read already.

    ``reference_s`` is what the reference took on validation, where it ran, ``start_s`` what starting a runner on the
    device takes. A call of the model is ``batch`` frames.
    """
    objective = OBJECTIVES[project.build.objective]
    frame_s = FRAME_S + times.call_s / batch
    validation, test = frames.get("validation", ASSUMED_FRAMES), frames.get("test", ASSUMED_FRAMES)
    calibration = min(frames.get("calibration", CALIBRATION_FRAMES), CALIBRATION_FRAMES)
    open_s = start_s + IMPORT_S + times.load_s
    layer_s = 2 * options.layers.launches * options.layers.launch_s
    plain_s, anchors = times.plain_s / batch, ANCHOR_LAUNCHES - (options.screen.bursts > 0)
    if reference_s is None:
        reference_s = validation * plain_s
    costs = UnitCosts(
        compress_s=ASSUMED_COMPRESS_S,
        time_layer_s=0.0 if untimed(objective, can) else layer_s,
        train_sample_s=TRAINING_INFERENCES * times.call_s / batch,
        prepare_s=5.0 + reference_s + FRAME_S * (validation + test),
        quantise_s={name: fixed_s + calibration * calls * plain_s for name, (fixed_s, calls) in QUANTISERS.items()},
        calibrate_s={name: calls * plain_s for name, (_, calls) in QUANTISERS.items() if name not in UNHURRIED},
        samples=calibration,
        compile_s=COMPILE_S + 2 * times.load_s,
        evaluate_s=open_s + frame_s * validation + JUDGE_S,
        evaluate_test_s=open_s + frame_s * test + JUDGE_S,
        reference_test_s=reference_s * test / max(validation, 1),
        crosscheck_s=1.0 + CROSSCHECK_CALLS * plain_s,
        certify_sessions=1 + (objective.concurrent or project.limits.throughput_per_s is not None),
        session_s=anchors * (start_s + IMPORT_S + options.screen.warmup_min_s + ANCHOR_SAMPLE_S),
        # Memory and layers; where there is a sensor, energy.
        finalist_s=2 * (open_s + MEMORY_S),
        report_s=REPORT_S,
    )
    return way_of(can).expect(costs.model_copy(update=_launches(options, times)), macs)


def _launches(options: Options, times: ModelTimes) -> dict[str, float]:
    return {
        "screen_launch_s": launch_s(options.screen, times),
        "screen_launches": options.screen.launches,
        "certify_launch_s": launch_s(options.certify, times),
        "certify_least": min(LEAST_ROUNDS, options.certify.launches),
        "certify_launches": options.certify.launches,
        # Where the first look settles nothing, a second one does as a rule.
        "certify_most": options.certify.looks[:2][-1],
    }


def launch_s(protocol: Protocol, times: ModelTimes) -> float:
    """Return what one launch takes, in seconds: with loading, twice, and what long calls add to warm-up and bursts."""
    warm_up_s = max(0.0, protocol.warmup_min_inferences * times.call_s - protocol.warmup_min_s)
    burst_s = max(0.0, protocol.burst_inferences * times.call_s - protocol.burst_s)
    return protocol.launch_s + 2 * times.load_s + warm_up_s + protocol.bursts * burst_s


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What was made of one candidate took, in seconds, in whichever build; a part that it hasn't is None.

    ``rest_s`` is compiling, evaluating and judging.
    """

    planned: PlannedCandidate
    quantise_s: float | None
    rest_s: float
    crosscheck_s: float | None


def taken(planned: PlannedCandidate, records: Sequence[StepRecord]) -> Taken:
    """Sum up the steps of a candidate."""
    quantising = f"{planned.precision.label} for "
    int8 = planned.precision.kind == "int8"
    quantise = [step.made_s for step in records if int8 and step.label.startswith(quantising)]
    checks = [step.made_s for step in records if step.label.startswith("cross-check")]
    return Taken(
        planned=planned,
        quantise_s=sum(quantise) if quantise else None,
        rest_s=sum(step.made_s for step in records) - sum(quantise) - sum(checks),
        crosscheck_s=sum(checks) if checks else None,
    )


def revised(unit: UnitCosts, made: Sequence[Taken]) -> UnitCosts:
    """Return the costs as the candidates made so far show them; what none of them says stays as it was expected."""
    if not made:
        return unit
    by_quantiser: dict[str, list[float]] = {}
    for each in made:
        if each.quantise_s is not None and each.planned.precision.quantiser is not None:
            name, samples = each.planned.precision.quantiser, each.planned.samples
            spared = 0.0 if samples is None else spared_s(name, samples, unit)
            by_quantiser.setdefault(name, []).append(each.quantise_s + spared)
    checks = [each.crosscheck_s for each in made if each.crosscheck_s is not None]
    rest_s = fmean(each.rest_s for each in made)
    expected_s = unit.compile_s + unit.evaluate_s
    # The test set is evaluated as validation is, on another number of frames.
    scale = rest_s / expected_s if expected_s else 1.0
    return unit.model_copy(
        update={
            "quantise_s": {**unit.quantise_s, **{name: fmean(found) for name, found in by_quantiser.items()}},
            "compile_s": unit.compile_s * scale,
            "evaluate_s": unit.evaluate_s * scale,
            "evaluate_test_s": unit.evaluate_test_s * scale,
            "crosscheck_s": fmean(checks) if checks else unit.crosscheck_s,
        }
    )
