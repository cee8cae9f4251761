"""What is compiled answers like the model, runs in the precision that it says, and is the same bytes every time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from edgebuild.backends.ort.host import OnnxRuntime, OptimizeOnnx, ShipOnnx
from edgebuild.backends.ov.host import OpenVino
from edgebuild.backends.protocol import CompileRequest
from edgebuild.core.artifact import Contract, Fp16Meaning, Int8Scheme, Precision, TensorSpec
from edgebuild.core.steps import RunsOn
from edgebuild.devices.runner.facts import KERNEL_SWITCHES
from edgebuild.errors import ModelError, UsageError
from tests.backends.nets import FP16, FP32, Bench, conv_net, data_folder, images, manifest, model

BF16 = Precision(kind="bf16")
#: Unless oneDNN is told to leave them alone, as where the suite is run as on a lesser CPU.
HAS_BF16 = (
    bool({"avx512_bf16", "amx_bf16"} & set(Path("/proc/cpuinfo").read_text().split()))
    and "ONEDNN_MAX_CPU_ISA" not in os.environ
)
INT8 = Precision(kind="int8", scheme=Int8Scheme(activations="uint8"), quantiser="onnxruntime")


def quantised(folder: Path) -> tuple[Any, Contract]:
    """``conv_net`` in explicit Q/DQ, by onnxruntime's quantiser."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    net, contract = conv_net(channels=16)
    source, target = folder / "float.onnx", folder / "int8.onnx"
    onnx.save(net, str(source))

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = [{"image": image[None]} for image in images(8)["image"]]

        def get_next(self) -> dict[str, Any] | None:
            return self.left.pop() if self.left else None

    quantize_static(
        str(source),
        str(target),
        Reader(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
    )
    return onnx.load(str(target)), contract


def test_a_model_optimised_by_the_device_answers_as_one_optimised_on_load(tmp_path: Path) -> None:
    bench = Bench.open(tmp_path)
    data = data_folder(tmp_path / "data", images(6))
    for name, (net, contract), precision in (("fp32", conv_net(), FP32), ("int8", quantised(tmp_path), INT8)):
        offline = bench.compile("onnxruntime", net, contract, name=f"{name}-offline", precision=precision)
        on_load = bench.compile(
            "onnxruntime", net, contract, name=f"{name}-on-load", precision=precision, on_device=False
        )
        assert dict(manifest(offline).load) == {"optimized": True}
        assert dict(manifest(on_load).load) == {}
        left, right = bench.evaluate(offline, data)[0]["logits"], bench.evaluate(on_load, data)[0]["logits"]
        assert np.array_equal(left, right)


def test_half_precision_files_keep_their_size(tmp_path: Path) -> None:
    bench = Bench.open(tmp_path)
    net, contract = conv_net(channels=64)
    for tensor in net.graph.initializer:
        half = onnx.numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(onnx.numpy_helper.from_array(half, f"{tensor.name}.half"))
    casts = [helper.make_node("Cast", [f"{n}.half"], [n], to=onnx.TensorProto.FLOAT) for n in ("w1", "w2", "w3")]
    for cast in reversed(casts):
        net.graph.node.insert(0, cast)
    artifact = manifest(bench.compile("onnxruntime", net, contract, precision=FP16))
    assert artifact.size_bytes == len(net.SerializeToString())
    assert dict(artifact.load) == {}


def test_ir_in_half_precision_is_half_as_large_and_computed_in_single(tmp_path: Path) -> None:
    bench = Bench.open(tmp_path)
    net, contract = conv_net(channels=64)
    full = bench.compile("openvino", net, contract, name="full")
    half = bench.compile("openvino", net, contract, name="half", precision=FP16)
    size = {path: (path / "model.bin").stat().st_size for path in (full, half)}
    assert size[half] <= 0.51 * size[full]
    data = data_folder(tmp_path / "data", images(4))
    assert {layer["precision"] for layer in bench.call("layers", half, data)["layers"]} == {"fp32"}
    left, right = bench.evaluate(full, data)[0]["logits"], bench.evaluate(half, data)[0]["logits"]
    assert 0 < np.abs(left - right).max() < 0.05


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_layers_say_what_really_runs(tmp_path: Path, runtime: str) -> None:
    bench = Bench.open(tmp_path)
    data = data_folder(tmp_path / "data", images(4))
    net, contract = conv_net(channels=16)
    floats = bench.call("layers", bench.compile(runtime, net, contract), data)["layers"]
    net, contract = quantised(tmp_path)
    ints = bench.call("layers", bench.compile(runtime, net, contract, name="int8", precision=INT8), data)["layers"]
    convolutions = [
        [layer["precision"] for layer in found if "Conv" in layer["op"] and layer["op"] != "Convert"]
        for found in (floats, ints)
    ]
    assert convolutions == [["fp32", "fp32"], ["int8", "int8"]]
    assert any((layer["time_us"] or 0) > 0 for layer in floats)


def test_float_layers_never_run_in_bfloat16_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for switch in KERNEL_SWITCHES:
        monkeypatch.delenv(switch, raising=False)
    bench = Bench.open(tmp_path)
    net, contract = conv_net(channels=64)
    artifact, data = bench.compile("openvino", net, contract), data_folder(tmp_path / "data", images(2))
    assert {layer["precision"] for layer in bench.call("layers", artifact, data)["layers"]} == {"fp32"}
    asked = bench.call("layers", artifact, data, settings={"inference_precision": "bf16"})["layers"]
    # Without these instructions OpenVINO either computes in fp32 or emulates: both answer what was asked.
    if "avx512_bf16" in str(bench.client.call("probe", {}, time_limit_s=60.0)["isa"]):
        assert "bf16" in {layer["precision"] for layer in asked}


def test_every_setting_is_taken(tmp_path: Path) -> None:
    bench = Bench.open(tmp_path)
    net, contract = conv_net()
    data = data_folder(tmp_path / "data", images(3))
    settings: dict[str, list[dict[str, Any]]] = {
        "onnxruntime": [{"threads": 2, "spinning": False, "arena": False}, {"threads": 1, "spinning": True}],
        "openvino": [
            {"threads": 1, "hint": "throughput", "streams": 1, "pinning": False},
            {"hint": "latency", "inference_precision": "f32"},
        ],
    }
    for runtime, choices in settings.items():
        artifact = bench.compile(runtime, net, contract)
        answers = [bench.evaluate(artifact, data, settings=choice)[0]["logits"] for choice in choices]
        assert np.abs(answers[0] - answers[1]).max() < 1e-4


@pytest.mark.parametrize("backend", [OnnxRuntime(), OpenVino()], ids=lambda each: each.name)
@pytest.mark.parametrize("more", [{"accelerator": "dla"}, {"features": ("2:4",)}], ids=str)
def test_what_a_profile_may_not_name_is_refused(backend: Any, more: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"{backend.name} has no (accelerator 'dla'|feature '2:4')"):
        backend.compile_step(CompileRequest(precision=FP32, contract=conv_net()[1], **more))


def test_where_steps_run() -> None:
    _, contract = conv_net()
    ort = OnnxRuntime()
    assert ort.compile_step(CompileRequest(precision=FP32, contract=contract)).runs_on is RunsOn.HOST
    assert isinstance(ort.compile_step(CompileRequest(precision=FP16, contract=contract, on_device=True)), ShipOnnx)
    device = ort.compile_step(CompileRequest(precision=FP32, contract=contract, on_device=True))
    assert isinstance(device, OptimizeOnnx)
    assert device.runs_on is RunsOn.DEVICE
    assert (
        OpenVino().compile_step(CompileRequest(precision=FP32, contract=contract, on_device=True)).runs_on
        is RunsOn.HOST_KERNELS
    )


def test_fp16_arithmetic_is_refused_where_the_cpu_has_none() -> None:
    compute = Precision(kind="fp16", fp16=Fp16Meaning.COMPUTE)
    for backend, isa in ((OnnxRuntime(), "asimdhp"), (OpenVino(), "avx512_fp16")):
        assert backend.refuse(compute, {"isa": "avx2 f16c"}) is not None
        assert backend.refuse(compute, {"isa": isa}) is None
        assert backend.refuse(FP16, {"isa": "avx2 f16c"}) is None


CUSTOM = Contract(
    inputs=(TensorSpec(name="x", shape=(1, 2), dtype="float32"),),
    outputs=(TensorSpec(name="y", shape=(1, 2), dtype="float32"),),
)


def custom_net() -> Any:
    return model([helper.make_node("Foo", ["x"], ["y"], domain="my.ops")], CUSTOM, {}, domains=("my.ops",))


def test_bf16_is_refused_where_the_cpu_has_none() -> None:
    backends = ((OnnxRuntime(), "asimd bf16"), (OpenVino(), "avx512_bf16"), (OpenVino(), "amx_bf16"))
    for backend, isa in backends:
        assert backend.refuse(BF16, {"isa": "avx2 avx512_vnni"}) is not None
        assert backend.refuse(BF16, {"isa": isa}) is None
    assert OnnxRuntime().refuse(BF16, {"isa": "avx512_bf16"}) is not None, "its bf16 kernels are for Arm"


@pytest.mark.skipif(not HAS_BF16, reason="this CPU has no bf16 arithmetic")
def test_layers_really_run_in_bf16(tmp_path: Path) -> None:
    """The file is that of fp32, the answers are a little off, and the runtime says what its layers run in."""
    bench = Bench.open(tmp_path)
    net, contract = conv_net(channels=32)
    data = data_folder(tmp_path / "data", images(6))
    kept = {
        each.label: bench.compile("openvino", net, contract, precision=each, name=each.label) for each in (FP32, BF16)
    }
    plain, half = (bench.evaluate(folder, data)[0]["logits"] for folder in kept.values())
    assert not np.array_equal(plain, half)
    assert np.allclose(plain, half, atol=0.05 * float(np.abs(plain).max()))
    said = {layer["precision"] for layer in bench.call("layers", kept["bf16"], data)["layers"]}
    assert "bf16" in said
    assert (kept["fp32"] / "model.bin").read_bytes() == (kept["bf16"] / "model.bin").read_bytes()


def test_onnxruntime_is_told_of_bf16_when_it_loads(tmp_path: Path) -> None:
    net, contract = conv_net()
    bench = Bench.open(tmp_path)
    data = data_folder(tmp_path / "data", images(2))
    for on_device in (True, False):
        artifact = bench.compile("onnxruntime", net, contract, precision=BF16, on_device=on_device, name=str(on_device))
        assert dict(manifest(artifact).load)["bf16"] is True
        assert bench.evaluate(artifact, data)[0]["logits"].shape == (2, 10)


def test_operators_of_an_unnamed_library_are_refused_by_onnxruntime(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"uses operators of my\.ops, which ONNX Runtime doesn't have") as caught:
        Bench.open(tmp_path).compile("onnxruntime", custom_net(), CUSTOM)
    assert "shared library" in caught.value.hint


def test_an_operator_that_openvino_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"OpenVINO can't convert model\.onnx: .*my\.ops\.Foo"):
        Bench.open(tmp_path).compile("openvino", custom_net(), CUSTOM)


def test_a_named_library_is_shipped_and_a_bad_one_told(tmp_path: Path) -> None:
    library = tmp_path / "libfoo.so"
    library.write_bytes(b"not a library")
    bench = Bench.open(tmp_path)
    artifact = bench.compile("onnxruntime", custom_net(), CUSTOM, libraries=(library,))
    assert [file.path for file in manifest(artifact).files] == ["libfoo.so", "model.onnx"]
    data = data_folder(tmp_path / "data", {"x": np.zeros((1, 2), dtype=np.float32)})
    with pytest.raises(ModelError, match=r"The custom-op library libfoo\.so can't be loaded"):
        bench.evaluate(artifact, data)


def test_a_damaged_model_is_told_by_each_backend(tmp_path: Path) -> None:
    bench = Bench.open(tmp_path)
    with pytest.raises(ModelError, match=r"Can't read .*model\.onnx"):
        bench.compile("onnxruntime", b"\xff\xff not onnx", CUSTOM)
    with pytest.raises(ModelError, match=r"OpenVINO can't convert model\.onnx"):
        bench.compile("openvino", b"\xff\xff not onnx", CUSTOM)


def test_an_artifact_with_a_missing_file_is_told(tmp_path: Path) -> None:
    bench = Bench.open(tmp_path)
    net, contract = conv_net()
    artifact = bench.compile("openvino", net, contract)
    (artifact / "model.bin").unlink()
    with pytest.raises(ModelError, match=r"The artifact's file .*model\.bin is missing"):
        bench.evaluate(artifact, data_folder(tmp_path / "data", images(1)))


def test_a_contract_that_is_not_the_models_is_told(tmp_path: Path) -> None:
    bench = Bench.open(tmp_path)
    net, contract = conv_net()
    other = contract.model_copy(update={"outputs": (TensorSpec(name="boxes", shape=(1, 4), dtype="float32"),)})
    data = data_folder(tmp_path / "data", images(1))
    with pytest.raises(ModelError, match="The compiled model and its contract differ in boxes"):
        bench.evaluate(bench.compile("onnxruntime", net, other), data)


def test_openvino_has_no_telemetry_to_send_with(tmp_path: Path) -> None:
    code = (
        "import sys; from edgebuild.backends.ov.host import import_openvino\n"
        "ov = import_openvino()\n"
        "from openvino.tools.ovc import telemetry_utils\n"
        "print(sys.modules['openvino_telemetry'], telemetry_utils.tm.__name__)"
    )
    home = {**os.environ, "HOME": str(tmp_path)}
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=home)
    assert said.stdout == "None openvino.tools.ovc.telemetry_stub\n"
    assert list(tmp_path.iterdir()) == []
