"""``--help`` and ``--version`` answer without loading anything heavy; help shows every command.

No time is asserted here: ``benchmarks/startup.py`` measures it.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from edgebuild import __version__

HEAVY = {
    "fastapi",
    "numpy",
    "onnx",
    "onnx_ir",
    "onnxruntime",
    "onnxscript",
    "openvino",
    "scipy",
    "sqlalchemy",
    "torch",
    "torchmetrics",
    "uvicorn",
}
#: Lighter ones, which only some commands need.
LATER = {"fsspec", "pydantic", "rich", "safetensors"}
COMMANDS = ("init", "targets", "doctor", "plan", "build", "bench", "report", "explain", "store", "farm")
OPTIONS = {
    "targets": ("name",),
    "init": ("model",),
    "plan": ("--target", "--recipe"),
    "build": ("--target", "--recipe", "--budget", "--time", "--remeasure"),
    "bench": ("model", "--against"),
    "explain": ("candidate",),
    "doctor": ("--against",),
    "store": ("du", "gc"),
    "farm": ("init", "serve", "join", "token", "list", "jobs", "cancel"),
}


def _edgebuild(*arguments: str, python: tuple[str, ...] = (), check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *python, "-m", "edgebuild", *arguments],
        env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=check,
    )


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_what_needs_no_project_imports_nothing_heavy(option: str) -> None:
    lines = _edgebuild(option, python=("-X", "importtime")).stderr.splitlines()
    imported = {line.rsplit("|", 1)[-1].strip() for line in lines if line.startswith("import time:")}
    assert "edgebuild.cli.app" in imported
    assert {name for name in imported if name.split(".")[0] in HEAVY | LATER} == set()


def test_the_version_is_an_answer_of_its_own() -> None:
    assert _edgebuild("--version").stdout == f"edgebuild {__version__}\n"


@pytest.mark.parametrize("group", [(), ("store",), ("device",), ("farm",)])
def test_without_a_command_the_help_is_shown_as_it_is(group: tuple[str, ...]) -> None:
    answer = _edgebuild(*group, check=False)
    assert answer.returncode == 2
    assert answer.stderr == _edgebuild(*group, "--help").stdout


def test_help_shows_every_command_with_what_it_does() -> None:
    lines = [line.split(maxsplit=1) for line in _edgebuild("--help").stdout.splitlines()]
    described = {words[0]: words[1] for words in lines if len(words) == 2}
    assert all(len(described[command]) > 20 for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_its_options(command: str) -> None:
    shown = _edgebuild(command, "--help").stdout
    assert f"edgebuild {command}" in shown
    assert all(option in shown for option in OPTIONS.get(command, ()))
