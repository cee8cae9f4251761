"""Sessions through the real runner and onnxruntime: order, resuming, reuse. What is asserted is behaviour, not time."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save

from edgebuild.backends.protocol import CompileRequest
from edgebuild.backends.table import backends
from edgebuild.core.artifact import Artifact, Contract, Int8Scheme, Precision, TensorSpec
from edgebuild.core.artifact_files import read_artifact, write_manifest
from edgebuild.core.data import Sample
from edgebuild.core.measurement import Fact, Launch
from edgebuild.core.steps import NoProgress, StepContext, never_stop
from edgebuild.core.values import digest_file
from edgebuild.devices.client import RunnerClient
from edgebuild.devices.local import LocalDevice
from edgebuild.errors import DeviceError, Interrupted, RunnerFailed
from edgebuild.measuring import session, side, statistics
from edgebuild.measuring.evaluate import EvaluateArtifact
from edgebuild.measuring.looks import hopeless, open_questions
from edgebuild.measuring.protocols import Protocol
from edgebuild.measuring.samples import samples_reader
from edgebuild.measuring.session import Arm, MeasurementContext, compare_arms, measure
from edgebuild.models.dataset import write_dataset
from edgebuild.models.outputs import read_outputs
from tests.fragile import write_fragile

if TYPE_CHECKING:
    from pathlib import Path

QUICK = Protocol(
    name="screen",
    launches=2,
    max_launches=2,
    sample_s=0.05,
    warmup_min_s=0.02,
    warmup_cap_s=0.02,
    waiting_ratio=1e9,
    steal_ratio=1.0,
)
CERTIFY = QUICK.model_copy(update={"name": "certify"})
ONCE = CERTIFY.model_copy(update={"launches": 1, "max_launches": 1})
SPEC = TensorSpec(name="x", shape=(1, 16), dtype="float32")


def net(folder: Path, layers: int, width: int) -> Path:
    """Dense layers: ``layers`` and ``width`` decide how much work it is."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    nodes, weights, last = [], [], "x"
    for index, (rows, columns) in enumerate([(16, width), *[(width, width)] * layers, (width, 2)]):
        weight = random.standard_normal((rows, columns)).astype(np.float32) / width**0.5
        weights.append(numpy_helper.from_array(weight, f"w{index}"))
        nodes.append(helper.make_node("MatMul", [last, f"w{index}"], [f"m{index}"]))
        last = f"m{index}"
    nodes.append(helper.make_node("Identity", [last], ["out/y"]))
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 16])]
    outputs = [helper.make_tensor_value_info("out/y", TensorProto.FLOAT, [1, 2])]
    graph = helper.make_graph(nodes, "net", inputs, outputs, weights)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), folder / "model.onnx")
    return folder


def compiled(root: Path, *, layers: int, width: int) -> tuple[Artifact, Path]:
    contract = Contract(inputs=(SPEC,), outputs=(TensorSpec(name="out/y", shape=(1, 2), dtype="float32"),))
    step = backends()["onnxruntime"].compile_step(CompileRequest(precision=Precision(kind="fp32"), contract=contract))
    out = root / "artifact"
    out.mkdir(parents=True)
    context = StepContext(progress=NoProgress(), check=never_stop, seed=0, scratch=root)
    step.run({"model": net(root / "model", layers, width)}, out, context)
    return read_artifact(out), out


class Ground:
    """A device, data, a light model and a heavy one; ``calls`` counts what the device was asked to do."""

    def __init__(self, root: Path) -> None:
        table = backends()
        device = LocalDevice(root / "device", name="test-device")
        self.client = RunnerClient(device, {name: backend.device_file for name, backend in table.items()})
        self.data = root / "data"
        self.data.mkdir()
        rows = (Sample(inputs={"x": np.full(16, i, np.float32)}) for i in range(5))
        write_dataset(rows, self.data, specs=(SPEC,), stateful=False, source="d", task=NoProgress(), check=never_stop)
        self.light = compiled(root / "light", layers=0, width=4)
        self.heavy = compiled(root / "heavy", layers=4, width=256)

    def arm(self, name: str, *, heavy: bool = False, threads: int = 1, **more: Any) -> Arm:
        artifact, folder = self.heavy if heavy else self.light
        given = {"contest": "p", **more}
        settings = (("threads", threads), ("spinning", False))
        return Arm(
            id=name,
            artifact=artifact.with_settings(settings),
            folder=folder,
            inputs=self.data,
            inputs_digest=digest_file(self.data / "x.npy"),
            **given,
        )

    def bench(self, root: Path, **more: Any) -> MeasurementContext:
        facts = (Fact(name="kernel", value="6.1"),)
        given = {"check": never_stop, "progress": NoProgress(), "configuration": facts, **more}
        return MeasurementContext(client=self.client, root=root / "measurements", **given)


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    return Ground(tmp_path_factory.mktemp("ground"))


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The arms of the launches that are really made from here on, in order."""
    made: list[str] = []
    really = session._launch

    def launch(run: Any, arm: Arm, *, last: bool) -> Launch:
        found = really(run, arm, last=last)
        made.append(arm.id)
        return found

    monkeypatch.setattr(session, "_launch", launch)
    return made


class Stop:
    """A user who presses Ctrl-C before the launch after the ``after``-th."""

    def __init__(self, made: list[str], after: int) -> None:
        self.made = made
        self.after = after

    def __call__(self) -> None:
        if len(self.made) >= self.after:
            raise Interrupted("stopped")


def test_every_round_launches_every_arm_once_in_the_balanced_order(
    ground: Ground, tmp_path: Path, launches: list[str]
) -> None:
    arms = [ground.arm("a"), ground.arm("b", heavy=True)]
    result = measure(ground.bench(tmp_path, seed=3), CERTIFY, arms, title="t")
    rounds = statistics.order(("a", "b"), 2, 3)
    assert launches == [arm for each in rounds for arm in each]
    assert not result.reused
    assert result.dropped == {}, "certifying drops nobody, however slow"
    assert {name: len(m.launches) for name, m in result.measurements.items()} == {"a": 2, "b": 2}
    assert [m.artifact_digest for m in result.measurements.values()] == [a.artifact.digest() for a in arms]
    indices = sorted(launch.index for m in result.measurements.values() for launch in m.launches)
    assert indices == [0, 1, 2, 3]
    read = samples_reader(result.folder.path)
    for measurement in result.measurements.values():
        assert measurement.device == "test-device"
        for launch in measurement.launches:
            raw = read(launch)
            assert len(raw) == launch.count > 10
            assert launch.median_ns == int(np.median(raw))
            assert (raw > 0).all()
    comparison = compare_arms(result, "a", "b")
    assert comparison is not None
    assert comparison.pairs == sum(
        a.valid and b.valid
        for a, b in zip(result.measurements["a"].launches, result.measurements["b"].launches, strict=True)
    )


def test_an_interrupted_session_goes_on_where_it_was(ground: Ground, tmp_path: Path, launches: list[str]) -> None:
    arms = [ground.arm("a"), ground.arm("b", threads=2)]
    order = [arm for each in statistics.order(("a", "b"), 2, 0) for arm in each]
    with pytest.raises(Interrupted):
        measure(ground.bench(tmp_path, check=Stop(launches, 3)), CERTIFY, arms, title="t")
    assert launches == order[:3]
    (folder,) = (each for each in (tmp_path / "measurements").iterdir() if each.is_dir())
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    launches.clear()
    result = measure(ground.bench(tmp_path), CERTIFY, arms, title="t")
    assert launches == order[3:]
    assert result.folder.path == folder
    assert kept.items() <= {path.name: path.read_bytes() for path in folder.iterdir()}.items(), "evidence is only added"
    by_index = sorted((launch.index, name) for name, m in result.measurements.items() for launch in m.launches)
    assert [name for _, name in by_index] == order


def test_a_whole_session_is_reused_and_remeasuring_makes_a_new_one(
    ground: Ground, tmp_path: Path, launches: list[str]
) -> None:
    arms = [ground.arm("a"), ground.arm("b", threads=2)]
    first = measure(ground.bench(tmp_path), ONCE, arms, title="t")
    launches.clear()
    renamed = [replace(arms[1], id="two"), replace(arms[0], id="one")]
    again = measure(ground.bench(tmp_path), ONCE, renamed, title="another title")
    assert launches == []
    assert again.reused
    assert again.measurements["one"].launches == first.measurements["a"].launches
    assert again.measurements["two"].launches == first.measurements["b"].launches
    again = measure(ground.bench(tmp_path, remeasure=True), ONCE, arms, title="t")
    assert sorted(launches) == ["a", "b"]
    assert again.folder.path != first.folder.path
    assert again.measurements["a"].launches != first.measurements["a"].launches


def test_two_arms_of_one_artifact_stay_two_when_reused(ground: Ground, tmp_path: Path) -> None:
    """As in a bench of a model against itself."""
    arms = [ground.arm("a"), ground.arm("b")]
    first = measure(ground.bench(tmp_path), ONCE, arms, title="t")
    again = measure(ground.bench(tmp_path), ONCE, arms, title="t")
    assert again.reused
    assert {name: m.launches for name, m in again.measurements.items()} == {
        name: m.launches for name, m in first.measurements.items()
    }
    assert len(again.measurements["b"].launches) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"bench": {"configuration": (Fact(name="kernel", value="6.2"),)}},
        {"bench": {"seed": 1}},
        {"arm": {"inputs_digest": "other"}},
        {"arm": {"threads": 2}},
        {"arm": {"heavy": True}},
        {"protocol": {"sample_s": 0.06}},
        {"protocol": {"name": "certify"}},
    ],
    ids=str,
)
def test_evidence_of_something_else_is_not_reused(change: dict[str, Any], ground: Ground, tmp_path: Path) -> None:
    def key(**changed: Any) -> str:
        arm = ground.arm("a", **{k: v for k, v in changed.get("arm", {}).items() if k != "inputs_digest"})
        if "inputs_digest" in changed.get("arm", {}):
            arm = replace(arm, inputs_digest="other")
        protocol = QUICK.model_copy(update=changed.get("protocol", {}))
        return session.session_key(ground.bench(tmp_path, **changed.get("bench", {})), protocol, [arm])

    assert key() == key()
    assert key(**change) != key()


def test_a_hopeless_arm_is_dropped_after_a_round_with_its_reason(
    ground: Ground, tmp_path: Path, launches: list[str]
) -> None:
    arms = [
        ground.arm("light"),
        ground.arm("heavy", heavy=True),
        ground.arm("kept", heavy=True, threads=2, keep=True),
        ground.arm("alone", heavy=True, threads=3, contest="q"),
    ]
    result = measure(ground.bench(tmp_path), QUICK, arms, title="t")
    assert [launches.count(name) for name in ("light", "heavy", "kept", "alone")] == [2, 1, 2, 2]
    assert set(result.dropped) == {"heavy"}
    assert result.dropped["heavy"].endswith("x the latency of light after 1 of 2 screening launches")
    assert len(result.measurements["heavy"].launches) == 1
    launches.clear()
    again = measure(ground.bench(tmp_path), QUICK, arms, title="t")
    assert launches == []
    assert again.dropped == result.dropped


def test_the_anchor_is_launched_at_the_start_the_middle_and_the_end(
    ground: Ground, tmp_path: Path, launches: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "ANCHOR_SAMPLE_S", 0.05)
    anchor = ground.arm(session.ANCHOR, threads=1)
    arms = [ground.arm("b", threads=2)]
    bench = ground.bench(tmp_path, anchor=anchor, check=Stop(launches, 4))
    with pytest.raises(Interrupted):
        measure(bench, CERTIFY, arms, title="t")
    result = measure(replace(bench, check=never_stop), CERTIFY, arms, title="t")
    assert launches == [session.ANCHOR, "b", session.ANCHOR, "b", session.ANCHOR]
    assert len(result.anchor_ms) == 3
    assert list(result.measurements) == ["b"]


def test_memory_and_layers_are_asked_for_once_per_session(
    ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, arm = ground.bench(tmp_path), ground.arm("a")
    result = measure(bench, ONCE, [arm], title="t")
    memory = side.measure_memory(bench, result.folder, arm)
    assert memory.peak_bytes >= memory.baseline_bytes > 1 << 20
    layers = side.read_layers(bench, result.folder, arm)
    assert {layer.precision for layer in layers} == {"fp32"}
    monkeypatch.setattr(ground.client, "call", None)
    assert side.measure_memory(bench, result.folder, arm) == memory
    assert side.read_layers(bench, result.folder, arm) == layers
    again = measure(bench, ONCE, [arm], title="t")
    assert again.measurements["a"].memory == memory


def test_samples_that_arrive_damaged_are_no_evidence(
    ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = ground.client.device.get

    def get(remote: str, destination: Path, **more: int) -> None:
        really(remote, destination, **more)
        destination.write_bytes(destination.read_bytes()[:-8])

    monkeypatch.setattr(ground.client.device, "get", get)
    with pytest.raises(DeviceError, match=r"samples.i64 arrived damaged from test-device"):
        measure(ground.bench(tmp_path), ONCE, [ground.arm("a")], title="t")
    monkeypatch.undo()
    again = measure(ground.bench(tmp_path), ONCE, [ground.arm("a")], title="t")
    assert [launch.index for launch in again.measurements["a"].launches] == [0]


def fake(index: int, median_ns: int, *, valid: bool = True) -> Launch:
    return Launch(
        index=index,
        arm="a",
        samples="s",
        samples_sha256="0",
        count=1,
        median_ns=median_ns,
        import_s=0,
        load_s=0,
        first_inference_s=0,
        warmup_inferences=1,
        settled=True,
        invalid=() if valid else ("disturbed",),
    )


def dropped_after(ground: Ground, count: int, **launches: list[Launch]) -> set[str]:
    """Which arms the rule for hopeless ones drops; the arms' launches are made up, as records of launches may be."""
    return set(hopeless([ground.arm(name) for name in launches], launches, QUICK, count))


def test_a_disturbed_launch_drops_nobody(ground: Ground) -> None:
    fast, slow, disturbed = fake(0, 100), fake(0, 200), fake(0, 900, valid=False)
    assert dropped_after(ground, 1, a=[fast], b=[slow]) == {"b"}
    assert dropped_after(ground, 1, a=[fast], b=[disturbed]) == set()
    assert dropped_after(ground, 1, a=[disturbed], b=[slow]) == set()
    assert dropped_after(ground, 1, a=[fake(0, 10, valid=False)], b=[slow]) == set()
    assert dropped_after(ground, 2, a=[fast, fast], b=[slow, fake(1, 120)]) == set()


def test_an_arm_that_can_t_be_chosen_drops_nobody(ground: Ground) -> None:
    arms = (ground.arm("a", keep=True, sets_pace=False), ground.arm("b"), ground.arm("c"))
    launches = {"a": [fake(0, 100)], "b": [fake(0, 200)], "c": [fake(0, 300)]}
    dropped = hopeless(arms, launches, QUICK, 1)
    assert set(dropped) == {"c"}
    assert "1.50x the latency of b" in dropped["c"]


def test_launches_of_later_rounds_don_t_decide_about_earlier_ones(ground: Ground) -> None:
    """They are there when an interrupted session is resumed."""
    assert dropped_after(ground, 1, a=[fake(0, 100), fake(1, 10)], b=[fake(0, 110), fake(1, 110)]) == set()


def still_open(launches: int, max_launches: int, **ratios: list[float]) -> set[str]:
    """Who is launched again at the first look, by made-up launches of so many times a second each."""
    protocol = CERTIFY.model_copy(update={"launches": launches, "max_launches": max_launches})
    made = {name: [fake(i, int(10**9 * ratio)) for i, ratio in enumerate(each)] for name, each in ratios.items()}
    return set(open_questions(list(made), made, protocol, launches))


def test_more_launches_are_made_only_until_the_spread_resolves() -> None:
    assert still_open(3, 6, a=[1.0] * 3, b=[1.0, 1.5, 0.7]) == {"a", "b"}
    assert still_open(1, 2, a=[1.0], b=[1.0]) == {"a", "b"}
    assert still_open(3, 6, a=[1.0] * 3, b=[1.2, 1.2001, 1.2002]) == set()


def test_a_second_look_is_taken_where_the_fastest_cannot_be_told_from_another() -> None:
    fast, same, slow = [1.0, 1.01, 0.995, 1.005], [1.02, 0.98, 1.01, 0.99], [1.5, 1.6, 1.4, 1.55]
    assert still_open(4, 8, a=fast, b=slow) == set()
    assert still_open(4, 8, a=fast, b=same) == {"a", "b"}
    # Noise between two slow arms decides nothing, and who is settled isn't launched again.
    assert still_open(4, 8, a=fast, b=slow, c=[1.51, 1.5, 1.61, 1.48]) == set()
    assert still_open(4, 8, a=fast, b=slow, c=same) == {"a", "c"}
    # What a second look adds doesn't change the first one's answer: it was asked once.
    assert still_open(4, 8, a=[*fast, 1.0], b=[*same, 3.0]) == {"a", "b"}


def test_an_evaluation_gives_every_sample_its_row_under_any_name(ground: Ground, tmp_path: Path) -> None:
    _, folder = ground.light
    out = tmp_path / "out"
    out.mkdir()
    step = EvaluateArtifact(split="validation")
    context = StepContext(progress=NoProgress(), check=never_stop, seed=0, scratch=tmp_path, device=ground.client)
    step.run({"artifact": folder, "data": ground.data}, out, context)
    found = read_outputs(out)
    assert list(found) == ["out/y"]
    assert all(path.parent == out for path in out.rglob("*"))
    rows = found["out/y"]
    assert rows.shape == (5, 2)
    np.testing.assert_allclose(rows, np.arange(5)[:, None] * rows[1], rtol=1e-4, atol=1e-5)
    assert rows[1].any()


def test_a_disturbed_launch_is_made_again_and_its_last_attempt_stands(
    ground: Ground, tmp_path: Path, launches: list[str]
) -> None:
    # Every launch is below a bound of less than nothing: all are disturbed.
    never = ONCE.model_copy(update={"steal_ratio": -1.0, "spread_ratio": -1.0, "attempts": 3})
    result = measure(ground.bench(tmp_path), never, [ground.arm("a")], title="t")
    assert launches == ["a"] * 3
    (stands,) = result.measurements["a"].launches
    assert not stands.valid
    assert "stolen" in stands.invalid[0]
    recorded = [launch.arm for launch in result.folder.launches()]
    assert [arm.endswith("disturbed") for arm in recorded] == [True, True, False]


@pytest.fixture
def fragile(ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ground:
    """The ground with a runtime that crashes as FRAGILE says."""
    device = LocalDevice(tmp_path / "device", name="test-device")
    monkeypatch.setattr(ground, "client", RunnerClient(device, {"onnxruntime": write_fragile(tmp_path)}))
    return ground


def int8(arm: Arm) -> Arm:
    """The arm called int8, so that it can be told to crash."""
    scheme = Int8Scheme(activations="uint8")
    artifact = arm.artifact.model_copy(
        update={"precision": Precision(kind="int8", scheme=scheme, quantiser="edgebuild")}
    )
    folder = arm.folder.with_name(f"{arm.folder.name}-int8")
    if not folder.exists():
        shutil.copytree(arm.folder, folder)
        write_manifest(folder, artifact)
    return replace(arm, artifact=artifact, folder=folder)


@pytest.mark.parametrize("protocol", [QUICK, CERTIFY], ids=lambda p: p.name)
def test_an_arm_that_crashes_leaves_and_is_tried_again_later(
    fragile: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: Protocol, launches: list[str]
) -> None:
    # In contests of their own, so that neither drops the other on a busy machine.
    arms = [fragile.arm("a", keep=True), int8(fragile.arm("b", threads=2, contest="q"))]
    monkeypatch.setenv("FRAGILE", "measure:int8:segv")
    found = measure(fragile.bench(tmp_path), protocol, arms, title="t")
    assert list(found.failed) == ["b"]
    assert found.failed["b"].sentence.endswith(
        "(measure) was ended by SIGSEGV (the runtime crashed) without an answer."
    )
    assert (launches, found.dropped) == (["a", "a"], {})
    assert compare_arms(found, "b", "a") is None
    monkeypatch.delenv("FRAGILE")
    launches.clear()
    again = measure(fragile.bench(tmp_path), protocol, arms, title="t")
    assert (again.failed, launches) == ({}, ["b", "b"])
    assert again.folder.path == found.folder.path


def test_a_crash_of_the_arm_to_keep_ends_the_session(
    fragile: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRAGILE", "measure:int8:segv")
    with pytest.raises(RunnerFailed):
        measure(fragile.bench(tmp_path), QUICK, [int8(fragile.arm("a", keep=True)), fragile.arm("b")], title="t")


def test_a_crash_with_which_the_device_is_gone_is_the_devices(
    fragile: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRAGILE", "measure:int8:segv")

    def gone(client: RunnerClient) -> None:
        raise DeviceError(f"The connection to {client.device.id} was lost.")

    monkeypatch.setattr(session, "require_alive", gone)
    with pytest.raises(DeviceError, match=r"The connection to test-device was lost\."):
        measure(fragile.bench(tmp_path), QUICK, [fragile.arm("a"), int8(fragile.arm("b"))], title="t")
