"""What the runner evaluates and measures is what a direct session computes, in the shape that ships."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import pytest
from onnx import helper

from edgebuild.core.artifact import ConstantInput, Contract, StateLink, TensorSpec
from edgebuild.core.measurement import Launch, Memory
from edgebuild.devices.answers import samples_of
from edgebuild.errors import DataError, ModelError
from tests.backends.nets import Bench, conv_net, data_folder, images, manifest, model

if TYPE_CHECKING:
    from pathlib import Path

RUNTIMES = ("onnxruntime", "openvino")
#: Another runtime adds in another order.
TOLERANCE = {"onnxruntime": 1e-6, "openvino": 1e-4}


def direct(net: Any, feeds: list[dict[str, Any]]) -> list[Any]:
    session = onnxruntime.InferenceSession(net.SerializeToString(), providers=["CPUExecutionProvider"])
    return [session.run(None, feed) for feed in feeds]


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("batch", [1, 4])
def test_evaluation_equals_a_direct_session_and_drops_padding(tmp_path: Path, runtime: str, batch: int) -> None:
    bench = Bench.open(tmp_path)
    net, contract = conv_net(batch=batch)
    given = images(10)
    outputs, answer = bench.evaluate(bench.compile(runtime, net, contract), data_folder(tmp_path / "data", given))
    padded = np.concatenate([given["image"], np.repeat(given["image"][-1:], 2, axis=0)])
    want = np.concatenate([r[0] for r in direct(net, [{"image": padded[i : i + batch]} for i in range(0, 10, batch)])])
    assert outputs["logits"].shape == (10, 10)
    assert np.abs(outputs["logits"] - want[:10]).max() < TOLERANCE[runtime]
    assert (answer["frames"], answer["samples"], answer["batch"], answer["non_finite"]) == (10, 10, batch, 0)


def recurrent(batch: int) -> tuple[Any, Contract]:
    """h' = tanh(x·w + h·u) · gain; y = h'·v: a state, a constant input, and names with dots and colons."""
    random = np.random.default_rng(0)
    weights = {"w": random.standard_normal((3, 4)), "u": random.standard_normal((4, 4)), "v": np.ones((4, 2))}
    nodes = [
        helper.make_node("MatMul", ["x:0", "w"], ["a"]),
        helper.make_node("MatMul", ["h", "u"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["c"]),
        helper.make_node("Tanh", ["c"], ["d"]),
        helper.make_node("Mul", ["d", "gain"], ["h.next"]),
        helper.make_node("MatMul", ["h.next", "v"], ["y"]),
    ]
    contract = Contract(
        inputs=(TensorSpec(name="x:0", shape=(batch, 3), dtype="float32"),),
        outputs=(TensorSpec(name="y", shape=(batch, 2), dtype="float32"),),
        constants=(ConstantInput(name="gain", dtype="float32", value=0.5),),
        state=(StateLink(input="h", output="h.next"),),
        state_specs=(TensorSpec(name="h", shape=(batch, 4), dtype="float32"),),
    )
    with_constant = contract.model_copy(
        update={"inputs": (*contract.inputs, TensorSpec(name="gain", shape=(), dtype="float32"))}
    )
    return model(nodes, with_constant, weights), contract


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("batch", [1, 2])
def test_state_is_fed_back_and_starts_anew_with_every_sample(tmp_path: Path, runtime: str, batch: int) -> None:
    bench = Bench.open(tmp_path)
    net, contract = recurrent(batch)
    lengths = [4, 1, 3]
    x = np.random.default_rng(1).standard_normal((8, 3)).astype(np.float32)
    data = data_folder(tmp_path / "data", {"x:0": x}, lengths)
    outputs, answer = bench.evaluate(bench.compile(runtime, net, contract), data)

    session = onnxruntime.InferenceSession(net.SerializeToString(), providers=["CPUExecutionProvider"])
    want = []
    for sequence in np.split(x, np.cumsum(lengths)[:-1]):
        state = np.zeros((batch, 4), dtype=np.float32)
        for frame in sequence:
            feed = {"x:0": np.repeat(frame[None], batch, axis=0), "h": state, "gain": np.array(0.5, dtype=np.float32)}
            y, state = session.run(["y", "h.next"], feed)
            want.append(y[:1])
    assert np.abs(outputs["y"] - np.concatenate(want)).max() < TOLERANCE[runtime]
    assert (answer["frames"], answer["samples"]) == (8, 3)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_stateful_launch_calls_with_real_frames_and_ends_well(tmp_path: Path, runtime: str) -> None:
    bench = Bench.open(tmp_path)
    net, contract = recurrent(1)
    x = np.random.default_rng(1).standard_normal((40, 3)).astype(np.float32)
    launch = measured(bench, bench.compile(runtime, net, contract), data_folder(tmp_path / "data", {"x:0": x}, [40]))
    assert launch.count >= 11
    assert {fact.name: fact.value for fact in launch.environment}["distinct_inputs"] == "16"


def measured(bench: Bench, artifact: Path, data: Path, **request: Any) -> Launch:
    """A short launch; its samples are fetched and agree with what it says of them."""
    quick = {"warmup_min_s": 0.1, "warmup_cap_s": 0.3, "sample_s": 0.1, **request}
    with bench.client.workspace() as remote:
        answer = bench.call("measure", artifact, data, out=remote, **quick)
        bench.client.fetch(remote, [samples_of(answer)], bench.root)
    launch = Launch.model_validate({**answer, "index": 0, "arm": "a"})
    raw = (bench.root / launch.samples).read_bytes()
    samples = np.frombuffer(raw, dtype="<i8")
    assert hashlib.sha256(raw).hexdigest() == launch.samples_sha256
    assert len(samples) == launch.count
    assert int(np.median(samples)) == launch.median_ns
    assert samples.min() > 0
    return launch


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_launch_says_how_it_started_and_what_surrounded_it(tmp_path: Path, runtime: str) -> None:
    bench = Bench.open(tmp_path)
    net, contract = conv_net()
    launch = measured(
        bench, bench.compile(runtime, net, contract), data_folder(tmp_path / "data", images(20)), rotate=16
    )
    assert launch.start_s is not None
    assert 0 < launch.start_s < 60
    assert min(launch.import_s, launch.load_s, launch.first_inference_s, launch.warm_load_s or 0.0) > 0
    assert launch.warmup_inferences >= 10
    names = [fact.name for fact in launch.environment]
    assert len(names) == len(set(names))
    assert {
        "governor",
        "steal_ratio",
        "involuntary_switches_per_s",
        "waiting_ratio",
        "clock_step_s",
        "bound.steal_ratio",
    } <= set(names)


def test_few_samples_are_taken_past_the_time_and_none_past_the_room(tmp_path: Path) -> None:
    bench = Bench.open(tmp_path)
    net, contract = conv_net()
    artifact, data = bench.compile("onnxruntime", net, contract), data_folder(tmp_path / "data", images(3))
    assert measured(bench, artifact, data, sample_s=0.0, min_samples=64).count == 64
    assert measured(bench, artifact, data, sample_s=60.0, max_samples=50).count == 50


def test_a_bound_that_cannot_be_kept_invalidates_the_launch_with_its_reason(tmp_path: Path) -> None:
    bench = Bench.open(tmp_path)
    net, contract = conv_net()
    artifact, data = bench.compile("onnxruntime", net, contract), data_folder(tmp_path / "data", images(3))
    launch = measured(bench, artifact, data, bounds={"clock_step_s": -1.0})
    assert [reason for reason in launch.invalid if "the clock was stepped" in reason]


def test_a_few_frames_are_rotated_as_they_are(tmp_path: Path) -> None:
    bench = Bench.open(tmp_path)
    net, contract = conv_net(batch=4)
    artifact, data = bench.compile("onnxruntime", net, contract), data_folder(tmp_path / "data", images(3))
    facts = {fact.name: fact.value for fact in measured(bench, artifact, data).environment}
    assert facts["distinct_inputs"] == "1"


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_memory_grows_from_baseline_to_load_with_the_model(tmp_path: Path, runtime: str) -> None:
    bench = Bench.open(tmp_path)
    contract = Contract(
        inputs=(TensorSpec(name="x", shape=(1, 1024), dtype="float32"),),
        outputs=(TensorSpec(name="y", shape=(1, 8192), dtype="float32"),),
    )
    weight = np.ones((1024, 8192), dtype=np.float32)
    net = model([helper.make_node("MatMul", ["x", "w"], ["y"])], contract, {"w": weight})
    data = data_folder(tmp_path / "data", {"x": np.zeros((1, 1024), dtype=np.float32)})
    memory = Memory.model_validate(
        bench.call("memory", bench.compile(runtime, net, contract), data, inferences=5, seconds=0.2)
    )
    assert memory.load_peak_bytes - memory.baseline_bytes > 0.9 * weight.nbytes
    assert memory.pss_peak_bytes is not None
    assert memory.pss_peak_bytes <= memory.peak_bytes


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_nan_and_infinity_are_counted_with_the_first_frame(tmp_path: Path, runtime: str) -> None:
    bench = Bench.open(tmp_path)
    contract = Contract(
        inputs=(TensorSpec(name="x", shape=(1, 2), dtype="float32"),),
        outputs=(TensorSpec(name="y", shape=(1, 2), dtype="float32"),),
    )
    net = model([helper.make_node("Log", ["x"], ["y"])], contract, {})
    x = np.array([[1, 1], [2, 2], [-1, 3], [0, 1]], dtype=np.float32)
    outputs, answer = bench.evaluate(bench.compile(runtime, net, contract), data_folder(tmp_path / "data", {"x": x}))
    assert (answer["outputs"][0]["non_finite"], answer["outputs"][0]["first_non_finite_frame"]) == (2, 2)
    assert answer["non_finite"] == 2
    assert np.isnan(outputs["y"][2, 0])
    assert np.isneginf(outputs["y"][3, 0])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"image": np.zeros((3, 3, 16, 16))}, r"Input 'image' is float64, the model takes float32\."),
        ({"image": np.zeros((3, 3, 16, 16), ">f4")}, r"Input 'image' is >f4, the model takes float32\."),
        (
            {"image": np.zeros((3, 3, 16, 8), dtype=np.float32)},
            r"Input 'image': a frame has shape \[3, 16, 8\], the model takes \[3, 16, 16\]\.",
        ),
        ({"other": np.zeros((3, 1), dtype=np.float32)}, r"Input 'image': can't read .*image\.npy"),
        ({"image": np.zeros((0, 3, 16, 16), dtype=np.float32)}, "is empty"),
    ],
)
def test_wrong_data_is_named(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    bench = Bench.open(tmp_path)
    net, contract = conv_net()
    artifact = bench.compile("onnxruntime", net, contract)
    with pytest.raises(DataError, match=message):
        bench.evaluate(artifact, data_folder(tmp_path / "data", arrays))


def test_an_output_that_changes_its_shape_is_a_sentence(tmp_path: Path) -> None:
    bench = Bench.open(tmp_path)
    contract = Contract(
        inputs=(TensorSpec(name="x", shape=(1, 4), dtype="float32"),),
        outputs=(TensorSpec(name="y", shape=(1, "found"), dtype="float32"),),
    )
    nodes = [
        helper.make_node("Greater", ["x", "zero"], ["mask"]),
        helper.make_node("Compress", ["x", "flat"], ["z"], axis=1),
        helper.make_node("Squeeze", ["mask", "axis"], ["flat"]),
        helper.make_node("Relu", ["z"], ["y"]),
    ]
    net = model([nodes[0], nodes[2], nodes[1], nodes[3]], contract, {"zero": np.zeros(1)})
    net.graph.initializer.append(helper.make_tensor("axis", 7, [1], [0]))
    x = np.array([[1, 1, -1, -1], [1, 1, 1, -1]], dtype=np.float32)
    with pytest.raises(ModelError, match="Output 'y' changes its shape from call to call"):
        bench.evaluate(bench.compile("onnxruntime", net, contract), data_folder(tmp_path / "data", {"x": x}))


BARE = {
    "onnxruntime": """
session = onnxruntime.InferenceSession(MODEL, providers=["CPUExecutionProvider"])
run = lambda: session.run(None, {"image": image})
""",
    "openvino": """
request = openvino.Core().compile_model(MODEL, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}).create_infer_request()
run = lambda: request.infer([image])
""",
}
PEAK = """
for _ in range(50): run()
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_runner_takes_at_most_15_mb_above_a_bare_script(tmp_path: Path, runtime: str) -> None:
    bench = Bench.open(tmp_path)
    net, contract = conv_net()
    artifact, data = bench.compile(runtime, net, contract), data_folder(tmp_path / "data", images(4))
    memory = Memory.model_validate(bench.call("memory", artifact, data, inferences=50, seconds=0.1))
    known = f"MODEL, DATA = {str(artifact / manifest(artifact).entry)!r}, {str(data)!r}\n"
    # Without its telemetry, which the runner never loads.
    head = f"import sys; sys.modules['openvino_telemetry'] = None\nimport numpy, {runtime}\n"
    script = head + known + "image = numpy.load(DATA + '/image.npy')[:1]\n" + BARE[runtime] + PEAK
    bare = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert memory.peak_bytes - int(bare.stdout) * 1024 <= 15e6
