"""Damaged and hostile ONNX files: what reads them raises a sentence or gives a model, and nothing else."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import onnx
import pytest
from onnx import TensorProto, helper

from edgebuild.catalogue.starter import starter_from_onnx
from edgebuild.errors import EdgebuildError, ModelError
from edgebuild.models import onnx_child
from edgebuild.models.freezing import freeze
from edgebuild.models.onnx_files import custom_domains, external_files, first_line, load_onnx, read_facts
from edgebuild.models.onnx_graphs import fault_of
from edgebuild.models.steps import ImportOnnx
from tests.models import nets
from tests.mutants import COUNTS, damaged
from tests.techniques.nets import context

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

EXTERNAL = "weights.bin"


def external() -> Any:
    net = nets.dense()
    onnx.external_data_helper.set_external_data(net.graph.initializer[0], EXTERNAL, offset=0, length=48)
    net.graph.initializer[0].ClearField("raw_data")
    return net


def function() -> Any:
    net = nets.dense()
    net.graph.node.append(helper.make_node("Twice", ["y"], ["z"], domain="local"))
    net.graph.output.append(nets.value("z", ["batch", 2]))
    net.opset_import.append(helper.make_opsetid("local", 1))
    body = [helper.make_node("Add", ["a", "a"], ["b"])]
    net.functions.append(helper.make_function("local", "Twice", ["a"], ["b"], body, [helper.make_opsetid("", 17)]))
    return net


def sparse() -> Any:
    net = nets.dense()
    values, indices = helper.make_tensor("s", 1, [2], [1.0, 2.0]), helper.make_tensor("si", 7, [2], [0, 3])
    net.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [2, 2]))
    net.graph.node.append(helper.make_node("MatMul", ["y", "s"], ["z"]))
    net.graph.output.append(nets.value("z", ["batch", 2]))
    return net


BASES = (nets.dense, nets.conv, nets.branching, nets.looping, external, function, sparse)


def read(path: Path, scratch: Path) -> bool:
    """All that `init`, `plan` and the import do with a file; whether it is taken for a model."""
    external_files(path)
    said = None
    try:
        facts = read_facts(load_onnx(path))
        custom_domains(facts)
        starter_from_onnx("project", str(path), facts.inputs, facts.outputs)
        ImportOnnx().run({"model": path}, scratch, context(scratch))
    except EdgebuildError as error:
        said = error.message
    if said is not None:
        assert said
        assert len(said) < 2000
        assert "\n" not in said
        return False
    assert fault_of(onnx.load(str(scratch / "model.onnx"))) is None
    return True


@pytest.mark.parametrize("count", COUNTS)
def test_no_damage_ends_in_another_exception(count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child is left out: it takes half a second, and what it raises or how it ends is an answer anyway."""
    monkeypatch.setattr(onnx_child, "run_apart", lambda model, *_: model)
    (tmp_path / EXTERNAL).write_bytes(bytes(48))
    contents = [make().SerializeToString() for make in BASES]
    (tmp_path / "out").mkdir()
    taken = 0
    for seed in range(count):
        (path := tmp_path / "m.onnx").write_bytes(damaged(contents[seed % len(contents)], seed))
        taken += read(path, tmp_path / "out")
    assert 0 < taken < count


@pytest.mark.parametrize("make", BASES)
def test_the_undamaged_are_models(make: Callable[[], Any], tmp_path: Path) -> None:
    (tmp_path / EXTERNAL).write_bytes(bytes(48))
    onnx.save(make(), str(tmp_path / "m.onnx"))
    (tmp_path / "out").mkdir()
    assert read(tmp_path / "m.onnx", tmp_path / "out")


@pytest.mark.parametrize("kind", ["fifo", "folder", "device", "empty", "text", "long name", "loop", "huge"])
def test_what_is_no_file_or_no_model_is_said(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "huge":
        path.touch()
        os.truncate(path, 1 << 40)
    elif kind == "long name":
        path = tmp_path / ("m" * 5000 + ".onnx")
    else:
        path.write_text("" if kind == "empty" else "hello, I am text\n")
    with pytest.raises(ModelError) as caught:
        load_onnx(path)
    assert caught.value.hint
    assert external_files(path) == ()


def with_shape(*dims: int) -> Any:
    net = nets.dense()
    net.graph.initializer[0].dims[:] = dims
    return net


def typed(kind: int) -> Any:
    net = nets.dense()
    net.graph.initializer[0].data_type = kind
    return net


def opset(version: int) -> Any:
    net = nets.dense()
    net.opset_import[0].version = version
    return net


def huge_sparse() -> Any:
    net = sparse()
    net.graph.sparse_initializer[0].dims[:] = [1 << 30, 1 << 30]
    return net


def newer_ir() -> Any:
    net = nets.dense()
    net.ir_version = 99
    return net


def test_sparse_weights_are_made_dense(tmp_path: Path) -> None:
    onnx.save(sparse(), str(tmp_path / "m.onnx"))
    model = load_onnx(tmp_path / "m.onnx")
    made = {tensor.name: onnx.numpy_helper.to_array(tensor).tolist() for tensor in model.graph.initializer}
    assert made["s"] == [[1.0, 0.0], [0.0, 2.0]]
    assert [node.op_type for node in freeze(model, shapes={"x": (1, 6)}, constants=()).graph.node] == ["MatMul"] * 2


def test_what_onnxruntime_says_is_shortened_to_its_words() -> None:
    said = (
        "[ONNXRuntimeError] : 1 : FAIL : Load model from /x/in.onnx failed:/src/model.cc:256 Model(A&&, B&) Unsupported"
    )
    assert first_line(said) == "Unsupported"


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (with_shape(1 << 40, 1 << 20), "doesn't hold what its type and its shape"),
        (with_shape(-6, -2), "'w'"),
        (with_shape(6, 3), "doesn't hold what its type and its shape"),
        (typed(99), "'w'"),
        (typed(TensorProto.STRING), "'w'"),
        (opset(10**12), "opset 1000000000000"),
        (opset(-1), "opset -1"),
        (opset(99), "is newer than what is installed here: opset 99"),
        (newer_ir(), "IR version 99"),
        (huge_sparse(), "its sparse tensors, up to 's', are too large"),
    ],
)
def test_what_a_model_says_of_itself_is_checked(model: Any, words: str, tmp_path: Path) -> None:
    (path := tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError) as caught:
        load_onnx(path)
    assert words in caught.value.message
