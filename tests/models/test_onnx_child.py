"""Native code on a model runs in a process of its own: its crash is an answer."""

from __future__ import annotations

import errno
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import onnx
import pytest
from onnx import helper

from edgebuild.errors import EnvironmentGap, ModelError, StoreError
from edgebuild.models import onnx_child
from edgebuild.models.freezing import freeze, simplify
from edgebuild.models.onnx_child import Refused, run_apart
from edgebuild.models.onnx_files import load_onnx, read_facts
from edgebuild.models.onnx_graphs import tidy
from edgebuild.models.steps import ImportOnnx
from edgebuild.quantisers.own.graph import prepare
from tests.models import nets
from tests.techniques.nets import context

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def crashing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that is killed by a signal, as by a fault in native code."""
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nkill -SEGV $$\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))


def imported(path: Path, scratch: Path) -> Any:
    out = scratch / "imported"
    out.mkdir()
    ImportOnnx().run({"model": path}, out, context(scratch))
    return onnx.load(str(out / "model.onnx"))


def test_a_task_says_why_it_refuses() -> None:
    net = nets.dense()
    net.graph.initializer[0].dims[0] = 3
    net.graph.initializer[0].dims[1] = 4
    with pytest.raises(Refused) as caught:
        run_apart(net, "simplify", "infer")
    assert caught.value.task == "simplify"
    assert caught.value.reason


def test_a_crash_is_an_answer(crashing: None, tmp_path: Path) -> None:
    assert run_apart(nets.dense(), "open") is None
    with pytest.raises(ModelError, match="crashes onnx's shape inference"):
        simplify(nets.dense())
    onnx.save(nets.dense(), str(tmp_path / "m.onnx"))
    with pytest.raises(ModelError, match="crashes onnxruntime"):
        imported(tmp_path / "m.onnx", tmp_path)


def test_modules_in_the_working_folder_are_none_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project may have a random.py, and a stranger's folder a json.py."""
    for name in ("json", "onnx", "random"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nraise SystemExit(7)\n")
    monkeypatch.chdir(tmp_path)
    assert run_apart(nets.dense(), "open") is not None
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("signal_name", ["KILL", "TERM"])
def test_what_the_machine_ends_is_no_fault_of_the_model(
    signal_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "python"
    script.write_text(f"#!/bin/sh\nkill -{signal_name} $$\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    with pytest.raises(EnvironmentGap, match=r"native code on the model \(open\) ended with status -"):
        run_apart(nets.dense(), "open")


def test_a_full_disk_for_temporary_files_is_the_disk_s(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(model: object, path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(onnx_child, "save", full)
    with pytest.raises(StoreError, match="disk for temporary files is full"):
        run_apart(nets.dense(), "open")


def test_an_allocation_beyond_any_model_s_need_fails() -> None:
    code = "from edgebuild.models.onnx_child import _limit_memory as limit; limit(0); bytearray(1 << 34)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "MemoryError" in done.stderr


def old_export() -> Any:
    """IR version 3, opset 9: every weight is a graph input; a convolution with batch normalisation."""
    net = nets.conv()
    weights = {node.output[0]: node.attribute[0].t for node in net.graph.node if node.op_type == "Constant"}
    for name, tensor in weights.items():
        tensor.name = name
        net.graph.initializer.append(tensor)
    net.graph.initializer.append(nets.tensor("b3", 5))
    net.graph.node[-1].input.append("b3")
    kept = [node for node in net.graph.node if node.op_type != "Constant"]
    graph = helper.make_graph(
        kept,
        "old",
        [*net.graph.input, *(nets.value(t.name, list(t.dims)) for t in net.graph.initializer)],
        net.graph.output,
        list(net.graph.initializer),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)], ir_version=3)
    onnx.checker.check_model(model)
    return model


def test_an_old_export_s_weights_are_no_inputs_and_it_can_be_quantised(tmp_path: Path) -> None:
    onnx.save(old_export(), str(tmp_path / "m.onnx"))
    assert [spec.name for spec in read_facts(load_onnx(tmp_path / "m.onnx")).inputs] == ["x"]
    frozen = freeze(imported(tmp_path / "m.onnx", tmp_path), shapes={"x": (1, 3, 8, 8)}, constants=())
    graph = prepare(frozen)
    assert [node.op_type for node in graph.nodes if node.op_type == "BatchNormalization"] == []
    assert next(o.version for o in graph.model.opset_import if o.domain == "") == 13
    assert [value.name for value in graph.model.graph.input] == ["x"]


def test_a_model_that_can_t_be_raised_says_the_converter_s_reason() -> None:
    net = old_export()
    net.graph.node[2].op_type = "Upsample"  # there is no way from it to opset 13 with these inputs
    with pytest.raises(ModelError, match="can't raise the model from opset 9 to 13"):
        prepare(tidy(net))
