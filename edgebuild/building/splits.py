"""The part of a split that candidates are judged on: all of it, or where that takes too long, a stated sample."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from edgebuild.building.prepare import run_reference
from edgebuild.core.record import SampledSplit
from edgebuild.judging.outcomes import as_emulated
from edgebuild.models.subset import SampleData

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgebuild.building.context import BuildContext
    from edgebuild.building.prepare import ModelInputs
    from edgebuild.core.verdict import Verdict
    from edgebuild.execution.executor import StepResult

#: What one candidate may take for one split on an emulated device, about.
SAMPLE_S = 60.0
#: For estimates: what QEMU does in a second of an fp32 network's MACs, and what a call costs in addition.
MACS_PER_S = 120e6
CALL_S = 0.01
LEAST_FRAMES = 32
#: Fewer samples (recordings, say) bound no drop, however many frames they have: judging wants 10 at the very least.
LEAST_SAMPLES = 20


def unmarked(verdict: Verdict) -> Verdict:
    """Return the verdict as it is."""
    return verdict


@dataclass(frozen=True, kw_only=True)
class JudgedSplit:
    """Data, and the reference's outputs on exactly these frames.

    ``name`` is what steps on them are called after, ``mark`` marks a verdict on them with what it rests on.
    """

    split: Literal["validation", "test"]
    name: str
    data: StepResult
    reference: StepResult
    mark: Callable[[Verdict], Verdict] = unmarked
    sample: SampledSplit | None = None

    @classmethod
    def whole(
        cls, split: Literal["validation", "test"], data: StepResult, reference: StepResult, *_: object
    ) -> JudgedSplit:
        """Return all of a split."""
        return cls(split=split, name=split, data=data, reference=reference)


def sampled(
    split: Literal["validation", "test"],
    data: StepResult,
    reference: StepResult,
    prepared: ModelInputs,
    context: BuildContext,
) -> JudgedSplit:
    """Return what of a split is run on an emulated device.

    Whole samples, classes and groups in proportion. Deterministic: the same data and model give the same part on every
    machine.
    """
    from edgebuild.models.onnx_files import load_onnx, read_facts

    macs = read_facts(load_onnx(prepared.frozen.path / "model.onnx")).macs
    frames, wanted = frames_of(data), sample_frames(macs)
    part = data
    if wanted < frames:
        part = context.run(SampleData(frames=wanted, samples=LEAST_SAMPLES), {"data": data}, label=f"sample of {split}")
        given = None if context.project.model.factory else prepared.imported
        reference = run_reference(context, given, prepared.given, part, split)
    kept = frames_of(part)
    return JudgedSplit(
        split=split,
        name=f"{split} (emulated, {kept:,} frames)",
        data=part,
        reference=reference,
        mark=as_emulated,
        sample=SampledSplit(split=split, frames=kept, of=frames),
    )


def sample_frames(macs: int | None) -> int:
    """Return how many frames of a split are run: as many as about a minute takes, by the model's arithmetic."""
    frame_s = CALL_S + (macs or 10_000_000) / MACS_PER_S
    return max(LEAST_FRAMES, int(SAMPLE_S / frame_s))


def frames_of(data: StepResult) -> int:
    """Return how many frames a data set has."""
    return int(json.loads((data.path / "data.json").read_bytes())["frames"])
