"""The layers of the design hold, and what is sent to boards is Python 3.8."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "edgebuild"
SENT_TO_BOARDS = sorted(
    [
        *PACKAGE.glob("devices/runner/*.py"),
        *PACKAGE.glob("backends/*/device.py"),
        *PACKAGE.glob("backends/*/device/*.py"),
    ]
)
#: A device module may name its runtime's modules and numpy; everything else it imports is the standard library's.
RUNTIMES = {"numpy", "onnxruntime", "openvino", "tensorrt"}

#: Published for those who write plugins: it imports what it checks, so it lies above every layer that it names.
CONTRACT_SUITES = "edgebuild.testing"


def _config() -> dict[str, object]:
    tools: dict[str, object] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    return tools


def test_upper_layers_import_lower_ones_and_never_the_reverse() -> None:
    code = "import sys; from importlinter.cli import lint_imports_command as run; run(sys.argv[1:])"
    checked = subprocess.run(
        [sys.executable, "-c", code, "--no-cache"],
        cwd=ROOT,
        env={**os.environ, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "Contracts: 3 kept, 0 broken." in checked.stdout


def test_every_folder_of_the_package_has_its_layer() -> None:
    linter = _config()["importlinter"]
    assert isinstance(linter, dict)
    contract = next(contract for contract in linter["contracts"] if contract["type"] == "layers")
    layered = {module.strip() for layer in contract["layers"] for module in layer.split("|")}
    folders = {f"edgebuild.{init.parent.name}" for init in PACKAGE.glob("*/__init__.py")}
    assert folders - {CONTRACT_SUITES} <= layered
    assert {"edgebuild.pipeline", "edgebuild.errors"} <= layered


def test_nothing_imports_the_contract_suites_but_what_publishes_them() -> None:
    suites, published = PACKAGE / "testing", PACKAGE / "plugins.py"
    for path in PACKAGE.rglob("*.py"):
        if suites not in path.parents and path != published:
            assert f"from {CONTRACT_SUITES}" not in path.read_text(encoding="utf-8"), path


@pytest.mark.parametrize("path", SENT_TO_BOARDS, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_what_is_sent_to_boards_parses_as_python_3_8(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path), feature_version=(3, 8))
    assert ast.get_docstring(tree)


@pytest.mark.parametrize("path", SENT_TO_BOARDS, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_what_is_sent_to_boards_imports_the_standard_library_and_its_runtime_only(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level}
    assert {name.split(".")[0] for name in imported} <= set(sys.stdlib_module_names) | RUNTIMES


@pytest.mark.parametrize("path", SENT_TO_BOARDS, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_ruff_refuses_newer_syntax_in_what_is_sent_to_boards(path: Path) -> None:
    newer = "match 1:\n    case _:\n        pass\n"
    checked = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--no-cache", "--stdin-filename", str(path), "-"],
        cwd=ROOT,
        input=newer,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert checked.returncode == 1
    assert "Cannot use `match` statement on Python 3.8" in checked.stdout
