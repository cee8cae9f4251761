"""Scores the finalists of all targets on the sealed test set, in one opening that is on record before it happens."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from edgebuild.building.data import materialise
from edgebuild.building.early import described
from edgebuild.building.prepare import run_reference
from edgebuild.building.proving import evaluate, judge
from edgebuild.building.seal import record_test_access
from edgebuild.building.ways import way_of
from edgebuild.execution.faults import Failure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgebuild.building.context import BuildContext
    from edgebuild.building.judge import Judged
    from edgebuild.building.prepare import ModelInputs
    from edgebuild.building.results import CertifiedCandidate
    from edgebuild.building.splits import JudgedSplit
    from edgebuild.building.target_build import TargetBuild
    from edgebuild.core.record import SampledSplit
    from edgebuild.core.verdict import SealedSetAccess
    from edgebuild.execution.executor import StepResult


@dataclass(frozen=True, kw_only=True)
class SealedSetScores:
    """What the sealed test set said about one target's finalists, by artifact digest; ``failed``: who failed on it.

    ``identity`` is the digest of the samples, by which other builds' scores on the same set are known.
    """

    identity: str = ""
    access: SealedSetAccess | None = None
    sample: SampledSplit | None = None
    verdicts: Mapping[str, Judged] = field(default_factory=dict)
    failed: Mapping[str, Failure] = field(default_factory=dict)


def open_test_set(targets: Sequence[TargetBuild], prepared: ModelInputs) -> tuple[SealedSetScores, ...]:
    """Score every finalist of every target on the test set, in one opening.

    Each is run where its target is; the reference is run once. Raises ``DeviceError`` when a device fails, or a
    baseline on it.
    """
    artifacts = dict.fromkeys(finalist.artifact.digest() for target in targets for finalist in target.race.finalists)
    if not artifacts:
        return tuple(SealedSetScores() for _ in targets)
    context = targets[0].context
    test = materialise(context, "test")
    identity = described(context, "test").identity
    access, notes = record_test_access(
        context.home / "seal.jsonl",
        project=context.project.name,
        test_digest=identity,
        # What older lines name the set by: the digest of the files that it is kept in, in that order of samples.
        also=(test.entry.digest,),
        artifacts=artifacts,
    )
    for note in notes:
        context.say("test set", note)
    reference = run_reference(context, prepared.imported, prepared.given, test, "test")
    found = (_scores(each, prepared, test, reference, access) for each in targets)
    return tuple(replace(each, identity=identity) for each in found)


def _scores(
    target: TargetBuild, prepared: ModelInputs, data: StepResult, reference: StepResult, access: SealedSetAccess
) -> SealedSetScores:
    context, finalists = target.context, target.race.finalists
    if not finalists:
        return SealedSetScores(access=access)
    test = way_of(context.can).split("test", data, reference, prepared, context)
    verdicts: dict[str, Judged] = {}
    failed: dict[str, Failure] = {}
    for finalist in finalists:
        who, digest = finalist.planned.id, finalist.artifact.digest()
        score = partial(_scored, finalist, test, access.level, context.concerning(candidate=who))
        # Without the baseline there is nothing to hold the others against: its failure ends the build.
        found = score() if finalist is finalists[0] else context.guard.attempt(f"{who} on the test set", score)
        if isinstance(found, Failure):
            failed[digest] = found
        else:
            verdicts[digest] = found
    return SealedSetScores(access=access, sample=test.sample, verdicts=verdicts, failed=failed)


def _scored(finalist: CertifiedCandidate, test: JudgedSplit, level: float, context: BuildContext) -> Judged:
    who = finalist.planned.id
    outputs = evaluate(context, finalist.artifact, finalist.evaluation.compiled, test, who)
    return judge(context, who, outputs, test, level=level)
