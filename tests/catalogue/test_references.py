from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edgebuild.catalogue.references import reference_problem

if TYPE_CHECKING:
    from pathlib import Path

MODEL = """\
import numpy as np
from json import loads as read

def student(): ...

class Nets:
    small = student

if True:
    tiny = 3
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "__init__.py").write_text("from json import *")
    (tmp_path / "broken.py").write_text("def (")
    return tmp_path


@pytest.mark.parametrize(
    "reference",
    ["model:student", "model:Nets.small", "model:tiny", "model:read", "own:anything", "broken:f", "json:loads"],
)
def test_what_may_be_right_passes(project: Path, reference: str) -> None:
    assert reference_problem(reference, project) is None


def test_what_is_wrong_is_said(project: Path) -> None:
    said = reference_problem("model:studnet", project)
    assert said == f'"model:studnet": there is no "studnet" in {project / "model.py"}; did you mean "student"?'
    said = reference_problem("modl:student", project)
    assert said == f'"modl:student": there is no module "modl" in {project} or installed'
