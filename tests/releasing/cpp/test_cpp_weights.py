"""Artifacts with a weights file and chains with early exits, in C++: they answer as they do in Python."""

from __future__ import annotations

import hashlib
import json
import random
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from onnx import helper

from edgebuild.backends.packing import WEIGHTS
from edgebuild.backends.protocol import write_artifact
from edgebuild.core.artifact import Contract, Exit, Stage, TensorSpec
from edgebuild.devices.runner import weights_file
from edgebuild.models.weights_file import encode
from tests.backends.nets import FP32, Bench, conv_net, data_folder, images, model, relist
from tests.backends.test_packing import few_values, pack

from .loader import MARKS, manifest, mutant, opened, refused, seal, ship

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = MARKS
MUTANTS = 120


def backend_of(slot: Path) -> str:
    return str(manifest(slot)["backend"])


@pytest.fixture
def packed(slot: Path, tmp_path: Path) -> Path:
    """A release whose artifact ships a weights file."""
    bench = Bench.open(tmp_path)
    net, contract = conv_net(channels=24)
    artifact = pack(bench.compile(backend_of(slot), few_values(net), contract))
    assert (artifact / WEIGHTS).is_file()
    data = data_folder(tmp_path / "data", images(5))
    ship(slot, artifact, data, bench.evaluate(artifact, data)[0])
    return slot


def spoil(slot: Path, data: bytes) -> None:
    """Put other bytes in the place of the weights file, and let everything that covers it cover them."""
    (slot / "artifact" / WEIGHTS).write_bytes(data)
    relist(slot / "artifact")
    seal(slot, manifest(slot))


def sealed(data: bytes) -> bytes:
    """Return a weights file with the digest of what is in it now."""
    start, rest = data[: weights_file.DIGESTED], data[weights_file.HEADER.size :]
    return start + hashlib.sha256(start + rest).digest() + rest


def test_a_weights_file_is_decoded(golden: Path, packed: Path) -> None:
    code, said = opened(golden, packed)
    assert (code, "off by 0 of what is allowed" in said) == (0, True), said
    whole = weights_file.load(str(packed / "artifact" / WEIGHTS))
    name, value = next((name, value) for name, value in whole.items() if value.dtype == np.float32 and value.any())
    spoil(packed, encode({**whole, name: np.flip(value).copy()}))
    assert "answers wrong" in opened(golden, packed)[1]


def test_weights_of_every_kind_are_read_as_python_reads_them(golden: Path, packed: Path) -> None:
    """What has gaps, a codebook, both or neither, of every dtype; the model then lacks what it asks for."""
    generator = np.random.default_rng(4)
    tensors: dict[str, Any] = {}
    for text in weights_file.DTYPES:
        dtype = np.dtype(text)
        few = generator.choice([0, 0, 0, 1] if dtype.kind == "b" else [0, 0, 0, 1, 7], 4000)
        tensors[f"few {text}"] = few.astype(dtype).reshape(40, 100)
        tensors[f"any {text}"] = np.frombuffer(generator.bytes(600 * dtype.itemsize), np.uint8).view(
            np.uint8 if dtype.kind == "b" else dtype
        )
    tensors |= {"one": np.ones(50, np.float32), "none": np.zeros((0, 3), np.float32), "": np.zeros(300, np.int8)}
    spoil(packed, encode(tensors))
    fields = manifest(packed)
    fields["load"] = [["weights", WEIGHTS], ["weights_bytes", sum(each.nbytes for each in tensors.values())]]
    seal(packed, fields)
    assert "weights file" not in refused(golden, packed)
    fields["load"][1][1] -= 1
    seal(packed, fields)
    assert "its tensors take more than the limit" in refused(golden, packed)


def test_mutants_of_a_weights_file_are_refused_where_python_refuses_them(golden: Path, packed: Path) -> None:
    generator = random.Random(5)
    data = (packed / "artifact" / WEIGHTS).read_bytes()
    limit = int(dict(manifest(packed)["load"])["weights_bytes"])
    damaged = 0
    for turn in range(MUTANTS):
        made = bytearray(data)
        for _ in range(generator.randint(1, 3)):
            most = len(data) if turn % 2 else min(len(data), weights_file.HEADER.size + 80)
            made[generator.randrange(8, most)] = generator.choice([0, 1, 255, generator.randrange(256)])
        mutant = sealed(bytes(made))
        spoil(packed, mutant)
        try:
            weights_file.decode(mutant, limit)
            found = False
        except weights_file.Damaged:
            found = True
        code, said = opened(golden, packed, leaks=0)
        assert ("weights file" in said) == found, (turn, said)
        assert code == 0 or said.count("\n") == 1 or "answers wrong" in said
        damaged += found
    assert 20 < damaged < MUTANTS
    for part in (b"", data[:40], data[:-1], data + b"\0"):
        spoil(packed, part)
        assert "weights file" in refused(golden, packed)


def tensor(name: str, size: int) -> TensorSpec:
    return TensorSpec(name=name, shape=(1, size), dtype="float32")


@pytest.fixture
def chain(slot: Path, tmp_path: Path) -> tuple[Path, Bench, Path, Path]:
    """A release, a bench, a chain of two models of which the first may end, and data of which some end there."""
    bench, generator, folder = Bench.open(tmp_path), np.random.default_rng(0), tmp_path / "chain"
    folder.mkdir()
    runtime = backend_of(slot)
    for stage, names in {"stage-0": ("a", "sure", "on"), "stage-1": ("y",)}.items():
        feed = "x" if stage == "stage-0" else "on"
        nodes = [helper.make_node("MatMul", [feed, "w"], names[:1])]
        if "sure" in names:
            nodes.append(helper.make_node("ReduceMax", ["a"], ["sure"], axes=[1], keepdims=1))
            nodes.append(helper.make_node("MatMul", ["x", "v"], ["on"]))
        sizes = {"a": 32, "sure": 1, "on": 64, "y": 32}
        contract = Contract(inputs=(tensor(feed, 64),), outputs=tuple(tensor(name, sizes[name]) for name in names))
        weights = {"w": generator.standard_normal((64, 32))}
        weights |= {"v": generator.standard_normal((64, 64))} if "on" in names else {}
        net = few_values(model(nodes, contract, weights))
        bench.compile(runtime, net, contract, name=stage).rename(folder / stage)
    way_out = Exit(name="first", output="a", confidence="sure", threshold=13.5)
    write_artifact(
        folder,
        backend=runtime,
        entry="stage-0/artifact.json",
        contract=Contract(inputs=(tensor("x", 64),), outputs=(tensor("y", 32),)),
        precision=FP32,
        stages=(Stage(folder="stage-0", exit=way_out), Stage(folder="stage-1")),
    )
    data = data_folder(tmp_path / "data", {"x": generator.standard_normal((20, 64)).astype(np.float32)})
    return slot, bench, folder, data


@pytest.mark.parametrize("smaller", [False, True])
def test_a_chain_ends_where_it_is_sure(golden: Path, chain: tuple[Path, Bench, Path, Path], smaller: bool) -> None:
    slot, bench, folder, data = chain
    artifact = pack(folder) if smaller else folder
    outputs, answer = bench.evaluate(artifact, data)
    assert all(count for _, count in answer["exits"])
    ship(slot, artifact, data, outputs)
    code, said = opened(golden, slot)
    assert code == 0, said
    fields = manifest(slot)
    fields["stages"][0]["exit"]["threshold"] = 1e9
    seal(slot, fields)
    assert "answers wrong" in opened(golden, slot)[1]


def test_chains_that_make_no_sense_are_refused(golden: Path, chain: tuple[Path, Bench, Path, Path]) -> None:
    slot, bench, folder, data = chain
    ship(slot, folder, data, bench.evaluate(folder, data)[0])
    fields = manifest(slot)
    first, last = fields["stages"]
    exits = first["exit"]
    for stages, why in (
        ([first], "every stage but the last has one"),
        ([{**first, "exit": None}, last], "every stage but the last has one"),
        ([{**first, "exit": {**exits, "output": "other"}}, last], "has no output other"),
        ([{**first, "exit": {**exits, "confidence": "a"}}, last], "is no single number"),
        ([{**first, "exit": {**exits, "threshold": "1"}}, last], "wrong threshold"),
        ([{**first, "folder": ".."}, last], "wrong stage"),
        ([last], "asks for on, which nothing makes"),
    ):
        seal(slot, {**fields, "stages": stages})
        assert why in refused(golden, slot)
    seal(slot, fields)
    assert opened(golden, slot)[0] == 0
    path = slot / "artifact" / "stage-1" / "artifact.json"
    path.write_bytes(path.read_bytes() + b" ")
    assert "isn't what artifact.json lists" in refused(golden, slot)


def test_hostile_chains_end_in_a_sentence(golden: Path, chain: tuple[Path, Bench, Path, Path]) -> None:
    slot, bench, folder, data = chain
    ship(slot, folder, data, bench.evaluate(folder, data)[0])
    whole, path = manifest(slot), slot / "artifact" / "stage-0" / "artifact.json"
    stage, generator = path.read_text(), random.Random(9)
    codes = []
    for turn in range(MUTANTS // 2):
        seal(slot, whole)
        if turn % 2:
            path.write_text(json.dumps(mutant(json.loads(stage), generator)))
            relist(slot / "artifact")
            seal(slot, manifest(slot))
        else:
            path.write_text(stage)
            seal(slot, mutant(whole, generator))
        codes.append(opened(golden, slot))
    sentences = [said for code, said in codes if code == 7]
    assert all(said.count("\n") == 1 for said in sentences)
    assert len(sentences) > MUTANTS // 8
