"""A machine that is too busy for its measurements loses no build: what was found is recorded, and nothing claimed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgebuild.building.context import Options
from edgebuild.catalogue.project import load_project
from edgebuild.measuring.protocols import Protocol
from edgebuild.pipeline import build
from tests.cli.example import write_project, write_quick
from tests.integration.conftest import PROFILE

if TYPE_CHECKING:
    from pathlib import Path

#: Every launch is below bounds of less than nothing: all are disturbed.
BUSY = Protocol(
    name="certify",
    launches=1,
    max_launches=1,
    sample_s=0.05,
    warmup_min_s=0.02,
    warmup_cap_s=0.02,
    bursts=2,
    burst_s=0.01,
    steal_ratio=-1.0,
    spread_ratio=-1.0,
)


def test_what_a_busy_machine_disturbed_is_inconclusive(tmp_path: Path) -> None:
    folder = write_project(tmp_path / "project", {"build": 'targets = ["quick"]\nthreads = 1'})
    write_quick(folder, profile=PROFILE)
    options = Options(screen=BUSY.model_copy(update={"name": "screen"}), certify=BUSY)
    (record,) = build(load_project(folder), options)
    assert (record.outcome, record.chosen, record.test_set) == ("inconclusive", None, None)
    assert record.summary.startswith("Nothing is proven: disturbed: of the reference artifact none of its 1 launches")
    judged = {row.id: row.validation for row in record.candidates}
    assert set(judged) == {"quick/fp32", "quick/fp16-storage", "quick/int8-edgebuild-u8s8-7bit"}
    assert all(verdict is not None for verdict in judged.values())
    kept = folder / ".edgebuild" / "builds" / record.build_id
    assert (kept / "artifact" / "artifact.json").is_file()
    assert len(record.evidence) >= 2
