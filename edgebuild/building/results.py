"""What measuring finds: screened variants, certified finalists, and how their figures are written."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgebuild.core.measurement import Measurements
from edgebuild.measuring import statistics
from edgebuild.measuring.samples import samples_reader

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from edgebuild.building.evaluation import Evaluation
    from edgebuild.core.artifact import Artifact
    from edgebuild.core.candidate import Variant
    from edgebuild.core.measurement import Comparison, Launch
    from edgebuild.core.record import Note
    from edgebuild.measuring.session import SessionResult
    from edgebuild.planning.plan import PlannedCandidate


@dataclass(frozen=True, kw_only=True)
class CertifiedCandidate:
    """One finalist: a variant of a candidate, and what was measured of it under the certify protocol."""

    variant: Variant
    evaluation: Evaluation
    artifact: Artifact
    measured: Measurements
    samples_folder: Path
    launches: tuple[Launch, ...] = ()
    notes: tuple[Note, ...] = ()

    @property
    def planned(self) -> PlannedCandidate:
        """The candidate that it is a variant of."""
        return self.evaluation.planned


@dataclass(frozen=True, kw_only=True)
class MeasurementResults:
    """What measuring found: the certified finalists, the reference artifact first, and how the others came off.

    ``failed`` says of candidates, by id, how they crashed, hung or met a bug; ``profiled`` holds what was measured of
    candidates whatever became of them. ``unproven`` says why nothing of it is proof, ``passed_over`` why a candidate
    that could have been a finalist is none.
    """

    finalists: tuple[CertifiedCandidate, ...] = ()
    screened: Mapping[Variant, Measurements] = field(default_factory=dict)
    dropped: Mapping[Variant, str] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)
    comparisons: Mapping[tuple[Variant, Variant], Comparison] = field(default_factory=dict)
    notes: Mapping[str, tuple[Note, ...]] = field(default_factory=dict)
    profiled: Mapping[str, Measurements] = field(default_factory=dict)
    sessions: tuple[Path, ...] = ()
    anchor_ms: tuple[float, ...] = ()
    resolution: float | None = None
    unproven: str = ""
    passed_over: str = ""

    def compared(self, names: Mapping[str, CertifiedCandidate]) -> dict[tuple[str, str], Comparison]:
        """Return the comparisons of finalists by their names."""
        return {
            (left, right): self.comparisons[one.variant, other.variant]
            for left, one in names.items()
            for right, other in names.items()
            if (one.variant, other.variant) in self.comparisons
        }


def summarised(result: SessionResult, arm_id: str, batch: int) -> Measurements:
    """Return the latencies of one arm of a session, or its throughput where several requests were in flight."""
    launches, samples = result.measurements[arm_id].launches, samples_reader(result.folder.path)
    if result.protocol.mode == "flight":
        return Measurements(throughput=statistics.summarise_throughput(launches, samples, batch=batch))
    return Measurements(latency=statistics.summarise(launches, samples, batch=batch))


def cost_of(screened: Measurements) -> float:
    """Return what screening ranks by, less is better: ms, or ms per sample completed."""
    if screened.throughput is not None:
        return 1e3 / screened.throughput.per_s
    return screened.latency.point_ms if screened.latency is not None else float("inf")


def figure_of(screened: Measurements) -> str:
    """Return a screening figure in words."""
    if screened.throughput is not None:
        return f"{screened.throughput.per_s:.4g} a second with {screened.throughput.requests} in flight"
    return f"{screened.latency.point_ms:.4g} ms" if screened.latency is not None else "nothing"


def disturbed(screen: SessionResult, names: Iterable[str]) -> dict[str, str]:
    """Return the arms of which no launch counts, with the reason: they can't be ranked, and don't end the build."""
    found = {}
    for name in names:
        launches = screen.measurements[name].launches
        if launches and not any(launch.valid for launch in launches):
            found[name] = f"none of its {len(launches)} launches counts: {statistics.disturbances(launches)}"
    return found
