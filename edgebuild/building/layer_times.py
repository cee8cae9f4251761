"""Has layers timed on the target before a technique replaces them: compiled and run as candidates are."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from edgebuild.building.compiling import compile_request
from edgebuild.core.artifact import Contract
from edgebuild.execution.faults import Failure
from edgebuild.measuring.layer_times import TimeLayer
from edgebuild.techniques.timing.layer_pairs import SIDES, ExportLayerPairs
from edgebuild.techniques.timing.layer_times import PAIRS, read_pairs, time_input

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from edgebuild.building.context import BuildContext
    from edgebuild.core.capabilities import Capabilities
    from edgebuild.core.objective import Objective
    from edgebuild.execution.executor import StepResult
    from edgebuild.planning.plan import Plan, PlannedCandidate
    from edgebuild.techniques.technique import Technique

Inputs = dict[str, "StepResult | Path"]


def timing_candidate(plan: Plan, recipe: str, profile: str) -> PlannedCandidate | None:
    """Return the candidate whose runtime, precision and first setting layers are timed in: fp32 where there is one.

    None where all are int8: a layer in isolation isn't calibrated.
    """
    found = [c for c in plan.candidates if (c.recipe, c.profile) == (recipe, profile) and c.precision.kind != "int8"]
    return min(found, key=lambda c: c.precision.kind != "fp32", default=None)


def untimed(objective: Objective, can: Capabilities) -> str:
    """Return why no layer is timed on a device that can be asked this; empty where layers may be."""
    if not objective.timed:
        return f"the build's objective is {objective.name}, not time"
    return can.untimed


def why_untimed(context: BuildContext, planned: PlannedCandidate | None) -> str:
    """Return why no layer is timed in this build; empty where they are."""
    return untimed(context.objective, context.can) or ("" if planned else "the profile builds nothing but int8")


def time_layers(
    step: Technique,
    inputs: Mapping[str, StepResult | Path],
    planned: PlannedCandidate | None,
    batch: int,
    context: BuildContext,
) -> tuple[Inputs, tuple[str, ...]]:
    """Return what a technique's step receives of its layers' times, as further inputs, and what to note.

    A pair that can't be compiled, crashes or is disturbed has no time, which is noted; it is tried again in the next
    build. Raises what the device and the store raise.
    """
    if not step.times_layers:
        return {}, ()
    why = why_untimed(context, planned)
    if why or planned is None:
        return {}, (f"{step.kind}: no layer was timed on the target: {why}",)
    who = f"recipe {planned.recipe} for {planned.profile}"
    wanted = {name: inputs[name] for name in ("model", "calibration")}
    exported = context.run(
        ExportLayerPairs(step=step, batch=batch), wanted, label=f"{who}: layers that {step.kind} would replace"
    )
    pairs = read_pairs(exported.path)
    late = context.no_time(f"{who}: layers of {step.kind}", lambda unit: pairs.count * unit.time_layer_s)
    if late is not None:
        return {}, (f"{step.kind}: no layer was timed on the target: {late}",)
    times: Inputs = {PAIRS: exported}
    notes = []
    with context.progress.task("Timing layers", total=pairs.count) as task:
        for number in range(pairs.count):
            context.check()
            layers = ", ".join(pairs.of(number))
            work = partial(_timed, exported.path / str(number), f"layer {layers}", planned, who, context)
            timed = context.guard.attempt(f"{who}: timing {layers}", work)
            if isinstance(timed, Failure):
                notes.append(f"{step.kind}: {layers} could not be timed: {timed.with_report}")
            else:
                times[time_input(number)] = timed
            task.advance(note=layers)
    return times, tuple(notes)


def _timed(folder: Path, layer: str, planned: PlannedCandidate, who: str, context: BuildContext) -> StepResult:
    """Compile both sides of a pair as the candidate is compiled, and time them with its first setting."""
    contract = Contract.model_validate_json((folder / "contract.json").read_bytes())
    compiled: Inputs = {}
    for side in SIDES:
        backend = context.backends[planned.backend]
        step = backend.compile_step(compile_request(context, planned, contract))
        compiled[side] = context.run(step, {"model": folder / side}, label=f"{who}: compile {layer}, {side}")
    timing = TimeLayer(
        protocol=context.options.layers,
        who=layer,
        settings=planned.settings[0] if planned.settings else (),
        pin_clocks=context.pin_clocks,
    )
    return context.run(timing, {**compiled, "data": folder / "data"}, label=f"{who}: time {layer}")
