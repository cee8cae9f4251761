"""An artifact that ships a weights file: smaller on disk, the same bits from the runtime, and its cost told."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnxruntime
import pytest
from onnx import helper

from edgebuild.backends.ort import device
from edgebuild.backends.packing import WEIGHTS
from edgebuild.backends.protocol import Packing, read_notes
from edgebuild.backends.table import backends
from edgebuild.core.artifact import Contract, TensorSpec
from edgebuild.core.measurement import Launch, Memory
from edgebuild.core.steps import NoProgress, StepContext, never_stop
from edgebuild.devices.runner import weights_file
from edgebuild.errors import ModelError
from edgebuild.models.weights_file import encode
from tests.backends.nets import FP32, Bench, conv_net, data_folder, images, manifest, model, relist

RUNTIMES = ("onnxruntime", "openvino")


def few_values(net: Any, keep: float = 0.2) -> Any:
    """Prune every weight of the net and let the rest share 16 values."""
    import onnx

    for tensor in net.graph.initializer:
        value = onnx.numpy_helper.to_array(tensor)
        bound = np.quantile(np.abs(value), 1 - keep)
        shared = np.round(value / value.std() * 3) / 3
        tensor.CopyFrom(
            onnx.numpy_helper.from_array(np.where(np.abs(value) < bound, 0, shared).astype(np.float32), tensor.name)
        )
    return net


def pack(folder: Path) -> Path:
    out = folder.with_name(f"{folder.name}-packed")
    out.mkdir()
    context = StepContext(progress=NoProgress(), check=never_stop, seed=0, scratch=folder)
    backend = backends(())[manifest(folder).backend]
    assert isinstance(backend, Packing)
    backend.pack_step().run({"artifact": folder}, out, context)
    return out


Pair: TypeAlias = tuple[Bench, Path, Path, Path]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pair]:
    """For each runtime a bench, the artifact as it is, the packed one, and data."""
    root = tmp_path_factory.mktemp("packing")
    bench = Bench.open(root)
    net, contract = conv_net(channels=48)
    few_values(net)
    data = data_folder(root / "data", images(12))
    plain = {runtime: bench.compile(runtime, net, contract) for runtime in RUNTIMES}
    return {runtime: (bench, plain[runtime], pack(plain[runtime]), data) for runtime in RUNTIMES}


@pytest.fixture(params=RUNTIMES)
def pair(request: pytest.FixtureRequest, pairs: dict[str, Pair]) -> Pair:
    return pairs[request.param]


def test_it_is_smaller_and_answers_with_the_same_bits(pair: Pair) -> None:
    bench, plain, small, data = pair
    assert manifest(small).size_bytes < 0.35 * manifest(plain).size_bytes
    assert manifest(small).size_bytes == sum(
        path.stat().st_size for path in small.iterdir() if path.name not in ("artifact.json", "notes.json")
    )
    (want, _), (got, answer) = bench.evaluate(plain, data), bench.evaluate(small, data)
    assert got["logits"].tobytes() == want["logits"].tobytes()
    assert answer["frames"] == 12
    (note,) = read_notes(small)
    assert note.endswith(f"as a weights file of {(small / WEIGHTS).stat().st_size:,}, decoded at every load")


def test_what_decoding_takes_is_part_of_loading_and_told(pair: Pair) -> None:
    bench, plain, small, data = pair
    quick = {"warmup_min_s": 0.05, "warmup_cap_s": 0.1, "sample_s": 0.05}
    launches = {}
    for artifact in (plain, small):
        with bench.client.workspace() as remote:
            answer = bench.call("measure", artifact, data, out=remote, **quick)
        launches[artifact] = Launch.model_validate({**answer, "index": 0, "arm": "a"})
    assert (launches[plain].decode_s, launches[plain].decoded_bytes) == (None, None)
    found = launches[small]
    assert found.decode_s is not None
    assert 0 < found.decode_s < found.load_s
    assert found.decoded_bytes == dict(manifest(small).load)["weights_bytes"]
    memory = Memory.model_validate(bench.call("memory", small, data, inferences=5, seconds=0.1))
    assert memory.decode_peak_bytes is not None
    assert memory.decode_peak_bytes <= memory.load_peak_bytes


@pytest.mark.parametrize("op", ["throughput", "layers"])
def test_it_can_be_asked_all_that_others_can(pair: Pair, op: str) -> None:
    bench, plain, small, data = pair
    quick = {"warmup_min_s": 0.05, "warmup_cap_s": 0.1, "sample_s": 0.05}
    with bench.client.workspace() as remote:
        answer = bench.call(op, small, data, out=remote, **quick)
        if op == "layers":
            assert named(answer) == named(bench.call(op, plain, data))


def named(answer: dict[str, Any]) -> list[tuple[str, str]]:
    """The layers; OpenVINO lays data out again before one now and then, whatever the weights come from."""
    return [(each["name"], each["op"]) for each in answer["layers"] if each["op"] != "Reorder"]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_weights_that_do_not_pay_stay_where_they_are(tmp_path: Path, runtime: str) -> None:
    bench = Bench.open(tmp_path)
    net, contract = conv_net(channels=48)
    plain = bench.compile(runtime, net, contract)
    small = pack(plain)
    assert {path.name for path in small.iterdir()} == {path.name for path in plain.iterdir()} | {"notes.json"}
    assert all((small / path.name).read_bytes() == path.read_bytes() for path in plain.iterdir())
    assert read_notes(small) == ()


@pytest.mark.parametrize("stored", ["float32", "float16", "int8"])
def test_a_model_that_the_session_optimises_answers_with_the_same_bits(tmp_path: Path, stored: str) -> None:
    """The weights must be there before the runtime folds constants and lays them out again."""
    from onnx import numpy_helper

    bench = Bench.open(tmp_path)
    net, contract = conv_net(channels=48)
    few_values(net)
    scale = numpy_helper.from_array(np.array(1 / 3, np.float32), "scale")
    for tensor in list(net.graph.initializer) if stored != "float32" else []:
        value, name = numpy_helper.to_array(tensor), f"{tensor.name}.stored"
        if stored == "float16":
            node = helper.make_node("Cast", [name], [tensor.name], to=1)
        else:
            node, value = helper.make_node("DequantizeLinear", [name, "scale"], [tensor.name]), value * 3
        net.graph.node.insert(0, node)
        tensor.CopyFrom(numpy_helper.from_array(value.astype(stored), name))
    if stored == "int8":
        net.graph.initializer.append(scale)
    plain = bench.compile("onnxruntime", net, contract, on_device=False)
    small, data = pack(plain), data_folder(tmp_path / "data", images(5))
    assert dict(manifest(plain).load) == {}
    tensors = weights_file.load(str(small / WEIGHTS))
    assert {value.dtype.name for value in tensors.values()} == {stored}
    assert bench.evaluate(small, data)[0]["logits"].tobytes() == bench.evaluate(plain, data)[0]["logits"].tobytes()


def damaged(data: bytes) -> bytes:
    return data[:-3] + bytes([data[-3] ^ 1]) + data[-2:]


def sealed_bomb(data: bytes) -> bytes:
    """A file with a digest that fits, of one tensor that would take 4 GiB: all of it zeros."""
    body = struct.pack("<H1sBBBI", 1, b"w", 0, 1, 1, 1 << 30) + struct.pack("<BI", 255, 0) + bytes(256) + bytes(4)
    head = struct.pack("<8sHIQ", weights_file.MAGIC, weights_file.VERSION, 1, len(body))
    return head + hashlib.sha256(head + body).digest() + body


def missing(data: bytes) -> bytes:
    """A file that is whole, but for another model."""
    tensors = weights_file.decode(data)
    del tensors[next(iter(tensors))]
    return encode(tensors)


def flattened(data: bytes) -> bytes:
    return encode({name: value.reshape(-1) for name, value in weights_file.decode(data).items()})


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (damaged, r"The artifact's weights file weights\.ebw can't be used: its digest doesn't fit its content\."),
        (lambda data: data[:100], r"weights\.ebw can't be used: it has 46 bytes behind its header and says \d+\."),
        (lambda _: b"", r"weights\.ebw can't be used: it is no weights file\."),
        (sealed_bomb, r"weights\.ebw can't be used: its tensors take more than the limit\."),
        (missing, r"can't (load|read) model\.(onnx: .*decode-weights\.ebw|xml: Incorrect weights in bin file)"),
    ],
)
def test_a_damaged_or_hostile_file_is_one_sentence(pair: Pair, tmp_path: Path, harm: Any, message: str) -> None:
    bench, _, small, data = pair
    with pytest.raises(ModelError, match=message) as raised:
        bench.evaluate(harmed(small, harm, tmp_path), data)
    assert "Traceback" not in str(raised.value)


def test_tensors_of_another_shape_are_refused(pairs: dict[str, Pair], tmp_path: Path) -> None:
    bench, _, small, data = pairs["onnxruntime"]
    with pytest.raises(ModelError, match=r"ONNX Runtime can't load model\.onnx: .*dimensions do not match"):
        bench.evaluate(harmed(small, flattened, tmp_path), data)


def harmed(artifact: Path, harm: Any, root: Path) -> Path:
    """A copy of an artifact with another weights file, listed as if it were the right one."""
    folder = shutil.copytree(artifact, root / "artifact")
    (folder / WEIGHTS).write_bytes(harm((artifact / WEIGHTS).read_bytes()))
    relist(folder)
    return folder


def test_a_runtime_without_the_call_is_a_sentence(pairs: dict[str, Pair], monkeypatch: pytest.MonkeyPatch) -> None:
    """As versions before 1.12 are."""

    class Options(onnxruntime.SessionOptions):  # type: ignore[misc]
        @property
        def add_external_initializers(self) -> Any:
            raise AttributeError("add_external_initializers")

    monkeypatch.setattr(onnxruntime, "SessionOptions", Options)
    _, _, small, _ = pairs["onnxruntime"]
    fields = json.loads((small / "artifact.json").read_bytes())
    weights = weights_file.load(str(small / WEIGHTS))
    with pytest.raises(device.TooOld, match=r"ONNX Runtime [\d.]+ can't take weights from memory") as raised:
        device.Session(fields, str(small), {}, weights)
    assert raised.value.kind == "environment"


def test_a_program_without_edgebuild_can_load_it(pairs: dict[str, Pair], tmp_path: Path) -> None:
    """The lines of docs/weights-file.md, beside a copy of the decoder."""
    import subprocess
    import sys

    bench, plain, small, data = pairs["onnxruntime"]
    page = (Path(__file__).parents[2] / "docs" / "weights-file.md").read_text(encoding="utf-8")
    program = page.split("```python\n")[1].split("```")[0]
    (tmp_path / "weights_file.py").write_bytes(Path(str(weights_file.__file__)).read_bytes())
    end = (
        "import numpy\nimage = numpy.load(DATA)[:1]\nnumpy.save('logits.npy', session.run(None, {'image': image})[0])\n"
    )
    start = f"import os\nDATA = {str(data / 'image.npy')!r}\nHERE = os.getcwd()\nos.chdir({str(small)!r})\n"
    script = f"{start}{program}os.chdir(HERE)\n{end}"
    (tmp_path / "program.py").write_text(script)
    subprocess.run([sys.executable, "program.py"], cwd=tmp_path, check=True)
    want = bench.evaluate(plain, data)[0]["logits"][:1]
    assert np.load(tmp_path / "logits.npy").tobytes() == want.tobytes()


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_stages_of_a_chain_ship_their_own(tmp_path: Path, runtime: str) -> None:
    from edgebuild.backends.protocol import write_artifact
    from edgebuild.core.artifact import Exit, Stage

    bench, random, chain = Bench.open(tmp_path), np.random.default_rng(0), tmp_path / "chain"
    chain.mkdir()
    x = random.standard_normal((20, 64)).astype(np.float32)
    for stage, names in {"stage-0": ("a", "sure"), "stage-1": ("y",)}.items():
        nodes = [helper.make_node("MatMul", ["x", "w"], names[:1])]
        if "sure" in names:
            nodes.append(helper.make_node("ReduceMax", ["a"], ["sure"], axes=[1], keepdims=1))
        contract = Contract(inputs=(spec("x", 64),), outputs=tuple(spec(n, 1 if n == "sure" else 32) for n in names))
        net = few_values(model(nodes, contract, {"w": random.standard_normal((64, 32))}))
        bench.compile(runtime, net, contract, name=stage).rename(chain / stage)
    whole = Contract(inputs=(spec("x", 64),), outputs=(spec("y", 32),))
    way_out = Exit(name="first", output="a", confidence="sure", threshold=13.5)
    stages = (Stage(folder="stage-0", exit=way_out), Stage(folder="stage-1"))
    entry = "stage-0/artifact.json"
    write_artifact(chain, backend=runtime, entry=entry, contract=whole, precision=FP32, stages=stages)
    small = pack(chain)
    data = data_folder(tmp_path / "data", {"x": x})
    assert manifest(small).size_bytes < manifest(chain).size_bytes
    assert [note.partition(":")[0] for note in read_notes(small)] == ["stage-0", "stage-1"]
    want, got = bench.evaluate(chain, data), bench.evaluate(small, data)
    assert got[1]["exits"] == want[1]["exits"]
    assert all(count for _, count in got[1]["exits"])
    assert got[0]["y"].tobytes() == want[0]["y"].tobytes()
    assert bench.call("layers", small, data)["layers"]


def spec(name: str, size: int) -> TensorSpec:
    return TensorSpec(name=name, shape=(1, size), dtype="float32")
