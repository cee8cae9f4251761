"""A runtime that crashes on one candidate is that candidate's result; a broken device ends the build."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.example import record, run, runners, told, write_project, write_quick
from tests.fragile import write_fragile

from .conftest import PROFILE

if TYPE_CHECKING:
    from pathlib import Path

CRASHED = "was ended by SIGSEGV (the runtime crashed) without an answer."


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fragile(tmp_path_factory.mktemp("fragile"))


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory, fragile: Path) -> Path:
    """A project of three precisions, two of which crashed: one while evaluated, one after it was certified."""
    project = write_project(
        tmp_path_factory.mktemp("crashed") / "project",
        {"build": 'targets = ["quick"]\nthreads = 1\nobjective = "size"', "budget": "points = 20.0"},
    )
    write_quick(project, profile=PROFILE)
    breaks = "evaluate:int8:segv memory:fp16:segv layers:fp32:segv"
    ended = run("build", cwd=project, env={"TEST_DEVICE_FILE": str(fragile), "FRAGILE": breaks})
    assert ended.code == 0, ended
    assert runners(project) == ()
    return project


def candidates(project: Path) -> dict[str, dict[str, Any]]:
    return {candidate["spec"]["precision"]["kind"]: candidate for candidate in record(project)["candidates"]}


def test_the_build_goes_on_and_each_crash_is_its_candidates_result(crashed: Path) -> None:
    found = candidates(crashed)
    assert found["fp32"]["status"] == "chosen"
    assert {kind: found[kind]["status"] for kind in ("fp16", "int8")} == {"fp16": "failed", "int8": "failed"}
    assert found["int8"]["reason"].endswith(f"(evaluate) {CRASHED}")
    assert found["fp16"]["reason"].endswith(f"(memory) {CRASHED}")
    told = [note["text"] for note in found["int8"]["notes"]]
    assert "the end of the runner's error output: the runtime is about to break" in told
    assert found["fp32"]["measured"]["layers"] == []
    (note,) = [n["text"] for n in found["fp32"]["notes"] if n["text"].startswith("what its layers run in is unknown")]
    assert note.endswith(f"(layers) {CRASHED}")
    shown = " ".join(run("report", cwd=crashed).out.split())
    assert "was ended by SIGSEGV" in shown


def test_a_crash_is_not_kept_in_the_store(crashed: Path) -> None:
    entries = (crashed / ".edgebuild" / "store" / "entries").iterdir()
    labels = {json.loads(path.read_bytes())["manifest"]["meta"]["label"] for path in entries}
    assert "evaluate quick/fp32 on validation" in labels
    assert not [label for label in labels if label.startswith("evaluate quick/int8")]


@pytest.mark.parametrize(
    ("breaks", "operation"),
    [
        ("evaluate:fp32:kill", "evaluate"),
        pytest.param("measure:fp32:segv", "measure", marks=pytest.mark.proof),
        pytest.param("compile:fp32:segv", "compile", marks=pytest.mark.proof),
    ],
)
def test_where_the_baseline_fails_too_the_device_is_to_blame(
    fragile: Path, tmp_path: Path, breaks: str, operation: str
) -> None:
    project = write_project(tmp_path / "project")
    ended = run("build", cwd=project, env={"TEST_DEVICE_FILE": str(fragile), "FRAGILE": breaks})
    assert ended.code == 5, ended
    assert f"({operation}) was ended by SIG" in told(ended.err)
    assert runners(project) == ()
