"""The gate runs the device's own parse-and-build code in TensorRT-RTX, apart from us; no answer is never a pass."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from edgebuild.backends.protocol import CompileRequest, check_settings, read_notes
from edgebuild.backends.trt import gate as gating
from edgebuild.backends.trt.host import (
    DEVICE_FILE,
    MODEL,
    GateOnnx,
    TensorRt,
    _phase,
    _placement,
    profiles,
    write_typed,
)
from edgebuild.core.artifact import Contract, Fp16Meaning, Int8Scheme, Precision, TensorSpec
from edgebuild.core.artifact_files import NOTES, read_artifact
from edgebuild.core.steps import NoProgress, RunsOn, StepContext, never_stop
from edgebuild.core.values import digest_bytes
from edgebuild.devices.client import RunnerClient
from edgebuild.errors import ModelError, UsageError
from tests import needs
from tests.backends.nets import FP32, conv_net
from tests.backends.trt.test_typed import quantised

needs_rtx = needs.marked(needs.module(gating.PACKAGE, gating.DISTRIBUTION))
COMPUTE = Precision(kind="fp16", fp16=Fp16Meaning.COMPUTE)
SCHEME = Int8Scheme(activations="int8", symmetric_activations=True)
INT8 = Precision(kind="int8", scheme=SCHEME, quantiser="edgebuild")


def saved(model: Any, folder: Path) -> Path:
    onnx.save(model, str(folder / MODEL))
    return folder / MODEL


@needs_rtx
@pytest.mark.parametrize("precision", [FP32, COMPUTE], ids=lambda p: p.label)
def test_a_float_and_a_half_net_are_accepted(precision: Precision, tmp_path: Path) -> None:
    net, contract = conv_net()
    out = tmp_path / "out"
    out.mkdir()
    write_typed(saved(net, tmp_path), out, precision, contract)
    said = json.loads((out / "gate.json").read_text())["gate"]
    assert said == f"accepted by TensorRT-RTX {gating.installed()}"


@needs_rtx
def test_an_8_bit_net_is_accepted(tmp_path: Path) -> None:
    assert gating.gate(saved(quantised(), tmp_path), DEVICE_FILE, {"precision": "int8"}).accepted is True


@needs_rtx
def test_a_refusal_names_the_node(tmp_path: Path) -> None:
    node = helper.make_node("StringNormalizer", ["x"], ["y"], name="the-strange-one")
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 4)) for name in ("x", "y")]
    graph = helper.make_graph([node], "g", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    verdict = gating.gate(saved(model, tmp_path), DEVICE_FILE, {"precision": "fp32"})
    assert verdict.accepted is False
    assert "the-strange-one" in verdict.message
    assert verdict.label.startswith("refused by TensorRT-RTX")


@needs_rtx
def test_a_dynamic_axis_gets_a_profile(tmp_path: Path) -> None:
    net, _ = conv_net()
    for value in (net.graph.input[0], net.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    contract = Contract(
        inputs=(TensorSpec(name="image", shape=("batch", 3, 16, 16), dtype="float32"),),
        outputs=(TensorSpec(name="logits", shape=("batch", 10), dtype="float32"),),
    )
    assert profiles(contract) == {"image": [[1, 3, 16, 16], [1, 3, 16, 16], [8, 3, 16, 16]]}
    path = saved(net, tmp_path)
    assert gating.gate(path, DEVICE_FILE, {"precision": "fp32", "profiles": profiles(contract)}).accepted is True
    assert gating.gate(path, DEVICE_FILE, {"precision": "fp32"}).accepted is False


@needs_rtx
@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import os; os.kill(os.getpid(), 11)", "it ended with status -11"),
        ("raise SystemExit(0)", "it ended with status 0"),
        ("import time; time.sleep(60)", "it gave no answer within 2 s"),
    ],
)
def test_a_crash_or_a_hang_is_a_refusal(code: str, said: str, tmp_path: Path) -> None:
    device = tmp_path / "device.py"
    device.write_text(code)
    verdict = gating.gate(saved(conv_net()[0], tmp_path), device, {}, limit_s=2.0 if "sleep" in code else 60.0)
    assert verdict.accepted is False
    assert said in verdict.message


def test_without_the_gate_there_is_a_note_and_no_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gating, "DISTRIBUTION", "a-distribution-that-is-not-there")
    out, (net, contract) = tmp_path / "out", conv_net()
    out.mkdir()
    saved(net, tmp_path)
    step = GateOnnx(precision=FP32, contract=contract)
    ctx = StepContext(progress=NoProgress(), check=never_stop, seed=0, scratch=tmp_path)
    step.run({"model": tmp_path}, out, ctx)
    assert json.loads((out / "gate.json").read_text())["gate"].startswith("not gated")
    artifact = read_artifact(out)
    assert artifact.entry == MODEL
    assert read_notes(out)[0].startswith("gate: not gated: TensorRT-RTX is not installed")
    assert NOTES not in {file.path for file in artifact.files}


def test_a_dla_takes_fp16_of_fixed_shape() -> None:
    _, contract = conv_net()
    backend = TensorRt()
    plain = backend.compile_step(CompileRequest(precision=COMPUTE, contract=contract))
    step = backend.compile_step(CompileRequest(precision=COMPUTE, contract=contract, accelerator="dla"))
    assert dict(step.key_fields()) == {**plain.key_fields(), "accelerator": "dla"}
    for precision in (FP32, INT8):
        with pytest.raises(ModelError, match="A DLA can't take"):
            backend.compile_step(CompileRequest(precision=precision, contract=contract, accelerator="dla"))
    dynamic = Contract(
        inputs=(TensorSpec(name="image", shape=("batch", 3, 16, 16), dtype="float32"),), outputs=contract.outputs
    )
    with pytest.raises(ModelError, match="fixed shapes only, and image has a dynamic axis"):
        backend.compile_step(CompileRequest(precision=COMPUTE, contract=dynamic, accelerator="dla"))
    with pytest.raises(UsageError, match="no accelerator 'npu'"):
        backend.compile_step(CompileRequest(precision=COMPUTE, contract=contract, accelerator="npu"))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({}, []),
        ({"fell_back": [], "on_dla": ["a"]}, ["DLA: runs the whole model in 1 parts"]),
        ({"fell_back": ["x", "y"], "on_dla": ["a"]}, ["DLA: 1 parts; 2 layers fell back to the GPU: x, y"]),
    ],
)
def test_what_fell_back_becomes_a_note(answer: dict[str, Any], said: list[str]) -> None:
    assert _placement(answer) == said


def test_what_a_device_says_of_its_progress_cannot_steer_a_terminal() -> None:
    assert (
        _phase({"phase": "Tactic\x1b[2J search", "done": 3, "total": 8.0})
        == "Tactic\N{REPLACEMENT CHARACTER}[2J search 3/8"
    )
    assert _phase({"phase": "x" * 999, "done": None}) == "x" * 80


def test_what_tensorrt_misreads_ends_before_the_gate(tmp_path: Path) -> None:
    _, contract = conv_net()
    with pytest.raises(ModelError, match="the weight of 'conv' has its scales on axis 1, not 0"):
        write_typed(saved(quantised(axis=1), tmp_path), tmp_path, INT8, contract)


def test_settings_and_refusals() -> None:
    backend = TensorRt()
    for cores in (1, 6):
        check_settings(backend, backend.default_settings(cores))
    assert "not there" in (backend.refuse(FP32, {"runtime.tensorrt": "unknown"}) or "")
    assert backend.refuse(INT8, {}) is None
    asymmetric = INT8.model_copy(update={"scheme": Int8Scheme(activations="uint8")})
    assert "symmetric" in (backend.refuse(asymmetric, {}) or "")


def test_the_engine_is_built_on_the_device() -> None:
    _, contract = conv_net()
    step = TensorRt().compile_step(CompileRequest(precision=FP32, contract=contract, on_device=True))
    assert step.runs_on is RunsOn.DEVICE
    assert TensorRt().compile_step(CompileRequest(precision=FP32, contract=contract)).runs_on is RunsOn.HOST


class Board(RunnerClient):
    """A device that keeps what it is asked to build, and builds nothing."""

    def __init__(self) -> None:
        self.device: Any = SimpleNamespace(root="/board", id="board")
        self.options: dict[str, Any] = {}

    def workspace(self) -> Any:
        return contextlib.nullcontext("/board/work/1")

    def put_folder(self, folder: Path) -> str:
        return f"/board/{folder.name}"

    def call(self, op: str, request: Any, **_: Any) -> dict[str, Any]:
        assert op == "compile"
        self.options = request["options"]
        said = ["SPARSE_WEIGHTS is set", "picked\x1b[2J conv"] if "sparse_weights" in self.options else []
        names = ("engine.plan", "build.log", "layers.json")
        files = [{"name": name, "sha256": digest_bytes(b"built"), "size_bytes": 5} for name in names]
        return {"version": "10.3.0", "files": files, **({"sparsity": said} if said else {})}

    def fetch(self, remote: str, files: Any, destination: Path) -> None:
        assert remote == "/board/work/1"
        for file in files:
            (destination / file.name).write_bytes(b"built")


@pytest.mark.parametrize("features", [(), ("2:4",)])
def test_a_device_is_asked_to_skip_zeros_where_the_recipe_is_made_for_it(
    features: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gating, "DISTRIBUTION", "a-distribution-that-is-not-there")
    board = Board()
    net, contract = conv_net()
    step = TensorRt().compile_step(
        CompileRequest(precision=COMPUTE, contract=contract, on_device=True, features=features)
    )
    plain = TensorRt().compile_step(CompileRequest(precision=COMPUTE, contract=contract, on_device=True))
    assert set(step.key_fields()) - set(plain.key_fields()) == ({"sparse"} if features else set())
    out = tmp_path / "out"
    out.mkdir()
    saved(net, tmp_path)
    ctx = StepContext(progress=NoProgress(), check=never_stop, seed=0, scratch=tmp_path, device=board)
    step.run({"model": tmp_path}, out, ctx)
    assert board.options.get("sparse_weights", False) is bool(features)
    said = ["2:4: SPARSE_WEIGHTS is set", "2:4: picked\N{REPLACEMENT CHARACTER}[2J conv"] if features else []
    assert list(read_notes(out)[1:]) == said


def test_a_feature_that_tensorrt_lacks_is_refused() -> None:
    with pytest.raises(UsageError, match="tensorrt has no feature '1:8'"):
        TensorRt().compile_step(CompileRequest(precision=COMPUTE, contract=conv_net()[1], features=("1:8",)))


@pytest.mark.skipif(Path("/dev/nvidia0").exists() or Path("/dev/nvmap").exists(), reason="there is a GPU here")
def test_the_proof_on_a_gpu_says_where_it_cannot_run() -> None:
    script = Path(__file__).parents[3] / "benchmarks" / "proof_gpu.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 6
    assert done.stderr.count("\n") == 1
    assert "nothing was proven" in done.stderr
