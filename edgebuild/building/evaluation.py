"""A candidate as it was compiled and evaluated, or why there is none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from edgebuild.core.verdict import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from edgebuild.core.artifact import Artifact, Contract
    from edgebuild.core.record import Note
    from edgebuild.core.verdict import Closeness, CrossCheck, Verdict
    from edgebuild.execution.executor import StepResult
    from edgebuild.planning.plan import PlannedCandidate


@dataclass(frozen=True, kw_only=True)
class FailedCandidate:
    """A candidate that couldn't be built, and why."""

    planned: PlannedCandidate
    reason: str
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True, kw_only=True)
class CompiledCandidate:
    """A candidate's artifact, and the ONNX ``model`` that it was compiled from."""

    planned: PlannedCandidate
    contract: Contract
    model: StepResult
    artifact: Artifact
    compiled: StepResult
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A candidate with its compiled artifact; where artifacts run, with what it answered and the verdict on that."""

    planned: PlannedCandidate
    artifact: Artifact
    compiled: StepResult
    outputs: StepResult | None = None
    verdict: Verdict | None = None
    closeness: Closeness | None = None
    crosscheck: CrossCheck | None = None
    notes: tuple[Note, ...] = ()

    @property
    def folder(self) -> Path:
        """Where the artifact lies."""
        return self.compiled.path

    @property
    def gap(self) -> str | None:
        """What the cross-check says where a layer does something else on the target than the unoptimised graph."""
        return self.crosscheck.explanation if self.crosscheck is not None and self.crosscheck.counts else None

    @property
    def eligible(self) -> bool:
        """Whether it may be measured: judged, and not refused on validation."""
        return self.verdict is not None and self.verdict.outcome is not Outcome.REFUSED

    @property
    def accepted(self) -> bool:
        """Whether validation accepts it."""
        return self.verdict is not None and self.verdict.outcome is Outcome.ACCEPTED


Built: TypeAlias = Evaluation | FailedCandidate


def evaluations(built: Iterable[Built]) -> tuple[Evaluation, ...]:
    """Return those that could be built, in order."""
    return tuple(each for each in built if isinstance(each, Evaluation))
