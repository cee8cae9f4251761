"""Answers that were altered on their way, or made up: one sentence, nothing kept, and the next try works."""

from __future__ import annotations

import io
import json
import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from onnx import TensorProto, helper, save

from edgebuild.backends.ort.host import OptimizeOnnx
from edgebuild.backends.protocol import write_artifact
from edgebuild.backends.trt.host import BuildEngine
from edgebuild.core.artifact import Artifact, Contract, Precision, TensorSpec
from edgebuild.core.artifact_files import read_artifact
from edgebuild.core.steps import NoProgress, StepContext, never_stop
from edgebuild.core.values import digest_bytes
from edgebuild.crosscheck.steps import ReadLayers
from edgebuild.devices.answers import SCHEMAS
from edgebuild.devices.client import RunnerClient
from edgebuild.devices.probe import read_probe
from edgebuild.devices.runner.throughput import rate
from edgebuild.errors import DeviceError, EdgebuildError, EnvironmentGap
from edgebuild.fleet.wheels import BoardPython, platform_tags
from edgebuild.measuring import side
from edgebuild.measuring.evaluate import EvaluateArtifact
from edgebuild.measuring.protocols import Protocol
from edgebuild.measuring.session import Arm, MeasurementContext, measure
from edgebuild.measuring.session_folder import open_session
from edgebuild.measuring.thermal import hottest_c
from edgebuild.models.outputs import read_outputs
from tests.devices.stub import StubDevice
from tests.mutants import COUNTS, ODD, altered, damaged

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edgebuild.core.measurement import Launch

CONTRACT = Contract(
    inputs=(TensorSpec(name="x", shape=(1, 2), dtype="float32"),),
    outputs=(TensorSpec(name="y", shape=(1, 3), dtype="float32"), TensorSpec(name="z", shape=(), dtype="int64")),
)
ONCE = Protocol(name="certify", launches=1, max_launches=1, sample_s=1.0, warmup_cap_s=1.0)
FRAMES = 4


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def said(name: str, data: bytes) -> dict[str, Any]:
    return {"name": name, "sha256": digest_bytes(data), "size_bytes": len(data)}


def output(name: str, array: Any) -> dict[str, Any]:
    data = npy(array)
    shape = {"dtype": array.dtype.name, "shape": list(array.shape), "non_finite": 0, "first_non_finite_frame": None}
    return {**said(name, data), "file": f"{name}.npy", **shape}


LATENCIES = [1_000, 1_200, 1_100, 1_050, 1_150]
STARTS, ENDS = [0, 10, 900, 1_000, 1_900], [800, 950, 1_700, 1_950, 2_700]
SAMPLES = np.array(LATENCIES, dtype="<i8").tobytes()
FLIGHTS = np.array(STARTS + ENDS, dtype="<i8").tobytes()
ARRAYS: dict[str, Any] = {"y": np.arange(12, dtype=np.float32).reshape(4, 3), "z": np.arange(4, dtype=np.int64)}
MODEL_FILE = "model.onnx"


def model() -> Any:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


OPTIMISED = model().SerializeToString()
ENGINE_FILES = {"engine.plan": b"engine", "build.log": b"log", "layers.json": b"[]"}
LAUNCH = {
    "start_s": 0.1,
    "import_s": 0.2,
    "load_s": 0.3,
    "decode_s": None,
    "decoded_bytes": None,
    "first_inference_s": 0.01,
    "warmup_inferences": 12,
    "settled": True,
    "page_cache": "warm",
    "environment": [{"name": "governor", "value": "performance"}, {"name": "load_before", "value": "0.1"}],
    "invalid": [],
    "warm_load_s": 0.2,
    "samples": "samples.i64",
    "samples_sha256": digest_bytes(SAMPLES),
    "count": 5,
    "median_ns": 1_100,
}
#: A right answer to every operation.
RIGHT: dict[str, Any] = {
    "probe": {
        "arch": "aarch64",
        "cores": 4,
        "isa": ["neon", "asimddp"],
        "runtime": {"onnxruntime": "1.20.0", "openvino": "unknown"},
        "memory_bytes": 8 << 30,
        "python": "3.11.2",
        "temperatures_c": {"cpu (thermal_zone0)": 45.5},
        "steal_ratio": None,
    },
    "stage": {"path": "/stub/cas/abc", "reused": False},
    "evaluate": {
        "frames": FRAMES,
        "samples": FRAMES,
        "batch": 1,
        "seconds": 0.5,
        "outputs": [output(name, array) for name, array in ARRAYS.items()],
        "non_finite": 0,
    },
    "measure": LAUNCH,
    "bursts": {**LAUNCH, "bursts": [3, 2]},
    "throughput": {
        **LAUNCH,
        "samples_sha256": digest_bytes(FLIGHTS),
        "median_ns": 800,
        "requests": 2,
        "concurrent": True,
        "per_s": rate(ENDS, 2),
    },
    "memory": {"baseline_bytes": 10, "load_peak_bytes": 20, "inference_peak_bytes": 30, "pss_peak_bytes": None},
    "energy": {
        "rail": "ina3221 VDD_IN",
        "gross_j_per_inference": 0.1,
        "net_j_per_inference": 0.05,
        "idle_w": 2.0,
        "load_w": 5.0,
    },
    "layers": {"layers": [{"name": "conv/1", "op": "Conv", "precision": "int8", "time_us": 3.5}] * 2},
    "count": {"inferences": 4},
    "compile": {"optimized": True, "difference": 0.0, "files": [said(MODEL_FILE, OPTIMISED)]},
    "python": {
        "version": [3, 11],
        "implementation": "cpython",
        "bits": 64,
        "arch": "aarch64",
        "libc": "glibc 2.36",
        "free_bytes": 10**10,
        "markers": {"os_name": "posix", "python_version": "3.11"},
    },
    "site": {"complete": False, "there_bytes": 17},
    "install": {"path": "/stub/site/abc"},
}
ENGINE = {"version": "10.3.0", "fell_back": ["a"], "on_dla": ["b"], "sparsity": ["c"]}
FILES = {"y.npy": npy(ARRAYS["y"]), "z.npy": npy(ARRAYS["z"]), "samples.i64": SAMPLES, MODEL_FILE: OPTIMISED}


@dataclass
class Ground:
    """A folder with an artifact, data and a model, and a stub that answers."""

    root: Path
    device: StubDevice
    turns: int = 0

    @property
    def client(self) -> RunnerClient:
        """A new client: nothing is remembered of earlier answers."""
        device: Any = self.device
        return RunnerClient(device, {})

    def fresh(self) -> Path:
        """A new folder."""
        self.turns += 1
        path = self.root / f"turn-{self.turns}"
        path.mkdir()
        return path

    def inputs(self) -> dict[str, Path]:
        return {"artifact": self.root / "artifact", "data": self.root / "data", "model": self.root / "model"}

    def context(self) -> StepContext:
        return StepContext(progress=NoProgress(), check=never_stop, seed=0, scratch=self.fresh(), device=self.client)

    def artifact(self) -> Artifact:
        return read_artifact(self.root / "artifact")

    def arm(self) -> Arm:
        folder = self.root / "artifact"
        data = self.root / "data"
        return Arm(id="a", artifact=self.artifact(), folder=folder, inputs=data, inputs_digest="d", keep=True)

    def bench(self, root: Path) -> MeasurementContext:
        client = self.client
        return MeasurementContext(client=client, root=root, progress=NoProgress(), check=never_stop, configuration=())


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ground:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # thousands of folders that nobody needs after a power cut
    for name in ("artifact", "data", "model"):
        (tmp_path / name).mkdir()
    place = Ground(tmp_path, StubDevice(RIGHT, FILES))
    (tmp_path / "artifact" / MODEL_FILE).write_bytes(b"a stub opens nothing")
    fp32 = Precision(kind="fp32")
    write_artifact(tmp_path / "artifact", backend="onnxruntime", entry=MODEL_FILE, contract=CONTRACT, precision=fp32)
    (tmp_path / "data" / "data.json").write_text(json.dumps({"frames": FRAMES}))
    save(model(), str(tmp_path / "model" / MODEL_FILE))
    return place


def ran(place: Ground, step: Any) -> Path:
    """Run a step as the executor does; what it leaves when it raises is thrown away."""
    out = place.fresh()
    step.run(place.inputs(), out, place.context())
    return out


def probe(place: Ground) -> None:
    facts = read_probe(place.client)
    assert all(isinstance(fact, str) and fact.isprintable() and name.isprintable() for name, fact in facts.items())
    hottest = hottest_c(facts)
    assert hottest is None or math.isfinite(hottest)


def stage(place: Ground) -> None:
    assert isinstance(place.client.put_folder(place.root / "data"), str)


def evaluate(place: Ground) -> None:
    out = ran(place, EvaluateArtifact(split="test"))
    for name, array in read_outputs(out).items():
        assert np.array_equal(array, ARRAYS[name])


def launched(place: Ground, protocol: Protocol = ONCE) -> Launch:
    root = place.fresh()
    try:
        found = measure(place.bench(root), protocol, [place.arm()], title="t")
    except EdgebuildError:
        assert not list(root.glob("*/launch-*")), "nothing of it is kept"
        assert not list(root.glob("*/samples*")), "nothing of it is kept"
        raise
    launch = found.measurements["a"].launches[0]
    assert (launch.count, launch.median_ns) == (5, 1_100)
    return launch


def paced(place: Ground) -> None:
    launch = launched(place, ONCE.model_copy(update={"bursts": 2}))
    # A runner that failed among others is tried alone, without bursts.
    assert launch.burst_ns in ((1_100, 1_100), ())


def flown(place: Ground) -> None:
    root = place.fresh()
    place.device.files["samples.i64"] = FLIGHTS
    found = measure(place.bench(root), ONCE.in_flight(), [place.arm()], title="t")
    (launch,) = found.measurements["a"].launches
    assert launch.per_s == pytest.approx(rate(ENDS, 2))


def beside(place: Ground, what: Callable[..., Any]) -> Any:
    root = place.fresh()
    folder = open_session(root, "certify", "k" * 64, {}, remeasure=False)
    try:
        return what(place.bench(root), folder, place.arm())
    except EdgebuildError:
        assert [path.name for path in folder.path.iterdir()] == ["session.json"], "nothing of it is kept"
        raise


def memory(place: Ground) -> None:
    assert beside(place, side.measure_memory).peak_bytes >= 0


def energy(place: Ground) -> None:
    found = beside(place, side.measure_energy)
    assert found is None or math.isfinite(found.net_j_per_inference)


def layers(place: Ground) -> None:
    for layer in beside(place, side.read_layers):
        assert layer.time_us is None or math.isfinite(layer.time_us)
    step = ReadLayers()
    json.loads((ran(place, step) / "layers.json").read_bytes().decode("utf-8"))


def count(place: Ground) -> None:
    assert place.client.call("count", {}, time_limit_s=1.0)["inferences"] >= 1


def compiled(place: Ground) -> None:
    step = OptimizeOnnx(precision=Precision(kind="fp32"), contract=CONTRACT)
    assert (ran(place, step) / MODEL_FILE).read_bytes() in (OPTIMISED, (place.root / "model" / MODEL_FILE).read_bytes())


def python(place: Ground) -> None:
    try:
        found = BoardPython.parse(place.client.call("python", {}, time_limit_s=1.0), "stub")
    except EnvironmentGap:
        return
    assert len(platform_tags(found.arch, found.glibc)) < 2_000


def asked(op: str) -> Callable[[Ground], None]:
    def ask(place: Ground) -> None:
        place.client.call(op, {}, time_limit_s=1.0)

    return ask


CONSUMERS: dict[str, Callable[[Ground], object]] = {
    "probe": probe,
    "stage": stage,
    "evaluate": evaluate,
    "measure": launched,
    "bursts": paced,
    "throughput": flown,
    "memory": memory,
    "energy": energy,
    "layers": layers,
    "count": count,
    "compile": compiled,
    "python": python,
    "site": asked("site"),
    "install": asked("install"),
}


def refusal(consumer: Callable[[Ground], object], place: Ground) -> EdgebuildError | None:
    """Return the sentence that a consumer ends in; any other exception is a fault of ours."""
    try:
        consumer(place)
    except EdgebuildError as error:
        return error
    return None


def test_every_operation_has_a_schema_an_example_and_a_consumer() -> None:
    assert set(SCHEMAS) == set(RIGHT) == set(CONSUMERS)


@pytest.mark.parametrize("op", CONSUMERS)
def test_a_right_answer_is_taken(op: str, place: Ground) -> None:
    CONSUMERS[op](place)


@pytest.mark.parametrize("count", COUNTS)
def test_altered_answers_end_in_one_sentence_and_the_next_one_is_taken(count: int, place: Ground) -> None:
    refused = 0
    for seed in range(count):
        op = tuple(CONSUMERS)[seed % len(CONSUMERS)]
        place.device.answers = {**RIGHT, op: altered(RIGHT[op], seed)}
        place.device.files = dict(FILES)
        error = refusal(CONSUMERS[op], place)
        if error is not None:
            refused += 1
            assert isinstance(error, DeviceError) or op == "evaluate", (seed, error)
            assert len(error.message) < 500, seed
            assert error.message.isprintable(), seed
        if seed % 500 < len(CONSUMERS):
            place.device.answers, place.device.files = dict(RIGHT), dict(FILES)
            CONSUMERS[op](place)
    assert refused > count // 2


@pytest.mark.parametrize("count", COUNTS)
def test_files_damaged_on_their_way_are_never_taken(count: int, place: Ground) -> None:
    uses = {"y.npy": "evaluate", "z.npy": "evaluate", "samples.i64": "measure", MODEL_FILE: "compile"}
    for seed in range(count):
        name = tuple(uses)[seed % len(uses)]
        bad = damaged(FILES[name], seed)
        if bad == FILES[name]:
            continue
        place.device.files = {**FILES, name: bad}
        with pytest.raises(DeviceError, match=r"damaged|can't fetch"):
            CONSUMERS[uses[name]](place)


@pytest.mark.parametrize("count", COUNTS)
def test_files_that_were_made_up_with_their_digests_are_looked_into(count: int, place: Ground) -> None:
    """A device whose disk gives other bytes than were written: the digest is right, the content isn't."""
    taken = 0
    for seed in range(count):
        bad = damaged(FILES["y.npy"], seed)
        first, second = RIGHT["evaluate"]["outputs"]
        outputs = [{**first, **said("y", bad)}, second]
        place.device.answers = {**RIGHT, "evaluate": {**RIGHT["evaluate"], "outputs": outputs}}
        place.device.files = {**FILES, "y.npy": bad}
        try:
            out = ran(place, EvaluateArtifact(split="test"))
        except DeviceError:
            continue
        taken += 1
        assert read_outputs(out)["y"].shape == (4, 3), seed
        assert np.isfinite(read_outputs(out)["y"]).all(), seed
    assert taken, "other numbers of the same kind can't be distinguished from right ones"


@pytest.mark.parametrize(
    ("change", "samples"),
    [
        ({"median_ns": 1_101}, LATENCIES),
        ({"count": 4}, LATENCIES[:4]),
        ({}, [-5, *LATENCIES[1:]]),
        ({"mean_ns": 1_101, "exits": [["end", 5]]}, LATENCIES),
    ],
)
def test_samples_that_say_something_else_than_the_answer_are_no_evidence(
    change: dict[str, Any], samples: list[int], place: Ground
) -> None:
    data = np.array(samples, dtype="<i8").tobytes()
    place.device.answers["measure"] = {**LAUNCH, "samples_sha256": digest_bytes(data), **change}
    place.device.files["samples.i64"] = data
    with pytest.raises(DeviceError, match="samples that don't fit its answer"):
        launched(place)


@pytest.mark.parametrize(
    "change",
    [
        {"frames": 5},
        {"batch": 2},
        {"exits": [["end", 4]]},
        {"outputs": [output("y", ARRAYS["y"])]},
        {"outputs": [output("z", ARRAYS["z"]), output("y", ARRAYS["y"])]},
        {"outputs": [output("y", ARRAYS["y"][:, :2]), output("z", ARRAYS["z"])]},
        {"outputs": [output("y", ARRAYS["y"].astype(np.int32)), output("z", ARRAYS["z"])]},
    ],
)
def test_outputs_that_were_not_asked_for_are_refused(change: dict[str, Any], place: Ground) -> None:
    place.device.answers["evaluate"] = {**RIGHT["evaluate"], **change}
    with pytest.raises(EdgebuildError):
        evaluate(place)


@pytest.mark.parametrize("count", COUNTS)
def test_altered_words_of_a_compiler_are_refused_or_plain(count: int, place: Ground) -> None:
    step = BuildEngine(precision=Precision(kind="fp32"), contract=CONTRACT)
    files = [said(name, data) for name, data in ENGINE_FILES.items()]
    place.device.files = dict(ENGINE_FILES)
    for seed in range(count):
        answer = altered({**ENGINE, "files": files}, seed)
        place.device.answers["compile"] = answer
        step = BuildEngine(precision=Precision(kind="fp32"), contract=CONTRACT)
        out = place.fresh()
        try:
            built = step._built(place.root / "model", {}, out, place.context())
        except DeviceError:
            continue
        assert 0 < len(built["version"]) <= 64, seed
        assert {path.name: path.read_bytes() for path in out.iterdir()} == ENGINE_FILES, seed


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: repr(odd)[:20])
def test_an_odd_answer_in_place_of_an_answer(odd: Any, place: Ground) -> None:
    for op in CONSUMERS:
        place.device.answers[op] = odd
        with pytest.raises(DeviceError):
            CONSUMERS[op](place)
        place.device.answers[op] = RIGHT[op]


@pytest.mark.parametrize("count", COUNTS)
def test_damaged_lines_end_in_one_sentence(count: int, place: Ground) -> None:
    lines = [
        b'{"event": "progress", "phase": "evaluate", "done": 3, "total": 9}',
        json.dumps({"result": RIGHT["probe"]}).encode(),
        b'{"error": {"kind": "model", "message": "No such op.", "hint": "Export it again."}}',
    ]
    for seed in range(count):
        whole = b"\n".join(lines if seed % 2 else reversed(lines))
        place.device.raw = damaged(whole, seed).decode("utf-8", errors="replace").split("\n")
        error = refusal(probe, place)
        assert error is None or len(error.message) < 3_000, seed


@pytest.mark.parametrize(
    "line",
    [
        "[" * 100_000,
        '{"a":' * 5_000 + "1" + "}" * 5_000,
        '{"result": ' + '{"a":' * 50 + "1" + "}" * 51,
        '{"result": {"runtime": {}, "x": 1e999}}',
        '{"result": {"runtime": {}, "x": Infinity}}',
        '{"result": {"runtime": {}, "x": ' + "9" * 10_000 + "}}",
        '{"result": {"runtime": {}, "x": 99999999999999999999}}',
        '{"event": "progress", "done": -1}',
        '{"event": {}}',
        '{"event": "dance"}',
        '{"result": []}',
        '{"protocol": 2, "answer": {}}',
        "",
        "\x00",
        "null",
    ],
    ids=lambda line: line[:40],
)
def test_a_line_that_is_no_message(line: str, place: Ground) -> None:
    place.device.raw = [line]
    with pytest.raises(DeviceError):
        probe(place)


def test_halves_of_surrogate_pairs_become_noticeable_and_whole_ones_stay(place: Ground) -> None:
    place.device.raw = ['{"result": {"runtime": {}, "cpu": "a\\ud800b \\ud83d\\ude00"}}']
    assert read_probe(place.client)["cpu"] == "a\N{REPLACEMENT CHARACTER}b \N{GRINNING FACE}"


def test_an_answer_that_comes_twice_counts_once(place: Ground) -> None:
    line = json.dumps({"result": RIGHT["probe"]})
    place.device.raw = [line, line, "after the end"]
    assert read_probe(place.client)["arch"] == "aarch64"
