"""Decides whether an artifact ships its weights in a weights file: only where size is what is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgebuild.backends.protocol import Packing
from edgebuild.core.artifact_files import read_artifact
from edgebuild.judging.limits import MB

if TYPE_CHECKING:
    from edgebuild.backends.protocol import Backend
    from edgebuild.building.context import BuildContext
    from edgebuild.execution.executor import StepResult


def packed(context: BuildContext, backend: Backend, compiled: StepResult, who: str) -> StepResult:
    """Return the artifact with a weights file, if its backend can and one pays.

    It runs as before and takes longer to load. So that nobody loses that time who didn't ask for a small file, this
    needs the objective ``size``, or a limit on the file size that the artifact misses as it is.
    """
    limit = context.project.limits.file_size_mb
    artifact = read_artifact(compiled.path)
    too_large = limit is not None and artifact.size_bytes > limit * MB
    if not isinstance(backend, Packing) or not (context.objective.in_files or too_large):
        return compiled
    return context.run(backend.pack_step(), {"artifact": compiled}, label=f"pack {who}")
