"""Every technique on every sort of model: it works, with parity, or refuses with the reason."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edgebuild.techniques.registry import TABLE
from edgebuild.testing.techniques import check_technique, run_step
from tests.techniques import zoo

if TYPE_CHECKING:
    from pathlib import Path

#: Where these refuse, a user loses most: they always work.
ALWAYS = ("residual", "depthwise", "concat")
#: Every test run sees these; the others are proofs, and cells of docs/results/technique-matrix.md.
USUAL = (*ALWAYS, "vit", "unet")


@pytest.mark.parametrize("name", TABLE)
def test_every_technique_keeps_the_contract(name: str, tmp_path: Path) -> None:
    check_technique(TABLE[name], tmp_path, **zoo.SMALL[name])


@pytest.mark.parametrize(
    "animal", [pytest.param(name, marks=[] if name in USUAL else [pytest.mark.proof]) for name in zoo.ZOO]
)
@pytest.mark.parametrize("name", TABLE)
def test_every_technique_works_on_every_model_or_says_why_not(name: str, animal: str, tmp_path: Path) -> None:
    inputs = zoo.write_inputs(zoo.ZOO[animal], tmp_path)
    step = zoo.step_of(TABLE[name], zoo.ZOO[animal], **zoo.parameters_for(name, animal))
    tried = run_step(step, inputs, tmp_path / "out", zoo.context(tmp_path / "scratch"))
    if animal in ALWAYS:
        assert tried.report is not None, tried.refusal
    if tried.report is not None:
        report = tried.report
        smaller = report.parameters_after < report.parameters_before or report.macs_after < report.macs_before
        assert smaller == ("structure" in TABLE[name].changes)
        assert tried.report.layers
    else:
        assert "'" in tried.refusal or ":" in tried.refusal, "a refusal names the layer"
