"""Measures the candidates: screen everything that may win, then certify the finalists beside the reference artifact."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from edgebuild.building import emulated
from edgebuild.building.certify import certify
from edgebuild.building.results import (
    CertifiedCandidate,
    MeasurementResults,
    cost_of,
    disturbed,
    flight_summary_of,
    settings_label,
    summary_of,
)
from edgebuild.core.verdict import Outcome
from edgebuild.devices.hold import clocks_as_asked, hold_device
from edgebuild.execution.faults import Failure
from edgebuild.judging.screening import Contender, best_settings, finalists
from edgebuild.measuring import session, side
from edgebuild.measuring.anchor import anchor_arm
from edgebuild.measuring.protocols import MAX_FINALISTS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgebuild.building.context import BuildContext
    from edgebuild.building.evaluation import Evaluation
    from edgebuild.building.prepare import ModelInputs
    from edgebuild.building.results import Screened
    from edgebuild.core.objective import Objective
    from edgebuild.measuring.session import Arm, MeasurementContext, SessionResult

#: What a build without a device says of everything that it made.
COMPILED_ONLY = "compiled only (--no-measure): neither its accuracy nor its latency was measured on the target"


def run_race(built: Sequence[Evaluation], prepared: ModelInputs, context: BuildContext) -> MeasurementResults:
    """Screen, choose finalists, certify. Holds the device throughout.

    A runner that crashes or hangs, and a bug that one arm meets, is its candidate's result. Raises ``DeviceError`` when
    the device fails, or the baseline on it; whatever was measured until then is on disk and is gone on with.
    """
    nothing = MeasurementResults(screened={}, dropped={}, finalists=(), anchor_ms=(), sessions=(), resolution=None)
    if not context.measured:
        return replace(nothing, unmeasured=COMPILED_ONLY)
    if context.emulated:
        return replace(nothing, finalists=_unraced(built), emulated=emulated.profile(built, prepared, context))
    baseline = next((b for b in built if b.planned.baseline and b.artifact is not None), None)
    if baseline is None:
        baseline = next((b for b in sorted(built, key=lambda b: bool(b.planned.recipe)) if b.eligible), None)
    if baseline is None:
        return nothing
    what = f"edgebuild {context.project.name}"
    with (
        hold_device(context.client, what, progress=context.progress, check=context.check),
        clocks_as_asked(context.client, context.probe, pin=context.pin_clocks, check=context.check) as probe,
    ):
        context = replace(context, probe=probe)
        bench = make_bench(context)
        # Where nothing may be chosen, the baseline alone is measured, as it was with another budget.
        all_pace = not any(b.eligible for b in built)
        arms = {
            arm.id: (arm, b)
            for b in built
            for arm in _arms(b, baseline, prepared, sets_pace=b.eligible or all_pace)
            if b.eligible or b is baseline
        }
        raced = {arm_id: pair for arm_id, pair in arms.items() if pair[1].planned.raced}
        protocol = context.options.screen
        if context.objective.concurrent:
            protocol = protocol.in_flight()
        screen = session.measure(bench, protocol, [arm for arm, _ in raced.values()], title="Screening")
        crashed = dict(screen.failed)
        out = disturbed(screen, (arm_id for arm_id in raced if arm_id not in crashed))
        raced = {arm_id: pair for arm_id, pair in raced.items() if arm_id not in {**out, **crashed}}
        batch = prepared.contract.batch
        summarised = flight_summary_of if protocol.mode == "flight" else summary_of
        summaries: dict[str, Screened] = {arm_id: summarised(screen, arm_id, batch) for arm_id in raced}
        costs = _costs(raced, summaries, context.objective, bench, screen, crashed)
        names = finalists(best_settings(_contenders(raced, costs)), MAX_FINALISTS)
        reference = next(arm_id for arm_id, (_, b) in arms.items() if b is baseline)
        order = [reference, *(name for name in names if name != reference)]
        race = certify(bench, context, order, arms, batch, screen, summaries, crashed)
        return replace(race, dropped={**race.dropped, **out})


def _unraced(built: Sequence[Evaluation]) -> tuple[CertifiedCandidate, ...]:
    """The finalists of an emulated build: judged like others, measured in nothing that is a board's."""
    return tuple(
        CertifiedCandidate(
            arm=b.planned.id,
            built=b,
            artifact=b.artifact,
            summary=None,
            memory=None,
            energy=None,
            layers=(),
            versus_reference=None,
            samples_folder=b.folder,
            launches=(),
        )
        for b in emulated.finalists_of(built)
        if b.artifact is not None
    )


def make_bench(context: BuildContext) -> MeasurementContext:
    """Return the bench of this build's device."""
    return session.MeasurementContext(
        client=context.client,
        root=context.home / "measurements",
        progress=context.progress,
        check=context.check,
        configuration=context.configuration,
        seed=context.project.build.seed,
        remeasure=context.options.remeasure,
        deadline_s=float("inf") if context.options.time_s is None else context.started + context.options.time_s,
        anchor=anchor_arm(context.backends, context.executor),
        guard=context.guard,
    )


def _arms(built: Evaluation, baseline: Evaluation, prepared: ModelInputs, *, sets_pace: bool) -> list[Arm]:
    """One arm per runtime setting; the first of the baseline is the reference artifact and always kept."""
    if built.artifact is None:
        return []
    arms = []
    for index, settings in enumerate(built.planned.settings or ((),)):
        arms.append(
            session.Arm(
                id=f"{built.planned.id} ({settings_label(settings)})",
                artifact=built.artifact.with_settings(settings),
                folder=built.folder,
                inputs=prepared.validation.path,
                inputs_digest=prepared.validation.entry.digest,
                contest=built.planned.profile,
                keep=built is baseline and index == 0,
                sets_pace=sets_pace,
            )
        )
    return arms


def _costs(
    raced: Mapping[str, tuple[Arm, Evaluation]],
    summaries: Mapping[str, Screened],
    objective: Objective,
    bench: MeasurementContext,
    screen: SessionResult,
    crashed: dict[str, Failure],
) -> dict[str, float]:
    """Return what each arm costs, less is better; measures memory where that is asked for. Adds to ``crashed``."""
    cost = {}
    for arm_id, (arm, _) in raced.items():
        if objective.in_files:
            cost[arm_id] = float(arm.artifact.size_bytes)
        elif objective.timed:
            cost[arm_id] = cost_of(summaries[arm_id])
        else:
            memory = bench.attempt(arm, partial(side.measure_memory, bench, screen.folder, arm))
            if isinstance(memory, Failure):
                crashed[arm_id] = memory
            else:
                cost[arm_id] = float(memory.peak_bytes)
    return cost


def _contenders(arms: Mapping[str, tuple[Arm, Evaluation]], costs: Mapping[str, float]) -> tuple[Contender, ...]:
    return tuple(
        Contender(
            arm=arm_id,
            candidate=built.planned.id,
            profile=built.planned.profile,
            cost=cost,
            accepted=built.verdict is not None and built.verdict.outcome is Outcome.ACCEPTED,
            mismatched=built.gapped,
        )
        for arm_id, cost in costs.items()
        if (built := arms[arm_id][1]).eligible
    )
