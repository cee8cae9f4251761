"""What is concluded about a candidate, and the record of a whole build."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from edgebuild.core.artifact import Contract, Precision, Setting
from edgebuild.core.measurement import (
    Comparison,
    Energy,
    Fact,
    LatencySummary,
    Layer,
    Measurement,
    Memory,
    ThroughputSummary,
)
from edgebuild.core.objective import ObjectiveName
from edgebuild.core.values import Value


class Outcome(StrEnum):
    """What a verdict says."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    INCONCLUSIVE = "inconclusive"


class Drop(Value):
    """The metric of reference and artifact on identical samples, and the paired interval of their difference.

    ``drop`` is in the metric's own units, positive when the artifact is worse; ``low``/``high`` bound it at ``level``.
    ``needed_samples`` is set when the interval straddles the budget: about how many more samples would decide.
    """

    metric: str
    split: Literal["validation", "test"]
    samples: int
    groups: int | None = None
    reference: float
    artifact: float
    drop: float
    low: float
    high: float
    level: float
    method: str
    budget: float
    needed_samples: int | None = None


class SliceDrop(Value):
    """The drop inside one slice or class."""

    slice: str
    samples: int
    reference: float
    artifact: float
    drop: float
    low: float
    high: float
    limit: float | None = None


class LimitCheck(Value):
    """One limit against what was measured; ``measured`` is ``None`` for a missing sensor, which never passes."""

    name: str
    limit: float
    measured: float | None
    outcome: Outcome


class Verdict(Value):
    """One candidate against budget and limits. ``emulated``: its outputs came from an emulated CPU."""

    outcome: Outcome
    reasons: tuple[str, ...] = ()
    emulated: bool = False
    drop: Drop | None = None
    slices: tuple[SliceDrop, ...] = ()
    limits: tuple[LimitCheck, ...] = ()


class Closeness(Value):
    """How near the artifact's outputs are to the reference's: signal-to-noise in dB, and KL in nats for classifiers."""

    sqnr_db: float | None = None
    kl_nats: float | None = None
    agreement: float | None = None


class LayerGap(Value):
    """A layer of an int8 artifact that makes something else of its inputs than the unoptimised graph does.

    ``steps`` is the largest difference in codes of the quantised tensor ``tensor`` (in steps of the output for a float
    one), ``share`` that of its elements which differ by more than one, ``why`` the reason where one can be shown.
    """

    node: str
    op: str
    tensor: str
    steps: float
    share: float
    why: str = ""


class CrossCheck(Value):
    """An int8 artifact's outputs on the target's kernels against the unoptimised Q/DQ graph.

    ``steps`` is the largest gap in quantisation steps at ``output``, ``share`` that of the output's elements beyond one
    step. ``reach`` is the largest gap as a multiple of what rounding alone makes of that output; None where the gap is
    at most one step.
    """

    cause: Literal["agrees", "rounding", "layer", "unexplained", "not checked"]
    explanation: str
    sample: str = ""
    frames: int = 0
    output: str | None = None
    steps: float | None = None
    share: float | None = None
    reach: float | None = None
    layer: LayerGap | None = None

    @property
    def counts(self) -> bool:
        """Whether the candidate is ranked behind those whose kernels do what the graph says."""
        return self.cause == "layer"

    @property
    def refuses(self) -> bool:
        """Whether the candidate is refused: nobody knows what its outputs will be on the next device of the family."""
        return self.cause == "unexplained"


class Emulation(Value):
    """What an emulated device showed of a candidate beside its verdicts and memory. Nothing of it is a time.

    ``parity`` is the greatest difference of an fp32 artifact's outputs to the reference's over the frames of the
    validation sample, relative to the greatest output. ``instructions`` are those of one inference by class;
    ``not_counted`` says why there are none.
    """

    parity: float | None = None
    instructions: tuple[tuple[str, int], ...] = ()
    not_counted: str = ""

    @property
    def total(self) -> int:
        """All instructions of one inference."""
        return sum(count for _, count in self.instructions)


class CandidateRecord(Value):
    """A candidate's whole story in one build. ``id`` is stable for the same profile, recipe, precision and settings.

    ``recipe`` is empty for the original.
    """

    id: str
    profile: str
    backend: str
    precision: Precision
    recipe: str = ""
    settings: tuple[tuple[str, Setting], ...] = ()
    artifact_digest: str | None = None
    artifact_path: str | None = None
    size_bytes: int | None = None
    contract: Contract | None = None
    status: Literal["chosen", "finalist", "screened", "unraced", "dominated", "refused", "inconclusive", "failed"]
    reason: str
    notes: tuple[str, ...] = ()
    validation: Verdict | None = None
    test: Verdict | None = None
    closeness: Closeness | None = None
    crosscheck: CrossCheck | None = None
    screen: LatencySummary | None = None
    certify: LatencySummary | None = None
    throughput_screen: ThroughputSummary | None = None
    throughput: ThroughputSummary | None = None
    memory: Memory | None = None
    energy: Energy | None = None
    versus_reference: Comparison | None = None
    layers: tuple[Layer, ...] = ()
    measurements: tuple[str, ...] = ()
    on_front: bool = False
    emulation: Emulation | None = None


class StepRecord(Value):
    """One executed or reused step, for ``explain``."""

    label: str
    kind: str
    key: str
    reused: bool
    seconds: float
    why: str


class BuildRecord(Value):
    """Everything one build for one target found out; lies as ``build.json`` beside its report.

    ``kept`` is the candidate whose artifact lies beside the record: the chosen one, else the one that came nearest.
    ``emulated`` says what the device was emulated as and on which samples; empty for a real one. ``notes`` is what a
    reader should know of the build as a whole.
    """

    schema_version: Literal[1] = 1
    build_id: str
    project: str
    target: str
    device: str
    started_at: str
    seconds: float
    objective: ObjectiveName
    budget_text: str
    outcome: Literal["ok", "missed", "inconclusive"]
    chosen: str | None
    kept: str | None = None
    summary: str
    baseline: str
    seal: str | None = None
    candidates: tuple[CandidateRecord, ...]
    refused_in_planning: tuple[tuple[str, str], ...] = ()
    steps: tuple[StepRecord, ...] = ()
    facts: tuple[Fact, ...] = ()
    versions: tuple[tuple[str, str], ...] = ()
    environment: tuple[Fact, ...] = ()
    resolution: float | None = None
    command: str = ""
    anchor_ms: tuple[float, ...] = ()
    host_peak_bytes: int | None = None
    emulated: str = ""
    notes: tuple[str, ...] = ()


class MeasurementRef(Value):
    """Where a measurement lies, and the measurement."""

    path: str
    measurement: Measurement
