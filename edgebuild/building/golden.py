"""What a release takes along that no record holds, kept next to the record: the store may be swept before.

``golden/`` holds a few frames of validation with what the chosen artifact answered to them on the device, and how far
an answer may be off elsewhere; ``fallback/`` the frozen model, for any runtime that reads ONNX; ``scores/`` what each
test sample came to, where the metric is a mean over them.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

from edgebuild.core.golden import FALLBACK, GOLDEN, INPUTS, MANIFEST, OUTPUTS, Golden, GoldenOutput
from edgebuild.core.scores import SCORES, SCORES_FILE, Scores
from edgebuild.crosscheck.conclusion import spread
from edgebuild.execution.disk import copy_file

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from edgebuild.building.evaluation import Evaluation
    from edgebuild.building.judge import Judged
    from edgebuild.building.target_build import TargetBuild

#: Frames that are kept, and of a recurrent model's sample at most this many steps.
FRAMES, STEPS = 4, 8
#: How far a float answer may be off, as a share of its frame's largest value: other cores add in another order.
SINGLE, HALF = 1e-3, 2e-2
#: A quantised answer has this many steps up to its frame's largest value; it may be off by one, or by as many as the
#: target's kernels are from the unoptimised graph's, but never by more than the share.
STEPS_OF_INT8, MOST = 127, 0.1
#: Where a frame's largest value is next to nothing.
NEXT_TO_NOTHING = 1e-5


def keep_for_release(target: TargetBuild, chosen: Evaluation, folder: Path, tested: Judged, test: str) -> None:
    """Keep what a release needs in a build's folder, of a candidate that was evaluated.

    ``tested`` is what was judged of it on the test set, whose digest is ``test``.
    """
    _keep_golden(target, chosen, folder / GOLDEN)
    # The model and, where it is too large for one file, its external data; not what freezing says of itself.
    told = shutil.ignore_patterns("*.json")
    shutil.copytree(target.prepared.frozen.path, folder / FALLBACK, copy_function=copy_file, ignore=told)
    if tested.scores is not None:
        scores = Scores.model_validate_json(tested.scores.read_bytes())
        (folder / SCORES).mkdir()
        (folder / SCORES / SCORES_FILE).write_text(scores.model_copy(update={"test": test}).to_json())


def _keep_golden(target: TargetBuild, chosen: Evaluation, folder: Path) -> None:
    import numpy as np

    from edgebuild.devices.runner.feeding import tensor_file
    from edgebuild.models.dataset import Dataset
    from edgebuild.models.outputs import read_outputs
    from edgebuild.models.subset import take_frames

    if chosen.outputs is None:
        return
    data = Dataset.open(target.validation.data.path)
    rows, lengths = spread(data.lengths.tolist(), frames=FRAMES, steps=STEPS)
    for name in (INPUTS, OUTPUTS):
        (folder / name).mkdir(parents=True)
    take_frames(data, rows, lengths, folder / INPUTS)
    found = []
    for name, array in read_outputs(chosen.outputs.path).items():
        np.save(folder / OUTPUTS / tensor_file(name), np.ascontiguousarray(array[list(rows)]))
        found.append(GoldenOutput(name=name, file=tensor_file(name), **_tolerances(chosen, array)))
    (folder / MANIFEST).write_text(Golden(frames=len(rows), outputs=tuple(found)).to_json())


def _tolerances(chosen: Evaluation, output: NDArray[Any]) -> dict[str, float]:
    if output.dtype.kind != "f":
        return {"rtol": 0.0, "atol": 0.0}
    return {"rtol": tolerance(chosen), "atol": NEXT_TO_NOTHING}


def tolerance(chosen: Evaluation) -> float:
    """Return how far an answer may be off where the artifact is the same, as a share of its frame's largest value."""
    precision, check = chosen.artifact.precision, chosen.crosscheck
    if precision.kind in {"int8", "int8-dynamic"}:
        steps = check.steps if check is not None and check.steps is not None else 1.0
        return min(MOST, max(1.0, steps) / STEPS_OF_INT8)
    return SINGLE if precision.only_stored or precision.kind == "fp32" else HALF
