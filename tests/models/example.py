"""What the tests of the steps share: a context, data folders, and running one step alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgebuild.core.data import Sample
from edgebuild.core.steps import NoProgress, ProjectCode, Step, StepContext, never_stop
from edgebuild.models.dataset import write_dataset

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from edgebuild.core.artifact import TensorSpec


def run(
    step: Step, inputs: dict[str, Path], out: Path, check: Callable[[], None] = never_stop, *, call: Any = None
) -> Path:
    """Run a step; ``call`` is the user's code, whatever it is called by."""
    out.mkdir()
    scratch = out.with_name(f"{out.name}-scratch")
    scratch.mkdir()
    code = None if call is None else ProjectCode(load=lambda _: call, digest="")
    step.run(inputs, out, StepContext(progress=NoProgress(), check=check, seed=0, scratch=scratch, code=code))
    return out


def data(
    folder: Path, specs: tuple[TensorSpec, ...], rows: Iterable[dict[str, Any]], *, stateful: bool = False
) -> Path:
    folder.mkdir()
    samples = (Sample(inputs=row) for row in rows)
    write_dataset(samples, folder, specs=specs, stateful=stateful, source="data", task=NoProgress(), check=never_stop)
    return folder
