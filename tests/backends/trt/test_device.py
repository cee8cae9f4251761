"""The device code as far as it goes without a GPU: what it reads, and that it says what is missing."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

import onnx
import pytest

from edgebuild.backends.trt import device, gate
from edgebuild.backends.trt.device import engine
from tests import needs
from tests.backends.nets import conv_net

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def rtx(monkeypatch: pytest.MonkeyPatch) -> Any:
    """TensorRT-RTX's bindings in TensorRT's place."""
    needs.skip_without(needs.module(gate.PACKAGE, gate.DISTRIBUTION))
    module = importlib.import_module(gate.PACKAGE)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    return module


def test_without_tensorrt_there_is_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert device.version() is None


def test_it_is_imported_with_the_real_bindings(rtx: Any) -> None:
    assert device.version() == rtx.__version__
    strong = 1 << int(rtx.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    assert engine._network_flags(rtx, {"precision": "fp16"}) == strong
    # No flag for a precision is left here, as in TensorRT 11: types say it, on a DLA too.
    assert engine._network_flags(rtx, {"precision": "fp16", "accelerator": "dla"}) == strong


@pytest.mark.filterwarnings("ignore:.*Timing cache operations are no-ops in TensorRT-RTX:DeprecationWarning")
def test_two_builds_give_the_same_bytes_and_the_timing_cache_is_taken_back(tmp_path: Path, rtx: Any) -> None:
    model = str(tmp_path / "model.onnx")
    onnx.save(conv_net()[0], model)
    options = {"precision": "fp32", "timing_caches": str(tmp_path), "workspace_bytes": 1 << 28}
    first, timing, _ = device.plan(model, options, device.Log())
    second, _, _ = device.plan(model, options, device.Log(), timing)
    assert timing
    assert bytes(memoryview(first)) == bytes(memoryview(second))


def test_every_call_that_runs_an_engine_exists_in_the_real_bindings(rtx: Any) -> None:
    engine = ("num_io_tensors", "get_tensor_name", "get_tensor_mode", "get_tensor_dtype", "get_tensor_shape")
    making = ("create_execution_context", "create_engine_inspector")
    context = ("execute_async_v3", "set_tensor_address", "set_input_shape", "get_tensor_shape", "profiler")
    assert [name for name in engine + making if not hasattr(rtx.ICudaEngine, name)] == []
    assert [name for name in context if not hasattr(rtx.IExecutionContext, name)] == []


def test_without_a_gpu_the_session_says_so(tmp_path: Path, rtx: Any) -> None:
    with pytest.raises(device.Problem) as caught:
        device.Session({"entry": device.ENGINE}, str(tmp_path), {})
    assert caught.value.kind == "environment"
    assert "libcudart" in str(caught.value) or "CUDA driver" in str(caught.value)


def test_an_artifact_without_an_engine_is_refused(tmp_path: Path, rtx: Any) -> None:
    with pytest.raises(device.Problem, match="holds no engine") as caught:
        device.Session({"entry": "model.onnx"}, str(tmp_path), {})
    assert caught.value.kind == "model"


#: As the inspector's JSON is documented for TensorRT 8.5, 10 and 11; no real one has been seen yet.
EIGHT = {
    "Name": "conv1 + relu1",
    "LayerType": "CaskConvolution",
    "Inputs": [{"Name": "x", "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"}],
    "Outputs": [{"Name": "y", "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"}],
}
TEN = {
    "Name": "myelin_1",
    "LayerType": "kgen",
    "Inputs": [{"Name": "x", "Format/Datatype": "Float"}],
    "Outputs": [],
    "Metadata": "[ONNX Layer: dense]\x1e[ONNX Layer: add]",
}


ELEVEN = {
    "Name": "conv2",
    "LayerType": "CaskConvolution",
    "Inputs": [{"Name": "x", "Format": "Row major linear (kLINEAR)", "DataType": "Half"}],
    "Outputs": [],
}


def test_layers_are_read_with_their_precision_and_nodes() -> None:
    first, second = device.described_layer(EIGHT), device.described_layer(TEN)
    assert (first["precision"], first["nodes"]) == ("int8", ["conv1", "relu1"])
    assert (second["precision"], second["nodes"]) == ("fp32", ["myelin_1", "dense", "add"])
    assert device.described_layer(ELEVEN)["precision"] == "fp16"
    assert device.described_layer("only a name")["precision"] == "unknown"


def test_silent_precision_loss_is_found() -> None:
    found = [device.described_layer(layer) for layer in (EIGHT, TEN)]
    assert device.lost_precision(found, {"conv1": "int8", "dense": "fp16"}) == ["dense"]
    assert device.lost_precision(found, {"conv1": "int8", "dense": "fp32", "unseen": "int8"}) == []
    assert device.lost_precision(found, {"unseen": "fp16"}) == ["unseen"]


def test_nvmap_is_read_by_its_total() -> None:
    text = "CLIENT PROCESS PID SIZE\nuser python3 1234 5678K\ntotal                     123456K\n"
    assert device.nvmap_bytes(text) == 123456 * 1024
    assert device.nvmap_bytes("") is None
    assert device.accelerator_memory()["source"] in {"nvmap", "NVML", "unknown"}


#: The builder's words for where layers went, after https://github.com/NVIDIA/TensorRT/issues/3143; none seen here yet.
DLA_LINES = [
    "INFO ---------- Layers Running on DLA ----------",
    "INFO [DlaLayer] {ForeignNode[conv1...relu9]}",
    "INFO ---------- Layers Running on GPU ----------",
    "INFO [GpuLayer] SOFTMAX: softmax",
    "INFO [GpuLayer] SHUFFLE: flatten",
]


def test_layers_that_fell_back_to_the_gpu_are_told() -> None:
    found = device.placed(DLA_LINES, ["gather", "softmax"])
    assert found == {"on_dla": ["{ForeignNode[conv1...relu9]}"], "fell_back": ["flatten", "gather", "softmax"]}


def test_inside_a_dla_no_precision_is_missed() -> None:
    found = [device.described_layer({"Name": "{ForeignNode[conv1...relu9]}", "LayerType": "DLA"})]
    assert device.lost_precision(found, {"conv1": "fp16"}) == ["conv1"]
    assert device.lost_precision(found, {"conv1": "fp16"}, hidden=True) == []
    fell = [*found, device.described_layer(TEN)]
    assert device.lost_precision(fell, {"conv1": "fp16", "dense": "fp16"}, hidden=True) == ["dense"]


def test_progress_is_told_by_phases_while_an_engine_is_built(tmp_path: Path, rtx: Any) -> None:
    told: list[tuple[str, float, float | None]] = []
    onnx.save(conv_net()[0], str(tmp_path / "model.onnx"))
    device.plan(str(tmp_path / "model.onnx"), {"precision": "fp32"}, device.Log(lambda *said: told.append(said)))
    assert told
    assert all(phase and total is not None and 0 <= done <= total for phase, done, total in told)


def test_without_phases_the_log_is_the_progress() -> None:
    told: list[tuple[str, float, float | None]] = []
    log = device.Log(lambda *said: told.append(said))
    for line in ("first", "soon after"):
        log.add("Severity.INFO", line)
    assert told == [("first", 1, None)]


def test_facts_of_a_machine_without_a_gpu_are_none(rtx: Any) -> None:
    assert device.facts() == {}
    assert device.version_text(12060) == "12.6"
