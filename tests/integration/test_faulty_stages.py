"""A bug at any stage of one candidate is that candidate's result; only a build with nothing left ends in it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from onnx import helper

from edgebuild.backends.ort import host
from edgebuild.building.context import Options
from edgebuild.catalogue.project import load_project
from edgebuild.core.record import Note
from edgebuild.errors import DataError, EdgebuildError, EnvironmentGap, ModelError
from edgebuild.execution.executor import Executor
from edgebuild.measuring import session, sets, side
from edgebuild.measuring.protocols import CERTIFY, SCREEN
from edgebuild.pipeline import build
from tests.cli.example import BOARD_TARGET, CLASSES, SHAPE, copy, model_of, write_project, write_quick
from tests.cli.short import SHORT
from tests.golden import assert_golden

from .conftest import PROFILE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import ExitStack
    from pathlib import Path

    from edgebuild.core.record import BuildRecord, CandidateRecord

HERE = Options(
    screen=SCREEN.model_copy(update={**SHORT, "launches": 1, "max_launches": 1}),
    certify=CERTIFY.model_copy(update={**SHORT, "launches": 2, "max_launches": 2}),
)
ELSEWHERE = Options(targets=("board",), no_measure=True)


@pytest.fixture(scope="module")
def built_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of three precisions of one runtime, built here and for a board that isn't. Only to be copied."""
    folder = write_project(
        tmp_path_factory.mktemp("faulty") / "project",
        {"build": 'targets = ["quick"]\nthreads = 1\nobjective = "size"', "budget": "points = 20.0"},
    )
    write_quick(folder, profile=PROFILE)
    (folder / "targets" / "board.toml").write_text(BOARD_TARGET)
    (record,) = build(load_project(folder), ELSEWHERE)
    assert {c.status for c in record.candidates} == {"unraced"}
    (record,) = build(load_project(folder), HERE)
    assert record.outcome == "ok"
    return folder


@pytest.fixture
def project(built_once: Path, tmp_path: Path) -> Path:
    return copy(built_once, tmp_path / "project")


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> dict[str, BaseException]:
    """What the steps whose label fits a pattern raise from here on, whether they are stored or not."""
    wanted: dict[str, BaseException] = {}
    really = Executor.run

    def run(self: Executor, step: Any, inputs: Any, *, label: str, **whose: Any) -> Any:
        for pattern, error in wanted.items():
            if re.search(pattern, label):
                raise error
        return really(self, step, inputs, label=label, **whose)

    monkeypatch.setattr(Executor, "run", run)
    return wanted


def by_kind(record: BuildRecord) -> dict[str, CandidateRecord]:
    return {candidate.spec.precision.kind: candidate for candidate in record.candidates}


def test_golden_records_with_and_without_measuring(built_once: Path) -> None:
    for path in (built_once / ".edgebuild" / "builds").glob("*/build.json"):
        found = json.loads(path.read_bytes())
        assert_golden(found, {"board": "no-measure", "quick": "plain"}[found["target"]])


@pytest.mark.parametrize(
    ("stage", "error", "said"),
    [
        ("^int8-.* for quick", IndexError("list index out of range"), "a bug in edgebuild: IndexError in "),
        ("^int8-.* for quick", EnvironmentGap("nncf isn't installed"), "nncf isn't installed"),
        ("^compile .*int8", MemoryError(), "there is too little memory on this machine: MemoryError in "),
        ("^open .*int8", RecursionError("too deep"), "a bug in edgebuild: RecursionError in "),
        ("^open .*int8", SystemExit(3), "a bug in edgebuild: SystemExit in "),
    ],
)
def test_a_fault_of_one_candidate_leaves_the_others(
    stage: str, error: BaseException, said: str, project: Path, faults: dict[str, BaseException]
) -> None:
    faults[stage] = error
    (record,) = build(load_project(project), ELSEWHERE)
    failed = [c for c in record.candidates if c.status == "failed"]
    assert {c.spec.precision.kind for c in failed} == {"int8"}
    assert {c.spec.precision.kind for c in record.candidates if c.status == "unraced"} >= {"fp32"}
    for candidate in failed:
        assert candidate.reason.startswith(said)
        if not isinstance(error, EnvironmentGap):
            (note,) = [n.text for n in candidate.notes if n.text.startswith("bug report: .edgebuild/bugs/bug-")]
            assert "Traceback" in (project / note.removeprefix("bug report: ")).read_text()


def test_where_nothing_is_left_the_build_ends_with_the_bug(project: Path, faults: dict[str, BaseException]) -> None:
    faults["^compile "] = IndexError("7")
    with pytest.raises(EdgebuildError, match="quick/fp32: a bug in edgebuild: IndexError") as caught:
        build(load_project(project), ELSEWHERE)
    assert caught.value.exit_code == 1
    assert ".edgebuild/bugs/bug-" in caught.value.hint


def other_net(bias: float, *, classes: int = CLASSES, operator: str = "Flatten") -> bytes:
    """A net with the classifier's inputs that isn't it: a bias of NaN, other classes, an operator that nobody has."""
    nodes = [
        helper.make_node(operator, ["image"], ["flat"]),
        helper.make_node("Gemm", ["flat", "v", "c"], ["logits"]),
    ]
    weights = {"v": np.zeros((64, classes), np.float32), "c": np.full(classes, bias, np.float32)}
    inputs = {"image": [1, *SHAPE]}
    made = model_of(nodes, inputs=inputs, outputs={"logits": [1, classes]}, weights=weights)
    content: bytes = made.SerializeToString()
    return content


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (other_net(0.0, operator="NoSuchOperator"), "it was compiled, but can't be run: "),
        (other_net(float("nan")), "it was compiled, but its output 'logits' is NaN or infinite on every frame"),
        (other_net(0.0, classes=3), "it was compiled, but can't be run: Output 'logits' comes out of the runtime"),
    ],
    ids=["operator", "nan", "shape"],
)
def test_what_was_compiled_without_a_device_is_opened_here(
    content: bytes, said: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = host._copy_model

    def copy_model(folder: Path, out_dir: Path) -> None:
        really(folder, out_dir)
        if b"QuantizeLinear" in (out_dir / host.MODEL).read_bytes():
            (out_dir / host.MODEL).write_bytes(content)

    monkeypatch.setattr(host, "_copy_model", copy_model)
    file = project / "edgebuild.toml"
    file.write_text(file.read_text().replace("threads = 1", 'threads = 1\nkeep_float = ["head"]'))
    (record,) = build(load_project(project), ELSEWHERE)
    found = by_kind(record)
    assert (found["fp32"].status, found["int8"].status) == ("unraced", "failed")
    assert found["int8"].reason.startswith(said)
    assert record.kept != found["int8"].id


def test_what_this_machine_cannot_run_is_not_opened_and_says_so(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host.OnnxRuntime, "refuse", refuse_here)
    (record,) = build(load_project(project), ELSEWHERE)
    for candidate in record.candidates:
        assert candidate.status == "unraced"
        assert Note(topic="opening", text="not opened on this machine: no kernels") in candidate.notes


def refuse_here(self: object, precision: object, facts: Mapping[str, str]) -> str | None:
    """Refuses on this machine only: a board that isn't here has no probe."""
    del self, precision
    return "no kernels" if "kernel" in facts else None


def test_where_nothing_can_be_compiled_the_build_says_so(project: Path, faults: dict[str, BaseException]) -> None:
    faults["^compile "] = ModelError("no such kernel")
    (record,) = build(load_project(project), ELSEWHERE)
    assert record.outcome == "missed"
    assert record.summary.startswith("Nothing could be compiled: quick/fp32: no such kernel; ")


def test_the_metrics_and_the_datas_faults_end_the_build(project: Path, faults: dict[str, BaseException]) -> None:
    faults["^judge .*int8"] = DataError("the metric raised")
    with pytest.raises(DataError, match="the metric raised"):
        build(load_project(project), HERE)


def failing(*_: object, **__: object) -> Any:
    raise ZeroDivisionError("division by zero")


def failing_on(kind: str, really: Any) -> Any:
    """Return a function of a bench, a folder and an arm that fails on the arms of a precision."""

    def call(bench: Any, folder: Any, arm: session.Arm) -> Any:
        return failing() if arm.artifact.precision.kind == kind else really(bench, folder, arm)

    return call


@pytest.mark.proof
def test_faults_while_measuring_are_results_and_evidence_that_is_missing(
    project: Path, faults: dict[str, BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    faults["^evaluate .*int8"] = KeyError("logits")
    monkeypatch.setattr(side, "measure_memory", failing_on("fp16", side.measure_memory))
    for evidence in ("measure_energy", "read_layers"):
        monkeypatch.setattr(side, evidence, failing)
    monkeypatch.setattr("edgebuild.building.record._keep_samples", failing)
    (record,) = build(load_project(project), HERE)
    found = by_kind(record)
    assert (record.outcome, found["fp32"].status) == ("ok", "chosen")
    assert found["int8"].reason.startswith("a bug in edgebuild: KeyError in ")
    assert found["fp16"].reason.startswith("a bug in edgebuild: ZeroDivisionError in ")
    assert (found["fp32"].measured.layers, found["fp32"].measured.energy) == ((), None)
    notes = "\n".join(note.text for note in found["fp32"].notes)
    for lost in ("what its layers run in is unknown", "its energy is unknown", "its latencies can't be drawn"):
        assert f"{lost}: a bug in edgebuild: ZeroDivisionError in " in notes


@pytest.mark.proof
def test_faults_of_a_cross_check_of_launches_and_of_the_test_set(
    project: Path, faults: dict[str, BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    really, start = session._launch, sets.LiveSet._start

    def launch(run: Any, arm: session.Arm, *, last: bool) -> Any:
        return failing() if arm.artifact.precision.kind == "int8" else really(run, arm, last=last)

    def live(self: sets.LiveSet, stack: ExitStack, arm: session.Arm) -> Any:
        return failing() if arm.artifact.precision.kind == "int8" else start(self, stack, arm)

    faults["^cross-check"] = TypeError("an array")
    faults["^evaluate .*fp16.* on test"] = AssertionError()
    monkeypatch.setattr(session, "_launch", launch)
    monkeypatch.setattr(sets.LiveSet, "_start", live)
    (record,) = build(load_project(project), replace(HERE, remeasure=True))
    found = by_kind(record)
    assert (record.outcome, found["fp32"].status) == ("ok", "chosen")
    assert found["int8"].crosscheck is not None
    assert found["int8"].crosscheck.cause == "not checked"
    assert "TypeError in " in found["int8"].crosscheck.explanation
    assert (found["int8"].status, found["fp16"].status) == ("failed", "failed")
    assert "ZeroDivisionError in " in found["int8"].reason
    assert "AssertionError in " in found["fp16"].reason
