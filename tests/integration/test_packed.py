"""A recipe for a small file and a limit that the plain artifact misses: what ships has a weights file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.cli.example import Ended, record, run
from tests.integration.torch_project import weights, write_torch_project

if TYPE_CHECKING:
    from pathlib import Path

#: Slow: the parts of it have tests of their own.
pytestmark = pytest.mark.proof
LIMIT_MB = 0.03
RECIPE = """\
[[recipes]]
name = "shared"
steps = [{ technique = "share-weights", bits = 6, tune = false }]
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    generator = np.random.default_rng(2)
    # As large as they were, and without zeros: as it is, this model doesn't shrink.
    w = {name: generator.standard_normal(value.shape).astype(np.float32) / 5 for name, value in weights().items()}
    tables = {"budget": "points = 10", "limits": f"file_size_mb = {LIMIT_MB}"}
    folder = write_torch_project(tmp_path_factory.mktemp("packed") / "project", w, tables, RECIPE)
    return folder, run("build", cwd=folder)


def test_the_limit_is_met_by_what_really_ships(built: tuple[Path, Ended]) -> None:
    project, ended = built
    assert ended.code == 0, ended
    found = record(project)
    assert found["chosen"] == "quick/shared/fp32", ended.out
    candidates = {candidate["id"]: candidate for candidate in found["candidates"]}
    plain, small = candidates["quick/fp32"], candidates["quick/shared/fp32"]
    assert small["size_bytes"] < LIMIT_MB * 1e6 < plain["size_bytes"]
    folder = project / ".edgebuild" / "builds" / found["build_id"] / "artifact"
    shipped = [path for path in folder.iterdir() if path.name not in ("artifact.json", "notes.json")]
    assert sum(path.stat().st_size for path in shipped) == small["size_bytes"]
    assert {path.name for path in shipped} == {"model.onnx", "weights.ebw"}
    assert dict(json.loads((folder / "artifact.json").read_bytes())["load"])["weights"] == "weights.ebw"


def test_what_decoding_costs_is_recorded_and_shown(built: tuple[Path, Ended]) -> None:
    project, ended = built
    candidates = {candidate["id"]: candidate for candidate in record(project)["candidates"]}
    plain, small = candidates["quick/fp32"], candidates["quick/shared/fp32"]
    assert plain["measured"]["latency"]["decode_ms"] is None
    assert 0 < small["measured"]["latency"]["decode_ms"] < small["measured"]["latency"]["load_ms"]
    assert small["measured"]["latency"]["decoded_bytes"] >= 4 * 24 * 576
    assert small["measured"]["memory"]["decode_peak_bytes"] <= small["measured"]["memory"]["load_peak_bytes"]
    for said in (ended.out, run("explain", "shared", cwd=project).out):
        words = " ".join(said.split())
        assert "of it decoding 54.0 KiB of weights" in words
        assert "peak memory while decoding" in words
    page = project / ".edgebuild" / "builds" / record(project)["build_id"] / "report.html"
    assert "of it decoding" in page.read_text(encoding="utf-8")
