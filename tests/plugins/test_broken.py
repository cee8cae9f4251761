"""A plug-in that fails where no candidate's work is under way: one sentence that names it, and no traceback."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.cli.example import run, write_project

if TYPE_CHECKING:
    from pathlib import Path

BACKEND = """\
from edgebuild.backends.ort.host import OnnxRuntime

class Broken(OnnxRuntime):
    name = "broken"

    def refuse(self, precision, facts):
        return {}["refusals"]

    def installed(self):
        return "1"
"""


def install(site: Path) -> None:
    """Lay out what installing the package lays out."""
    info = site / "fragile-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fragile\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[edgebuild.backends]\nbroken = fragile:Broken\n")
    (site / "fragile.py").write_text(BACKEND)


@pytest.mark.parametrize("command", ["plan", "build"])
def test_a_plug_in_that_fails_while_planning_is_named_without_a_traceback(command: str, tmp_path: Path) -> None:
    project = write_project(tmp_path / "project")
    profile = project / "profiles" / "quick.toml"
    profile.write_text(profile.read_text().replace('"onnxruntime"', '"broken"'))
    install(tmp_path / "site")
    paths = os.pathsep.join([str(tmp_path / "site"), *filter(None, [os.environ.get("PYTHONPATH")])])
    ended = run(command, cwd=project, env={"PYTHONPATH": paths})
    assert ended.code == 6
    assert "a bug in the plug-in fragile: KeyError in fragile.py:7 ('refusals')" in ended.err
    assert "Tell its authors, or uninstall it." in ended.err
    assert "Traceback" not in ended.err
