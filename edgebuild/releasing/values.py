"""What a release says of each of its targets: ``release.json``, and where that comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from edgebuild.core.artifact import Contract, Setting
from edgebuild.core.budget import Budget
from edgebuild.core.meaning import Meaning
from edgebuild.core.values import Value
from edgebuild.core.verdict import Drop, SealedSetAccess

if TYPE_CHECKING:
    from pathlib import Path

    from edgebuild.core.record import BuildRecord, CandidateRecord


#: The folder of the artifact, in a build and in a release.
ARTIFACT = "artifact"


class Requires(Value):
    """What a device must be to be like the one that was measured, as the runner's ``probe`` words it.

    ``isa`` are the CPU features that choose kernels; ``facts`` what else must be equal, such as ``l4t``.
    ``memory_bytes`` is the peak that was measured of the process that runs the artifact.
    """

    architecture: str
    os: str = "linux"
    isa: tuple[str, ...] = ()
    runtime: str
    runtime_version: str
    memory_bytes: int | None = None
    facts: dict[str, str] = Field(default_factory=dict)


class Latency(Value):
    """What was measured of the artifact, in ms, with a 95 % interval; ``launches`` fresh processes."""

    point_ms: float
    low_ms: float | None = None
    high_ms: float | None = None
    launches: int


class TargetRelease(Value):
    """One target of a release."""

    schema_version: Literal[1] = 1
    project: str
    version: str
    target: str
    device: str
    build_id: str
    created: str
    candidate: str
    precision: str
    recipe: str = ""
    settings: dict[str, Setting] = Field(default_factory=dict)
    artifact: str
    artifact_digest: str
    size_bytes: int
    contract: Contract
    requires: Requires
    latency: Latency | None = None
    memory_bytes: int | None = None
    budget: Budget
    accuracy: Drop | None = None
    test_set: SealedSetAccess
    meaning: Meaning = Meaning()
    resolution: float | None = None
    limits: tuple[str, ...] = ()


#: What lies next to the record of a build that chose something.
NEEDED = ("artifact/artifact.json", "golden/golden.json", "fallback/model.onnx")


@dataclass(frozen=True, kw_only=True)
class BuildFolder:
    """A finished build on disk: its record, the folder of it, and ``home``, the project's ``.edgebuild``.

    ``missing`` are files that a release needs.
    """

    home: Path
    folder: Path
    record: BuildRecord
    missing: tuple[str, ...] = ()

    @property
    def chosen(self) -> CandidateRecord | None:
        """The candidate that was chosen."""
        return next((each for each in self.record.candidates if each.id == self.record.chosen), None)
