"""The record of a whole build: values, from which terminal and report make their sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from pydantic import Field

from edgebuild.core.artifact import Contract
from edgebuild.core.budget import Budget
from edgebuild.core.candidate import CandidateSpec, Settings
from edgebuild.core.measurement import Fact, Measurements
from edgebuild.core.objective import ObjectiveName
from edgebuild.core.values import Value
from edgebuild.core.verdict import Closeness, CrossCheck, SealedSetAccess, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable

Status: TypeAlias = Literal[
    "chosen", "finalist", "screened", "unraced", "dominated", "refused", "inconclusive", "failed"
]
BuildOutcome: TypeAlias = Literal["ok", "missed", "inconclusive"]
#: What a note is about: how model and artifact were made, what it did, what is unknown of it, or the evidence itself.
Topic: TypeAlias = Literal[
    "data",
    "model",
    "test set",
    "compile",
    "recipe",
    "size",
    "exits",
    "opening",
    "settings",
    "layers",
    "energy",
    "throughput",
    "evidence",
    "bug",
]


class Note(Value):
    """Something that a reader should know, and what it is about."""

    topic: Topic
    text: str


def notes_on(topic: Topic, texts: Iterable[str]) -> tuple[Note, ...]:
    """Return texts as notes on one topic."""
    return tuple(Note(topic=topic, text=text) for text in texts)


class Evidence(Value):
    """Files of evidence in a folder: where it lies, seen from the project's ``.edgebuild``, how many, and their digest.

    They are the first ``files`` launches of a session, or all that a build kept: latencies for drawing, and what a
    release needs.
    """

    path: str = Field(
        pattern=r"^(measurements/[A-Za-z0-9][\w.-]*|builds/[A-Za-z0-9][\w.-]*/(samples|golden|fallback|scores))$"
    )
    files: int = Field(ge=0)
    sha256: str


class SampledSplit(Value):
    """How many frames of a split were run where running all of them would take too long."""

    split: Literal["validation", "test"]
    frames: int
    of: int

    @property
    def text(self) -> str:
        """How many of how many."""
        count = f"all {self.of:,}" if self.frames == self.of else f"{self.frames:,} of {self.of:,}"
        return f"{count} {self.split} frames"


class EmulatedDevice(Value):
    """Which CPU stood in for the device's, and on which samples accuracy was checked."""

    cpu: str
    samples: tuple[SampledSplit, ...] = ()

    @property
    def text(self) -> str:
        """What every page and terminal says of such a build."""
        return f"{self.cpu}; accuracy on {' and '.join(sample.text for sample in self.samples)}"


class CandidateRecord(Value):
    """A candidate's whole story in one build.

    ``id`` is what people call it: the candidate's own id, with its settings where two variants of it were certified.
    ``screened`` ranks candidates and is no result; ``measured`` is what was certified, or what an emulated device
    showed. ``reason`` says why it ended as its ``status`` says.
    """

    id: str
    spec: CandidateSpec
    settings: Settings = ()
    artifact_digest: str | None = None
    size_bytes: int | None = None
    contract: Contract | None = None
    status: Status
    reason: str
    notes: tuple[Note, ...] = ()
    validation: Verdict | None = None
    test: Verdict | None = None
    closeness: Closeness | None = None
    crosscheck: CrossCheck | None = None
    screened: Measurements = Measurements()
    measured: Measurements = Measurements()
    on_front: bool = False


class StepRecord(Value):
    """One executed or reused step, for ``explain``.

    ``seconds`` is what it took in this build, ``made_s`` what making it took, in whichever build that was.
    ``candidate`` or ``recipe`` names whose work it was; both are empty where it served all of them.
    """

    label: str
    kind: str
    key: str
    reused: bool
    seconds: float
    why: str
    made_s: float = 0.0
    candidate: str = ""
    recipe: str = ""


class Refusal(Value):
    """What is not tried, and why."""

    what: str
    reason: str


class BuildRecord(Value):
    """Everything one build for one target found out; lies as ``build.json`` next to its report.

    ``kept`` is the candidate whose artifact lies next to the record: the chosen one, else the one that came nearest.
    ``test_set`` is None where the test set stayed sealed, ``emulated`` where the device was a real one. ``notes`` is
    what a reader should know of the build as a whole. ``seconds`` and ``host_peak_bytes`` are those of all ``runs``:
    the ones that were stopped before, and the last.
    """

    schema_version: Literal[2] = 2
    build_id: str
    project: str
    target: str
    device: str
    started_at: str
    seconds: float
    objective: ObjectiveName
    budget: Budget
    outcome: BuildOutcome
    chosen: str | None
    kept: str | None = None
    summary: str
    baseline: str
    test_set: SealedSetAccess | None = None
    emulated: EmulatedDevice | None = None
    candidates: tuple[CandidateRecord, ...]
    refused_in_planning: tuple[Refusal, ...] = ()
    steps: tuple[StepRecord, ...] = ()
    facts: tuple[Fact, ...] = ()
    versions: tuple[tuple[str, str], ...] = ()
    environment: tuple[Fact, ...] = ()
    resolution: float | None = None
    command: str = ""
    anchor_ms: tuple[float, ...] = ()
    host_peak_bytes: int | None = None
    runs: int = 1
    evidence: tuple[Evidence, ...] = ()
    notes: tuple[Note, ...] = ()


class KeptSamples(Value):
    """``samples/*.json`` next to a record: the latencies of one candidate for drawing, in ns by launch."""

    id: str
    launches: tuple[tuple[Annotated[int, Field(ge=0, lt=2**63)], ...], ...]
