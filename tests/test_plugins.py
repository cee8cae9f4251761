"""What third parties import: one module, whose names are there, explained, and imported by everything we publish."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from edgebuild import plugins
from tests.test_public_api import HEAVY

ROOT = Path(__file__).parent.parent
#: A name that goes from here breaks somebody's package: it needs a line in CHANGELOG.md.
PINNED = [
    "Backend",
    "CacheScope",
    "Capabilities",
    "Channel",
    "CompileRequest",
    "Contract",
    "DataError",
    "Dataset",
    "Device",
    "DeviceEntry",
    "DeviceError",
    "EdgebuildError",
    "EnvironmentGap",
    "Int8Scheme",
    "Json",
    "KeepChannels",
    "LayerReport",
    "LocalDevice",
    "Metric",
    "ModelError",
    "Parameters",
    "Precision",
    "ProjectCode",
    "Proposal",
    "ReplaceModule",
    "Requirements",
    "RunnerClient",
    "RunsOn",
    "Sample",
    "SettingSpec",
    "Settings",
    "StateLink",
    "Step",
    "StepContext",
    "Technique",
    "TensorSpec",
    "UsageError",
    "Value",
    "Workspace",
    "check_backend",
    "check_device",
    "check_request",
    "check_technique",
    "client_of",
    "files_of",
    "named_metric",
    "save_onnx",
    "write_artifact",
    "write_notes",
]
#: Of the pages and examples, what may be imported beside it: the API of those who build.
PUBLIC = {"edgebuild", "edgebuild.plugins"}


def test_the_names_are_pinned() -> None:
    assert plugins.__all__ == PINNED


@pytest.mark.parametrize("name", PINNED)
def test_every_name_is_there(name: str) -> None:
    assert getattr(plugins, name) is not None


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Tecnhique'"):
        _ = plugins.Tecnhique


def test_type_checkers_and_the_program_see_the_same_names() -> None:
    tree = ast.parse(Path(plugins.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    typed = [a.asname or a.name for node in block.body if isinstance(node, ast.ImportFrom) for a in node.names]
    assert sorted(typed) == PINNED


def test_importing_it_imports_nothing_heavy() -> None:
    code = "import json, sys, edgebuild.plugins; print(json.dumps(sorted(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert HEAVY & set(json.loads(answer.stdout)) == set()


def imported(code: str) -> set[str]:
    nodes = list(ast.walk(ast.parse(code)))
    found = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    found |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return {name for name in found if name.partition(".")[0] == "edgebuild"}


def test_the_page_imports_nothing_else() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "extending.md").read_text("utf-8"), re.DOTALL)
    assert set().union(*map(imported, blocks)) <= PUBLIC


@pytest.mark.parametrize("path", sorted((ROOT / "examples").rglob("*.py")), ids=lambda path: path.name)
def test_the_examples_import_nothing_else(path: Path) -> None:
    errors = {"edgebuild.errors"} if "plugins" not in path.parts else set()
    assert imported(path.read_text("utf-8")) <= PUBLIC | errors
