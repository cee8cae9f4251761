"""A build on an emulated device: accuracy on a stated sample, parity, memory, instructions; never a word on speed."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Literal

from edgebuild.building.prepare import run_reference
from edgebuild.core.measurement import Memory
from edgebuild.core.verdict import Emulation, Outcome
from edgebuild.execution.faults import Failure
from edgebuild.judging.outcomes import with_reason
from edgebuild.measuring.emulated import ProfileEmulated, plugin_digest
from edgebuild.measuring.protocols import MAX_FINALISTS
from edgebuild.models.subset import SampleData

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgebuild.building.context import BuildContext
    from edgebuild.building.evaluation import Evaluation
    from edgebuild.building.prepare import ModelInputs
    from edgebuild.core.artifact import Artifact
    from edgebuild.core.objective import Objective
    from edgebuild.core.verdict import Verdict
    from edgebuild.execution.executor import StepResult
    from edgebuild.planning.inputs import UnitCosts

#: Why no limit on time or memory and no objective but size can be settled.
NO_SPEED = "the device is emulated, which says nothing about a board's speed or memory: certify on a board"
#: What one candidate may take for one split, about.
SAMPLE_S = 60.0
#: For estimates: what QEMU does in a second of an fp32 network's multiply-accumulates, and what a call costs beside.
MACS_PER_S = 120e6
CALL_S = 0.01
LEAST_FRAMES = 32
#: Fewer samples (recordings, say) bound no drop, however many frames they have: judging wants 10 at the very least.
LEAST_SAMPLES = 20


#: What a plan says of it, with the number of frames.
PLAN_NOTE = (
    "the device is emulated: nothing is timed, and accuracy is looked at on about {frames:,} frames of each split"
)
#: For estimates: QEMU's start of Python and the runtime, and a launch of its own for memory and one for instructions.
START_S, PROFILE_S = 5.0, 15.0


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """One split as far as it is run under emulation, with the reference's outputs on exactly these frames."""

    data: StepResult
    reference: StepResult
    frames: int
    of: int

    @property
    def text(self) -> str:
        """How many of how many frames."""
        return f"all {self.of:,}" if self.frames == self.of else f"{self.frames:,} of {self.of:,}"


@dataclass(frozen=True, kw_only=True)
class Emulated:
    """What an emulated build found beside its finalists, by candidate; ``device`` says what was emulated."""

    device: str
    samples: str
    memories: Mapping[str, Memory] = field(default_factory=dict)
    emulations: Mapping[str, Emulation] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """What every page and terminal says of such a build."""
        return f"{self.device}; accuracy on {self.samples}"


def sample_frames(macs: int | None) -> int:
    """Return how many frames of a split are run: as many as about a minute takes, by the model's arithmetic."""
    frame_s = CALL_S + (macs or 10_000_000) / MACS_PER_S
    return max(LEAST_FRAMES, int(SAMPLE_S / frame_s))


def unit_costs(costs: UnitCosts) -> UnitCosts:
    """Return what work costs where it is emulated: nothing is raced, and a split is a sample of it."""
    return costs.model_copy(
        update={
            "compile_s": 2 * START_S,
            "evaluate_s": START_S + SAMPLE_S + PROFILE_S,
            "evaluate_test_s": START_S + SAMPLE_S,
            "time_layer_s": 0.0,
            "screen_launch_s": 0.0,
            "certify_launch_s": 0.0,
        }
    )


def sampled(
    data: StepResult,
    split: Literal["validation", "test"],
    prepared: ModelInputs,
    context: BuildContext,
    full_reference: StepResult | None = None,
) -> Sampled:
    """Return the part of a split that is run on the emulated device: whole samples, classes and groups in proportion.

    Deterministic: the same data and model give the same part on every machine.
    """
    from edgebuild.models.onnx_files import load_onnx, read_facts

    macs = read_facts(load_onnx(prepared.frozen.path / "model.onnx")).macs
    frames = frames_of(data)
    wanted = sample_frames(macs)
    if wanted >= frames and full_reference is not None:
        return Sampled(data=data, reference=full_reference, frames=frames, of=frames)
    part = context.run(SampleData(frames=wanted, samples=LEAST_SAMPLES), {"data": data}, label=f"sample of {split}")
    given = None if context.project.model.factory else prepared.imported
    reference = run_reference(context, given, prepared.given, part, split)
    return Sampled(data=part, reference=reference, frames=frames_of(part), of=frames)


def validation_sample(prepared: ModelInputs, context: BuildContext) -> Sampled:
    """Return the part of validation that candidates are judged on."""
    return sampled(prepared.validation, "validation", prepared, context, prepared.reference)


def frames_of(data: StepResult) -> int:
    """Return how many frames a data set has."""
    return int(json.loads((data.path / "data.json").read_bytes())["frames"])


def mark(verdict: Verdict) -> Verdict:
    """Return the verdict marked as emulated, in every sentence of it."""
    reasons = tuple(f"emulated: {reason}" for reason in verdict.reasons)
    return verdict.model_copy(update={"emulated": True, "reasons": reasons})


def without_speed(verdict: Verdict, objective: Objective) -> Verdict:
    """Return what a verdict is worth for the choice: nothing decides an objective that needs a board."""
    if objective.in_files or verdict.outcome is Outcome.REFUSED:
        return verdict
    return with_reason(verdict, f"the best {objective.name} is unknown: {NO_SPEED}", Outcome.INCONCLUSIVE)


def finalists_of(built: Sequence[Evaluation]) -> list[Evaluation]:
    """Return which candidates are scored on the test set: the baseline, then accepted ones, as the plan orders them."""
    eligible = [b for b in built if b.eligible and b.artifact is not None]

    def rank(b: Evaluation) -> tuple[bool, bool]:
        return not b.planned.baseline, b.verdict is None or b.verdict.outcome is not Outcome.ACCEPTED

    return sorted(eligible, key=rank)[: MAX_FINALISTS + 1]


def profile(built: Sequence[Evaluation], prepared: ModelInputs, context: BuildContext) -> Emulated:
    """Return memory, instructions and parity of every candidate that was compiled."""
    validation = validation_sample(prepared, context)
    memories, emulations = {}, {}
    for one in built:
        if one.artifact is None or one.compiled is None or one.outputs is None:
            continue
        context.check()
        work = partial(_profiled, one, one.artifact, one.compiled, one.outputs, validation, context)
        found = context.guard.attempt(f"profiling {one.planned.id}", work)
        if isinstance(found, Failure):
            emulations[one.planned.id] = Emulation(not_counted=found.with_report)
        else:
            memories[one.planned.id], emulations[one.planned.id] = found
    return Emulated(
        device=context.probe.get("cpu", "unknown"),
        samples=f"{validation.text} validation frames",
        memories=memories,
        emulations=emulations,
    )


def _profiled(
    one: Evaluation,
    artifact: Artifact,
    compiled: StepResult,
    outputs: StepResult,
    validation: Sampled,
    context: BuildContext,
) -> tuple[Memory, Emulation]:
    inputs = {"artifact": compiled, "data": validation.data}
    step = ProfileEmulated(plugin_digest=plugin_digest(), settings=artifact.settings)
    found = context.run(step, inputs, label=f"profile {one.planned.id} (emulated)")
    counts = json.loads((found.path / "counts.json").read_bytes())
    plain = one.planned.precision.kind == "fp32"
    emulation = Emulation(
        parity=parity(validation.reference, outputs) if plain else None,
        instructions=tuple((str(k), int(v)) for k, v in sorted(counts.get("classes", {}).items())),
        not_counted=str(counts.get("why", "")),
    )
    return Memory.model_validate_json((found.path / "memory.json").read_bytes()), emulation


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
