"""What measuring finds: screened arms, certified finalists, the race, and how their figures are told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from edgebuild.core.measurement import LatencySummary, ThroughputSummary
from edgebuild.measuring import statistics
from edgebuild.measuring.samples import samples_reader

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from edgebuild.building.emulated import Emulated
    from edgebuild.building.evaluation import Evaluation
    from edgebuild.core.artifact import Artifact, Setting
    from edgebuild.core.measurement import Comparison, Energy, Launch, Layer, Memory
    from edgebuild.measuring.session import SessionResult

Screened: TypeAlias = LatencySummary | ThroughputSummary


@dataclass(frozen=True, kw_only=True)
class CertifiedCandidate:
    """One finalist, measured under the certify protocol; on an emulated device without a latency.

    ``arm`` is candidate and settings.
    """

    arm: str
    built: Evaluation
    artifact: Artifact
    summary: LatencySummary | None
    memory: Memory | None
    energy: Energy | None
    layers: tuple[Layer, ...]
    versus_reference: Comparison | None
    samples_folder: Path
    launches: tuple[Launch, ...]
    throughput: ThroughputSummary | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class MeasurementResults:
    """What measuring found: screening summaries by arm, and the certified finalists, the reference artifact first.

    ``failed`` says of candidates, by id, how they crashed, hung or met a bug. ``unmeasured`` says why nothing was
    measured in a build that can't measure; ``emulated`` is what an emulated device gave instead.
    """

    screened: Mapping[str, tuple[str, Screened]]
    dropped: Mapping[str, str]
    finalists: tuple[CertifiedCandidate, ...]
    anchor_ms: tuple[float, ...]
    sessions: tuple[str, ...]
    resolution: float | None
    comparisons: Mapping[tuple[str, str], Comparison] = field(default_factory=dict)
    settings_notes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)
    unmeasured: str = ""
    emulated: Emulated | None = None


def settings_label(settings: tuple[tuple[str, Setting], ...]) -> str:
    """Return settings as a short text, such as ``spinning=false threads=2``."""
    return " ".join(f"{name}={str(value).lower()}" for name, value in sorted(settings)) or "defaults"


def summary_of(result: SessionResult, arm_id: str, batch: int) -> LatencySummary:
    """Return the summary of one arm of a session."""
    return statistics.summarise(result.measurements[arm_id].launches, samples_reader(result.folder.path), batch=batch)


def flight_summary_of(result: SessionResult, arm_id: str, batch: int) -> ThroughputSummary:
    """Return the summary of one arm of a session with several requests in flight."""
    return statistics.summarise_throughput(
        result.measurements[arm_id].launches, samples_reader(result.folder.path), batch=batch
    )


def cost_of(screened: Screened) -> float:
    """Return what screening ranks by, less is better: ms, or ms per sample completed."""
    return screened.point_ms if isinstance(screened, LatencySummary) else 1e3 / screened.per_s


def figure_of(screened: Screened) -> str:
    """Return a screening figure in words."""
    if isinstance(screened, LatencySummary):
        return f"{screened.point_ms:.4g} ms"
    return f"{screened.per_s:.4g} a second with {screened.requests} in flight"


def disturbed(screen: SessionResult, names: Iterable[str]) -> dict[str, str]:
    """Return the arms of which no launch counts, with the reason: they can't be ranked, and don't end the build."""
    found = {}
    for name in names:
        launches = screen.measurements[name].launches
        if launches and not any(launch.valid for launch in launches):
            found[name] = f"none of its {len(launches)} launches counts: {statistics.disturbances(launches)}"
    return found
