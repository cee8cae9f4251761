"""Whether a device fits and answers right: in the real runtime, through the release's own runner."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edgebuild.core.values import canonical_json
from edgebuild.releasing import describe as described
from edgebuild.releasing.board.running import KERNEL_FEATURES, doubts, misfits

from .bundles import HERE, Maker, npy, release
from .script import PYTHON, command, verify

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from .script import Ended


def checked(tmp_path: Path, files: Mapping[str, bytes], *words: str, **said: Any) -> Ended:
    bundle = Maker({"pi": (files, release(**said))}).make(tmp_path / "bundle")
    return verify(tmp_path, "check", bundle, *words)


def logits(real: Mapping[str, bytes]) -> Any:
    return np.load(io.BytesIO(real["golden/outputs/logits.npy"]))


def test_the_real_runtime_answers_right(tmp_path: Path, bundle: Path) -> None:
    ended = verify(tmp_path, "check", bundle)
    assert ended.code == 0, ended
    assert (ended.report["target"], ended.report["answers"]["frames"], ended.report["answers"]["outputs"]) == (
        "pi",
        4,
        1,
    )
    assert ended.report["answers"]["excess"] <= 1.0
    assert ended.report["latency"]["inside"] is True
    assert not list(tmp_path.glob("*.pyc"))
    told = subprocess.run(
        command(tmp_path, "check", bundle, "--no-latency"), capture_output=True, text=True, check=True
    )
    assert "answers   right on 4 frames" in told.stdout


def test_changed_expectations_are_wrong_answers(tmp_path: Path, real: Mapping[str, bytes]) -> None:
    wrong = logits(real)
    wrong[2, 1] += 0.1
    ended = checked(tmp_path, {**real, "golden/outputs/logits.npy": npy(wrong)}, "--no-latency")
    assert ended.code == 7
    assert ended.message.startswith("The artifact answers wrong on this device: output 'logits' is off by")


@pytest.mark.parametrize(
    ("path", "data", "message"),
    [
        ("golden/outputs/logits.npy", npy(np.zeros((4, 5), dtype=np.float32)), "Output 'logits' is a"),
        ("golden/outputs/logits.npy", npy(np.zeros((3, 4), dtype=np.float32)), "wrong number of frames"),
        ("golden/outputs/logits.npy", npy(np.zeros((4, 4), dtype=np.float64)), "Output 'logits' is a"),
        ("golden/outputs/logits.npy", b"\x80\x04N.", "is no array"),
        ("golden/inputs/image.npy", npy(np.zeros((4, 1, 7, 8), dtype=np.float32)), "On this device"),
        ("artifact/model.onnx", b"another", "The artifact's file model.onnx isn't what artifact.json lists"),
        ("artifact/more", b"more", "which artifact.json doesn't list"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(
    tmp_path: Path, real: Mapping[str, bytes], path: str, data: bytes, message: str
) -> None:
    ended = checked(tmp_path, {**real, path: data}, "--no-latency")
    assert (ended.code, message in ended.message) == (7, True), ended


@pytest.mark.parametrize(
    "change",
    [
        {"frames": 0},
        {"frames": True, "outputs": []},
        {"outputs": []},
        {"outputs": None},
        {"outputs": [{"name": "logits", "file": "../../release.json", "rtol": 0, "atol": 0}]},
        {"outputs": [{"name": "logits", "file": "logits.npy", "rtol": -1, "atol": 0}]},
        {"outputs": [{"name": "logits", "file": "logits.npy", "rtol": "1", "atol": 0}]},
        {"outputs": [{"name": "logits", "file": "logits.npy", "rtol": 0}]},
        {"outputs": [{"name": "nothing", "file": "logits.npy", "rtol": 1, "atol": 1}]},
    ],
)
def test_golden_vectors_that_hold_nothing_or_lie_are_refused(
    tmp_path: Path, real: Mapping[str, bytes], change: dict[str, Any]
) -> None:
    golden = canonical_json({**json.loads(real["golden/golden.json"]), **change}).encode()
    assert checked(tmp_path, {**real, "golden/golden.json": golden}, "--no-latency").code == 7


def test_every_misfit_is_told_and_nothing_is_opened(tmp_path: Path, real: Mapping[str, bytes]) -> None:
    requires = {
        **HERE, "architecture": "riscv64", "isa": ["avx9", "sve9"], "runtime_version": "0.0.1",
        "memory_bytes": 1 << 50, "facts": {"l4t": "36.4.0"},
    }  # fmt: skip
    unopenable = {**real, "artifact/artifact.json": b'{"non":"sense"}', "artifact/model.onnx": b"nonsense"}
    ended = checked(tmp_path, unopenable, requires=requires)
    assert ended.code == 7
    said = ended.message
    assert said.startswith("Target pi is for another device: architecture must be riscv64, it is ")
    for part in ("onnxruntime must be 0.0.1, it is", "l4t must be 36.4.0, it isn't here", "the CPU lacks avx9, sve9"):
        assert part in said
    assert "1125899906 MB of memory are needed, there are" in said


def test_a_misfit_is_any_difference_in_what_is_required() -> None:
    facts = {
        "arch": "aarch64", "isa": ["asimd", "i8mm"], "runtime": {"onnxruntime": "1.20.0"}, "memory_bytes": 1 << 32,
        "l4t": "36.4.0",
    }  # fmt: skip
    requires = {
        "architecture": "arm64", "os": "linux", "isa": ["asimd"], "runtime": "onnxruntime", "runtime_version": "1.20.0",
        "memory_bytes": 1 << 20, "facts": {"l4t": "36.4.0"},
    }  # fmt: skip
    assert misfits(requires, facts) == []
    assert misfits({**requires, "memory_bytes": None, "facts": {}}, facts) == []
    wrongs: list[dict[str, Any]] = [
        {"arch": "x86_64"}, {"isa": "unknown"}, {"isa": ["i8mm"]}, {"runtime": {"onnxruntime": "1.20.1"}},
        {"runtime": {}}, {"runtime": None}, {"memory_bytes": 1},
        {"l4t": "36.3.0"}, {"l4t": None},
    ]  # fmt: skip
    for wrong in wrongs:
        assert len(misfits(requires, {**facts, **wrong})) == 1, wrong
    assert len(misfits({**requires, "os": "freebsd"}, facts)) == 1


def test_a_cpu_with_more_is_told(tmp_path: Path, bundle: Path) -> None:
    assert KERNEL_FEATURES == described.KERNEL_FEATURES
    (said,) = doubts({**HERE, "isa": ["fma"]}, {"isa": ["avx2", "fma", "fpu", "amx_int8"], "memory_bytes": 1 << 32})
    assert said.startswith("the CPU has amx_int8, avx2, and what was measured hadn't")
    assert doubts({**HERE, "isa": ["avx2"]}, {"isa": ["avx2", "fpu"], "memory_bytes": 1 << 32}) == []
    assert doubts(HERE, {"isa": "unknown"}) == ["1 MB of memory are needed, and this machine tells none"]
    warnings = verify(tmp_path, "check", bundle, "--no-latency").report["warnings"]
    assert any("and what was measured hadn't" in text for text in warnings)


def test_the_target_that_fits_is_taken_and_one_of_several_is_asked_for(
    tmp_path: Path, real: Mapping[str, bytes]
) -> None:
    far = {**HERE, "runtime_version": "0.0.1"}
    parts = {"far": (real, release(target="far", requires=far)), "near": (real, release(target="near"))}
    bundle = Maker(parts).make(tmp_path / "bundle")
    assert verify(tmp_path, "check", bundle, "--no-latency").report["target"] == "near"
    ended = verify(tmp_path, "check", bundle, "--no-latency", "--target", "far")
    assert (ended.code, ended.message.startswith("Target far is for another device")) == (7, True)
    ended = verify(tmp_path, "check", bundle, "--target", "none")
    assert (ended.code, ended.message) == (2, "It has no target 'none', but far, near.")
    both = Maker({**parts, "next": (real, release(target="next"))}).make(tmp_path / "both")
    ended = verify(tmp_path, "check", both, "--no-latency")
    assert (ended.code, ended.message) == (2, "Several targets fit this device: near, next.")


@pytest.mark.proof
def test_a_latency_that_is_not_as_recorded_is_a_warning_or_refused(tmp_path: Path, real: Mapping[str, bytes]) -> None:
    recorded = {"point_ms": 1e6, "low_ms": None, "high_ms": None}
    ended = checked(tmp_path, real, latency=recorded)
    assert (ended.code, ended.report["latency"]["inside"]) == (0, False)
    assert "recorded is 6.67e+05 to 1.5e+06 ms" in ended.report["warnings"][-1]
    ended = verify(tmp_path, "check", tmp_path / "bundle", "--strict")
    assert (ended.code, ended.message.startswith("The latency is outside")) == (7, True)


def test_no_latency_is_measured_where_none_is_recorded(tmp_path: Path, real: Mapping[str, bytes]) -> None:
    ended = checked(tmp_path, real, "--strict", latency=None)
    assert (ended.code, "latency" in ended.report) == (0, False)


RUNNERS = {
    "print('nonsense')": "The runner's answer is not what was written",
    "import os; os._exit(0)": "ended with status 0 and without an answer",
    "import os; os.write(2, b'why'); os.abort()": "ended by signal 6 and without an answer on this device. why",
    "print('[]')": "The runner's answer is not what was written",
    """print('{"result": 1}')""": "wrong result",
    """print('{"error": {"kind": "model", "message": "no"}}')""": "On this device: no",
    "import sys; sys.stdout.write('x' * (5 << 20)); sys.stdout.flush()": "says too much",
    """print('{"result": {}}')""": "is for another device",
}


@pytest.mark.parametrize(("code", "message"), RUNNERS.items())
def test_a_runner_that_crashes_or_speaks_nonsense_is_a_sentence(
    tmp_path: Path, real: Mapping[str, bytes], code: str, message: str
) -> None:
    ended = checked(tmp_path, {**real, "runner.pyz": code.encode()})
    assert (ended.code, message in ended.message) == (7, True), ended


def test_what_is_missing_on_the_machine_is_told_as_such(tmp_path: Path, bundle: Path) -> None:
    ended = verify(tmp_path, "check", bundle, "--python", tmp_path / "none")
    assert (ended.code, "can't be started: No such file or directory" in ended.message) == (6, True)


def test_a_python_without_the_runtime_does_not_fit(tmp_path: Path, bundle: Path) -> None:
    if sys.executable == PYTHON:
        pytest.skip("there is only one Python here, and it has the runtime")
    ended = verify(tmp_path, "check", bundle, "--python", PYTHON)
    assert (ended.code, "onnxruntime must be" in ended.message) == (7, True)


def test_nothing_is_written_beside_the_bundle(tmp_path: Path, bundle: Path) -> None:
    before = {path: os.lstat(path).st_mtime_ns for path in sorted(bundle.rglob("*"))}
    assert verify(tmp_path, "check", bundle, "--no-latency").code == 0
    assert {path: os.lstat(path).st_mtime_ns for path in sorted(bundle.rglob("*"))} == before
