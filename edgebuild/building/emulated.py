"""What an emulated device can show of candidates: parity, memory and instructions; never a word on speed."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING

from edgebuild.building import splits
from edgebuild.building.evaluation import evaluations
from edgebuild.building.results import CertifiedCandidate, MeasurementResults
from edgebuild.building.splits import SAMPLE_S
from edgebuild.core.candidate import Variant
from edgebuild.core.measurement import Emulation, Measurements, Memory
from edgebuild.execution.faults import Failure
from edgebuild.measuring.emulated import ProfileEmulated, plugin_digest
from edgebuild.measuring.protocols import MAX_FINALISTS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from edgebuild.building.context import BuildContext
    from edgebuild.building.evaluation import Built, Evaluation
    from edgebuild.building.prepare import ModelInputs
    from edgebuild.building.splits import JudgedSplit
    from edgebuild.execution.executor import StepResult
    from edgebuild.planning.inputs import UnitCosts

#: What a plan says of it, with the number of frames.
PLAN_NOTE = "the device is emulated: nothing is timed, and accuracy is checked on about {frames:,} frames of each split"
#: For estimates: QEMU's start of Python and the runtime, and a launch of its own for memory and one for instructions.
START_S, PROFILE_S = 5.0, 15.0


def expect(costs: UnitCosts, macs: int | None) -> tuple[UnitCosts, tuple[str, ...]]:
    """Return what work costs where it is emulated: nothing is raced, and a split is a sample of it."""
    changed = {
        "compile_s": 2 * START_S,
        "evaluate_s": START_S + SAMPLE_S + PROFILE_S,
        "evaluate_test_s": START_S + SAMPLE_S,
        "time_layer_s": 0.0,
        "screen_launch_s": 0.0,
        "certify_launch_s": 0.0,
        "finalist_s": 0.0,
        "session_s": 0.0,
    }
    return costs.model_copy(update=changed), (PLAN_NOTE.format(frames=splits.sample_frames(macs)),)


def profile(
    built: tuple[Built, ...], prepared: ModelInputs, validation: JudgedSplit, context: BuildContext
) -> MeasurementResults:
    """Return what of every candidate can be known without a clock, and which are scored on the test set."""
    del prepared
    made = evaluations(built)
    profiled = {}
    for one in made:
        context.check()
        work = partial(_profiled, one, validation, context.concerning(candidate=one.planned.id))
        found = context.guard.attempt(f"profiling {one.planned.id}", work)
        if isinstance(found, Failure):
            found = Measurements(emulation=Emulation(not_counted=found.with_report))
        profiled[one.planned.id] = found
    finalists = finalists_of(made)
    return MeasurementResults(
        finalists=tuple(
            CertifiedCandidate(
                variant=Variant(candidate=one.planned.id, settings=one.artifact.settings),
                evaluation=one,
                artifact=one.artifact,
                # Memory under an emulator is that of another process: no limit and no objective looks at it.
                measured=Measurements(),
                samples_folder=one.folder,
            )
            for one in finalists
        ),
        profiled=profiled,
        passed_over=f"not scored on the test set: {len(finalists)} others came first; {context.can.why}",
    )


def finalists_of(built: Iterable[Evaluation]) -> list[Evaluation]:
    """Return which candidates are scored on the test set: the baseline, then accepted ones, as the plan orders them."""
    eligible = [one for one in built if one.eligible]
    return sorted(eligible, key=lambda one: (not one.planned.baseline, not one.accepted))[: MAX_FINALISTS + 1]


def _profiled(one: Evaluation, validation: JudgedSplit, context: BuildContext) -> Measurements:
    inputs = {"artifact": one.compiled, "data": validation.data}
    step = ProfileEmulated(plugin_digest=plugin_digest(), settings=one.artifact.settings)
    found = context.run(step, inputs, label=f"profile {one.planned.id} (emulated)")
    counts = json.loads((found.path / "counts.json").read_bytes())
    plain = one.planned.precision.kind == "fp32"
    return Measurements(
        memory=Memory.model_validate_json((found.path / "memory.json").read_bytes()),
        emulation=Emulation(
            parity=parity(validation.reference, one.outputs) if plain and one.outputs else None,
            instructions=tuple((str(k), int(v)) for k, v in sorted(counts.get("classes", {}).items())),
            not_counted=str(counts.get("why", "")),
        ),
    )


def parity(reference: StepResult, outputs: StepResult) -> float | None:
    """Return the greatest difference of any output, relative to the greatest of that output of the reference."""
    import numpy as np

    from edgebuild.models.outputs import read_outputs

    wanted, given = read_outputs(reference.path), read_outputs(outputs.path)
    worst: float | None = None
    for name, array in wanted.items():
        if array.dtype.kind != "f" or given[name].shape != array.shape:
            continue
        left = np.asarray(array, dtype=np.float64)
        size = float(np.abs(left).max(initial=0.0))
        gap = float(np.abs(np.asarray(given[name], dtype=np.float64) - left).max(initial=0.0))
        share = gap / size if size else gap
        worst = share if worst is None else max(worst, share)
    return worst
