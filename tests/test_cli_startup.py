"""``edgebuild --help`` answers without loading anything heavy, and shows every command. No time is asserted here:
``benchmarks/startup.py`` measures it.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

HEAVY = {"numpy", "onnx", "onnx_ir", "onnxruntime", "onnxscript", "openvino", "scipy", "torch", "torchmetrics"}
#: Lighter ones, which only some commands need.
LATER = {"fsspec", "pydantic", "rich", "safetensors"}
COMMANDS = ("init", "targets", "doctor", "plan", "build", "bench", "report", "explain", "store")
OPTIONS = {
    "targets": ("name",),
    "init": ("model",),
    "plan": ("--target", "--recipe"),
    "build": ("--target", "--recipe", "--budget", "--time", "--remeasure"),
    "bench": ("model", "--against"),
    "explain": ("candidate",),
    "doctor": ("--against",),
    "store": ("du", "gc"),
}


def _edgebuild(*arguments: str, python: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *python, "-m", "edgebuild", *arguments],
        env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )


def test_help_imports_nothing_heavy() -> None:
    lines = _edgebuild("--help", python=("-X", "importtime")).stderr.splitlines()
    imported = {line.rsplit("|", 1)[-1].strip() for line in lines if line.startswith("import time:")}
    assert "edgebuild.cli.app" in imported
    assert {name for name in imported if name.split(".")[0] in HEAVY | LATER} == set()


def test_help_shows_every_command_with_what_it_does() -> None:
    lines = [line.split(maxsplit=1) for line in _edgebuild("--help").stdout.splitlines()]
    described = {words[0]: words[1] for words in lines if len(words) == 2}
    assert all(len(described[command]) > 20 for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_its_options(command: str) -> None:
    shown = _edgebuild(command, "--help").stdout
    assert f"edgebuild {command}" in shown
    assert all(option in shown for option in OPTIONS.get(command, ()))
