"""A candidate as it was compiled and evaluated, or why it could not be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgebuild.core.verdict import Outcome
from edgebuild.errors import EdgebuildError

if TYPE_CHECKING:
    from pathlib import Path

    from edgebuild.core.artifact import Artifact
    from edgebuild.core.verdict import Closeness, CrossCheck, Verdict
    from edgebuild.execution.executor import StepResult
    from edgebuild.planning.plan import PlannedCandidate


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A candidate with its compiled artifact, or with the reason why there is none."""

    planned: PlannedCandidate
    failure: str | None = None
    artifact: Artifact | None = None
    compiled: StepResult | None = None
    outputs: StepResult | None = None
    verdict: Verdict | None = None
    closeness: Closeness | None = None
    crosscheck: CrossCheck | None = None
    notes: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """Where the artifact lies."""
        if self.compiled is None:
            raise EdgebuildError(f"{self.planned.id} has no artifact.")
        return self.compiled.path

    @property
    def gapped(self) -> bool:
        """Whether a layer of it does something else on the target than the unoptimised graph."""
        return self.crosscheck is not None and self.crosscheck.counts

    @property
    def eligible(self) -> bool:
        """Whether it may be measured: compiled, and not refused on validation."""
        return self.verdict is not None and self.verdict.outcome is not Outcome.REFUSED
