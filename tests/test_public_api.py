"""The public API is what ``__all__`` says: all of it is there, explained, and light to import."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import edgebuild
from tests.cli.example import write_project

HEAVY = {"numpy", "onnx", "onnx_ir", "onnxruntime", "onnxscript", "openvino", "scipy", "torch", "torchmetrics"}
EXPLAINED = sorted(set(edgebuild.__all__) - {"__version__"})


@pytest.mark.parametrize("name", edgebuild.__all__)
def test_every_name_is_there(name: str) -> None:
    assert getattr(edgebuild, name) is not None


@pytest.mark.parametrize("name", EXPLAINED)
def test_every_name_has_a_docstring_of_its_own(name: str) -> None:
    text = getattr(edgebuild, name).__doc__ or ""
    # A dataclass without a docstring gets its signature as one.
    assert text.strip()
    assert not text.startswith(f"{name}(")


def test_type_checkers_and_the_program_see_the_same_names() -> None:
    tree = ast.parse(Path(edgebuild.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    typed = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert sorted(typed) == EXPLAINED
    assert {name: getattr(edgebuild, name).__module__ for name in typed} == typed


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'biuld'"):
        _ = edgebuild.biuld


def test_importing_it_imports_nothing_heavy() -> None:
    code = "import json, sys, edgebuild; print(json.dumps(sorted(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert HEAVY & set(json.loads(answer.stdout)) == set()


@pytest.mark.proof
def test_the_snippet_of_the_quick_start_works_as_it_is(tmp_path: Path) -> None:
    page = (Path(__file__).parent.parent / "docs" / "quick-start.md").read_text(encoding="utf-8")
    snippet = page.partition("## From Python\n\n```python\n")[2].partition("```")[0]
    project = write_project(tmp_path / "project")
    ran = subprocess.run(
        [sys.executable, "-c", snippet], cwd=project, capture_output=True, text=True, timeout=600, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert "quick/fp32" in ran.stdout
