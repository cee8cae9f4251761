"""Without a device: does what was compiled open at all, and answer, in the runtime that this machine has?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgebuild.building.evaluation import Evaluation
from edgebuild.building.results import MeasurementResults
from edgebuild.core.record import notes_on
from edgebuild.crosscheck.conclusion import spread
from edgebuild.crosscheck.steps import TakeFrames
from edgebuild.errors import EnvironmentGap, ModelError, StoreError
from edgebuild.measuring.evaluate import EvaluateArtifact
from edgebuild.models.outputs import read_outputs

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from numpy.typing import NDArray

    from edgebuild.building.context import BuildContext
    from edgebuild.building.evaluation import Built, CompiledCandidate
    from edgebuild.building.prepare import ModelInputs
    from edgebuild.building.splits import JudgedSplit
    from edgebuild.planning.inputs import UnitCosts

#: About what that takes, for estimates.
OPENING_S = 2.0
#: Frames that it is called with, and of a recurrent model's sample at most this many steps.
FRAMES = STEPS = 4


def open_candidate(
    made: CompiledCandidate, prepared: ModelInputs, validation: JudgedSplit, context: BuildContext
) -> Evaluation:
    """Return a candidate that was opened on this machine, where that can be done, and judged nowhere."""
    del validation
    opened = notes_on("opening", open_here(context, made, prepared))
    return Evaluation(
        planned=made.planned, artifact=made.artifact, compiled=made.compiled, notes=(*made.notes, *opened)
    )


def nothing_measured(
    built: tuple[Built, ...], prepared: ModelInputs, validation: JudgedSplit, context: BuildContext
) -> MeasurementResults:
    """Return that nothing is proven, and why."""
    del built, prepared, validation
    return MeasurementResults(unproven=context.can.why)


def expect(costs: UnitCosts, macs: int | None) -> tuple[UnitCosts, tuple[str, ...]]:
    """Return what work costs where nothing is evaluated, measured or scored: artifacts are opened."""
    del macs
    never = ("time_layer_s", "evaluate_test_s", "reference_test_s", "crosscheck_s", "session_s", "finalist_s")
    launches = ("screen_launch_s", "certify_launch_s")
    return costs.model_copy(update={**dict.fromkeys((*never, *launches), 0.0), "evaluate_s": OPENING_S}), ()


def open_here(context: BuildContext, made: CompiledCandidate, prepared: ModelInputs) -> tuple[str, ...]:
    """Load an artifact in a runner of this machine, call it on a few frames, and return what to note.

    Says nothing of accuracy. Where the runtime isn't here, or can't run this precision or library here, that is the
    note. Raises ``ModelError`` for an artifact that can't be loaded, or whose outputs aren't those of the model.
    """
    planned, artifact, compiled = made.planned, made.artifact, made.compiled
    reason = context.backends[planned.backend].refuse(planned.precision, context.here)
    if reason is None and artifact.load and dict(artifact.load).get("libraries"):
        reason = "it loads a library of custom operators that is the target's"
    if reason is not None:
        return (f"not opened on this machine: {reason}",)
    lengths = np.load(prepared.validation.path / "lengths.npy", allow_pickle=False).tolist()
    rows, taken = spread(lengths, frames=FRAMES, steps=STEPS)
    label = f"open {planned.id} here"
    step = EvaluateArtifact(split="a few frames", settings=artifact.settings)
    try:
        sample = context.run(
            TakeFrames(rows=rows, lengths=taken), {"data": prepared.validation}, label=f"frames to {label}"
        )
        outputs = context.run(step, {"artifact": compiled, "data": sample}, label=label)
    except StoreError:
        raise
    except EnvironmentGap as error:
        return (f"not opened on this machine: {error.message}",)
    except ModelError as error:
        raise ModelError(f"it was compiled, but can't be run: {error.message}", hint=error.hint) from error
    _require_numbers(read_outputs(outputs.path), read_outputs(prepared.reference.path), rows)
    return ()


def _require_numbers(
    given: Mapping[str, NDArray[Any]], wanted: Mapping[str, NDArray[Any]], rows: tuple[int, ...]
) -> None:
    """Names and shapes were checked where it ran; what has no number at all where the model has some is broken."""
    for name, array in given.items():
        if array.dtype.kind == "f" and not np.isfinite(array).any() and np.isfinite(wanted[name][list(rows)]).any():
            raise ModelError(f"it was compiled, but its output {name!r} is NaN or infinite on every frame")
