"""The cross-check on real runtimes: kernels that are right, and kernels whose sums really saturate."""

from __future__ import annotations

import platform
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgebuild.backends.protocol import CompileRequest
from edgebuild.building import proving
from edgebuild.building.context import BuildContext, Options, open_build
from edgebuild.building.crosscheck import cross_check
from edgebuild.building.evaluation import CompiledCandidate
from edgebuild.building.splits import JudgedSplit
from edgebuild.catalogue.project import load_project
from edgebuild.core.artifact import Contract, Int8Scheme, Precision, StateLink, TensorSpec
from edgebuild.core.artifact_files import read_artifact
from edgebuild.core.data import Sample
from edgebuild.core.steps import NoProgress, RunsOn, Step
from edgebuild.crosscheck import steps as crosscheck_steps
from edgebuild.devices.client import RunnerClient
from edgebuild.devices.local import LocalDevice
from edgebuild.models.dataset import write_dataset
from edgebuild.planning.plan import PlannedCandidate
from tests.cli.example import write_project

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from edgebuild.core.steps import StepContext
    from edgebuild.core.verdict import CrossCheck

WIDE, CLASSES = 64, 8
PRECISION = Precision(kind="int8", scheme=Int8Scheme(activations="uint8"), quantiser="edgebuild")
PLAIN = Contract(
    inputs=(TensorSpec(name="x", shape=(1, WIDE), dtype="float32"),),
    outputs=(TensorSpec(name="y", shape=(1, CLASSES), dtype="float32"),),
)
RECURRENT = PLAIN.model_copy(
    update={
        "state": (StateLink(input="h", output="h_next"),),
        "state_specs": (TensorSpec(name="h", shape=(1, WIDE), dtype="float32"),),
    }
)


class Written(Step):
    """A folder with a model and a data set, as a step's result."""

    name: str
    model_hex: str
    contract: Contract
    kind: ClassVar[str] = "written-by-a-test"
    version: ClassVar[int] = 1
    runs_on: ClassVar[RunsOn] = RunsOn.HOST

    def run(self, inputs: Mapping[str, Path], out_dir: Path, ctx: StepContext) -> None:
        del inputs
        (out_dir / "model.onnx").write_bytes(bytes.fromhex(self.model_hex))
        random = np.random.default_rng(0)
        steps = (3,) if self.contract.state else ()
        samples = [Sample(inputs={"x": random.uniform(0.6, 1, (*steps, WIDE)).astype(np.float32)}) for _ in range(40)]
        write_dataset(
            samples,
            out_dir,
            specs=self.contract.inputs,
            stateful=bool(steps),
            source="a test",
            task=NoProgress(),
            check=ctx.check,
        )


def quantised_net(*, largest: int, recurrent: bool = False, batch: int = 1) -> bytes:
    """Two dense layers in explicit Q/DQ; the second one's weights are all near ``largest``, so that its sums are big.

    With 127 a pair of products is about 255 · 127 · 2 = 64770, twice what 16 bits hold.
    """
    random = np.random.default_rng(1)
    constants = {
        "scale": np.float32(1 / 255),
        "wide_scale": np.float32(WIDE / 255),
        "zero": np.uint8(0),
        "first_codes": np.diag(np.full(WIDE, 64)).astype(np.int8),
        "first_scale": np.float32(1 / 64),
        "second_codes": random.integers(largest - 20, largest + 1, (WIDE, CLASSES)).astype(np.int8),
        "second_scale": np.full(CLASSES, 1 / largest, np.float32),
        "half": np.float32(0.5),
    }

    def pair(tensor: str, scale: str, out: str) -> list[Any]:
        return [
            helper.make_node("QuantizeLinear", [tensor, scale, "zero"], [f"{out}_codes"]),
            helper.make_node("DequantizeLinear", [f"{out}_codes", scale, "zero"], [out]),
        ]

    mixed = [
        helper.make_node("Add", ["x", "h"], ["sum"]),
        helper.make_node("Mul", ["sum", "half"], ["mixed"]),
    ]
    nodes = [
        *(mixed if recurrent else []),
        *pair("mixed" if recurrent else "x", "scale", "input"),
        helper.make_node("DequantizeLinear", ["first_codes", "first_scale"], ["first_weight"]),
        helper.make_node("MatMul", ["input", "first_weight"], ["a"], name="first"),
        *pair("a", "scale", "hidden"),
        helper.make_node("DequantizeLinear", ["second_codes", "second_scale"], ["second_weight"], axis=1),
        helper.make_node("MatMul", ["hidden", "second_weight"], ["b"], name="second"),
        *pair("b", "wide_scale", "scores"),
        helper.make_node("Identity" if not recurrent else "Relu", ["scores"], ["y"]),
        *([helper.make_node("Identity", ["hidden"], ["h_next"])] if recurrent else []),
    ]
    names = [("x", WIDE), *([("h", WIDE)] if recurrent else [])]
    outputs = [("y", CLASSES), *([("h_next", WIDE)] if recurrent else [])]
    made = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, size]) for name, size in names],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, size]) for name, size in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    found: bytes = helper.make_model(
        made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    ).SerializeToString()
    return found


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BuildContext]:
    folder = write_project(tmp_path_factory.mktemp("cross") / "project", {})
    with open_build(load_project(folder), Options(), progress=NoProgress()) as opened:
        yield opened


def checked(context: BuildContext, runtime: str, model: bytes, contract: Contract = PLAIN, **more: Any) -> CrossCheck:
    """Compile for a runtime, evaluate on validation, cross-check, as a build does."""
    made = context.run(Written(name=runtime, model_hex=model.hex(), contract=contract), {}, label="written")
    backend = context.backends[runtime]
    step = backend.compile_step(CompileRequest(precision=PRECISION, contract=contract, on_device=True))
    compiled = context.run(step, {"model": made}, label="compile")
    artifact = read_artifact(compiled.path)
    artifact = artifact.with_settings(backend.default_settings(1))
    planned = PlannedCandidate(
        profile=runtime,
        backend=runtime,
        precision=PRECISION,
        settings=(artifact.settings,),
        raced=True,
        **more,
    )
    split = JudgedSplit(split="validation", name="validation", data=made, reference=made)
    outputs = proving.evaluate(context, artifact, compiled, split, "net")
    candidate = CompiledCandidate(planned=planned, contract=contract, model=made, artifact=artifact, compiled=compiled)
    return cross_check(context, candidate, made, outputs)


def without_vnni(context: BuildContext, runtime: str, monkeypatch: pytest.MonkeyPatch) -> BuildContext:
    """The context on this CPU's kernels without VNNI, or skip with the reason."""
    isa = set(context.probe["isa"].split())
    if platform.machine() != "x86_64" or "avx2" not in isa:
        pytest.skip("VPMADDUBSW, whose sums saturate, is an instruction of x86 with AVX2")
    if runtime == "openvino":
        # OpenVINO's int8 kernels are oneDNN's, which has a switch of its own.
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    elif isa & {"avx512_vnni", "avx_vnni"}:
        pytest.skip("this CPU has VNNI, and ONNX Runtime has no switch against it: its sums don't saturate here")
    return replace(context, executor=context.executor.on({"kernels": f"{runtime} without VNNI"}, device=context.client))


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_sums_that_saturate_are_found_and_the_layer_is_named(
    context: BuildContext, runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = checked(without_vnni(context, runtime, monkeypatch), runtime, quantised_net(largest=127))
    assert found.cause == "layer"
    assert found.counts
    assert found.layer is not None
    assert (found.layer.node, found.layer.op) == ("second", "MatMul")
    assert "saturate in 16 bits" in found.layer.why
    assert found.steps is not None
    assert found.steps > 10
    assert found.sample == "32 of 40 validation frames, spread evenly"


class Noting:
    """A backend that notes how it is asked to compile, and leaves out what it doesn't have."""

    def __init__(self, backend: Any) -> None:
        self.backend, self.requests = backend, list[CompileRequest]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

    def compile_step(self, request: CompileRequest) -> Any:
        self.requests.append(request)
        return self.backend.compile_step(request.model_copy(update={"accelerator": None, "features": ()}))


def test_the_layers_are_shown_of_what_the_candidate_is(context: BuildContext, monkeypatch: pytest.MonkeyPatch) -> None:
    there = without_vnni(context, "openvino", monkeypatch)
    noting = Noting(there.backends["openvino"])
    there = replace(there, backends={**there.backends, "openvino": noting})
    found = checked(there, "openvino", quantised_net(largest=124), accelerator="npu", features=("2:4",))
    assert found.cause == "layer"
    asked = noting.requests[-1]
    assert len(asked.contract.outputs) > len(PLAIN.outputs), "the variant that shows its layers"
    assert (asked.precision, asked.accelerator, asked.features) == (PRECISION, "npu", ("2:4",))
    assert asked.on_device


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_the_same_net_with_weights_in_7_bits_has_no_gap(
    context: BuildContext, runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = checked(without_vnni(context, runtime, monkeypatch), runtime, quantised_net(largest=63))
    assert (found.cause, found.layer) == ("agrees", None)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_recurrent_state_is_the_artifacts_own_at_every_step(context: BuildContext, runtime: str) -> None:
    found = checked(context, runtime, quantised_net(largest=63, recurrent=True), RECURRENT)
    assert found.cause == "agrees"
    assert found.frames == 30
    assert found.sample == "30 of 120 validation frames, spread evenly"


def test_batches_are_compared_frame_by_frame(context: BuildContext, monkeypatch: pytest.MonkeyPatch) -> None:
    batched = Contract(
        inputs=(TensorSpec(name="x", shape=(6, WIDE), dtype="float32"),),
        outputs=(TensorSpec(name="y", shape=(6, CLASSES), dtype="float32"),),
    )
    there = without_vnni(context, "openvino", monkeypatch)
    right = checked(there, "openvino", quantised_net(largest=63, batch=6), batched)
    assert (right.cause, right.frames) == ("agrees", 32)
    wrong = checked(there, "openvino", quantised_net(largest=127, batch=6), batched)
    assert wrong.layer is not None
    assert wrong.layer.node == "second"


def test_a_model_without_quantised_tensors_is_not_checked_and_says_so(context: BuildContext) -> None:
    made = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, WIDE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, CLASSES])],
        [numpy_helper.from_array(np.ones((WIDE, CLASSES), np.float32), "w")],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    found = checked(context, "onnxruntime", model.SerializeToString())
    assert found.cause == "not checked"
    assert "no output comes from a tensor that is quantised" in found.explanation


def test_layers_too_large_to_fetch_are_not_looked_at_and_a_large_gap_is_refused(
    context: BuildContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crosscheck_steps, "SHOWN_BYTES", 16)
    there = without_vnni(context, "openvino", monkeypatch)
    there = replace(there, executor=there.executor.on({"kernels": "small"}, device=there.client))
    found = checked(there, "openvino", quantised_net(largest=126))
    assert (found.cause, found.refuses, found.layer) == ("unexplained", True, None)
    assert "the layers can't be checked: its layers take 0 MB a call" in found.explanation


#: Device code that crashes on what shows more outputs than ``y``.
CRASHING = """

import os as _os
import signal as _signal

_Session = Session


class Session(_Session):
    def __init__(self, artifact, folder, settings):
        if len(artifact["contract"]["outputs"]) > 1:
            _os.kill(_os.getpid(), _signal.SIGSEGV)
        super().__init__(artifact, folder, settings)
"""


def test_what_crashes_only_while_it_shows_its_layers_is_not_the_candidates_crash(
    context: BuildContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = without_vnni(context, "openvino", monkeypatch)
    code = tmp_path / "crashing_device.py"
    code.write_text(there.backends["openvino"].device_file.read_text() + CRASHING)
    client = RunnerClient(LocalDevice(tmp_path / "device"), {"openvino": code})
    there = replace(there, client=client, executor=there.executor.on({"kernels": "crashing"}, device=client))
    found = checked(there, "openvino", quantised_net(largest=125))
    assert (found.cause, found.layer) == ("unexplained", None)
    assert "not explained: the layers can't be checked: The runner on" in found.explanation
    assert "SIGSEGV" in found.explanation
