"""What a technique says of its work: ``technique.json`` next to the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgebuild.core.values import Value
from edgebuild.errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path


class LayerReport(Value):
    """What became of one layer; ``reason`` says why where it was left alone."""

    layer: str
    before: str
    after: str
    reason: str = ""


class TechniqueReport(Value):
    """``technique.json``: what one step did."""

    technique: str
    summary: str
    macs_before: int
    macs_after: int
    parameters_before: int
    parameters_after: int
    layers: tuple[LayerReport, ...] = ()
    notes: tuple[str, ...] = ()


REPORT_FILE = "technique.json"


def read_report(folder: Path) -> TechniqueReport:
    """Read what a step said of its work."""
    try:
        return TechniqueReport.model_validate_json((folder / REPORT_FILE).read_bytes())
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder / REPORT_FILE} can't be read: {error}", hint="Was the step interrupted?") from error
