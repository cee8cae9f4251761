"""A fourth runtime from outside: LiteRT through entry points, held to the contract that ours are held to."""

from __future__ import annotations

import importlib
import os
import re
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime
import pytest
from onnx import helper

from edgebuild.backends.protocol import CompileRequest
from edgebuild.backends.table import GROUP, backends
from edgebuild.core.artifact import Contract, Precision, TensorSpec
from edgebuild.core.steps import NoProgress, StepContext, never_stop
from edgebuild.devices.local import LocalDevice
from edgebuild.errors import ModelError
from edgebuild.testing.backends import check_backend
from tests import needs
from tests.backends.nets import FP16, FP32, model
from tests.cli.example import record, run, write_project

if TYPE_CHECKING:
    from edgebuild.backends.protocol import Backend

needs.skip_without(needs.module("ai_edge_litert", "ai-edge-litert"))
interpreter = importlib.import_module("ai_edge_litert.interpreter")

PLUGIN = Path(__file__).resolve().parents[2] / "examples" / "plugins" / "litert"
DOCS = PLUGIN.parents[2] / "docs" / "extending.md"


def install(site: Path) -> Path:
    """Lay out what installing the package lays out: its code, and metadata with its entry points."""
    project = tomllib.loads((PLUGIN / "pyproject.toml").read_text())["project"]
    info = site / f"edgebuild_litert-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = [f"{name} = {value}" for name, value in project["entry-points"][GROUP].items()]
    (info / "entry_points.txt").write_text("\n".join([f"[{GROUP}]", *lines, ""]))
    (site / "edgebuild_litert").symlink_to(PLUGIN / "edgebuild_litert")
    return site


@pytest.fixture
def litert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Backend:
    """The backend, found as any installed package's is."""
    monkeypatch.syspath_prepend(str(install(tmp_path / "site")))
    try:
        return backends(entry_points(group=GROUP))["litert"]
    finally:
        for name in [name for name in sys.modules if name.startswith("edgebuild_litert")]:
            monkeypatch.delitem(sys.modules, name)


def test_keeps_the_contract(litert: Backend, tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    check_backend(litert, LocalDevice(tmp_path / "device"), tmp_path / "scratch")


def test_refuses_what_it_does_not_convert(litert: Backend, tmp_path: Path) -> None:
    assert litert.refuse(FP32, {}) is None
    assert litert.refuse(FP16, {}) == "this example converts fp32 only"
    spec = TensorSpec(name="x", shape=(1, 4), dtype="float32")
    contract = Contract(inputs=(spec,), outputs=(spec.model_copy(update={"name": "y"}),))
    (tmp_path / "model.onnx").write_bytes(
        model([helper.make_node("Erf", ["x"], ["y"], name="odd")], contract, {}).SerializeToString()
    )
    step = litert.compile_step(CompileRequest(precision=Precision(kind="fp32"), contract=contract))
    context = StepContext(progress=NoProgress(), check=never_stop, seed=0, scratch=tmp_path)
    with pytest.raises(ModelError, match=r"the node 'odd' \(Erf\) isn't among the operators"):
        step.run({"model": tmp_path}, tmp_path, context)


def test_a_convolution_with_uneven_padding_and_strides_answers_like_onnxruntime(
    litert: Backend, tmp_path: Path
) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1, 0, 2, 1], strides=[2, 1], dilations=[1, 2]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Add", ["r", "k"], ["y"]),
    ]
    contract = Contract(
        inputs=(TensorSpec(name="x", shape=(2, 3, 9, 8), dtype="float32"),),
        outputs=(TensorSpec(name="y", shape=(2, 5, 5, 5), dtype="float32"),),
    )
    generator = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {"w": (5, 3, 3, 3), "b": (5,), "k": (1,)}
    weights = {name: generator.standard_normal(shape) for name, shape in shapes.items()}
    net = model(nodes, contract, weights).SerializeToString()
    (tmp_path / "model.onnx").write_bytes(net)
    context = StepContext(progress=NoProgress(), check=never_stop, seed=0, scratch=tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    litert.compile_step(CompileRequest(precision=FP32, contract=contract)).run({"model": tmp_path}, out, context)
    x = generator.standard_normal((2, 3, 9, 8)).astype(np.float32)
    (want,) = onnxruntime.InferenceSession(net, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    ran = interpreter.Interpreter(model_path=str(out / "model.tflite"))
    ran.allocate_tensors()
    ran.set_tensor(ran.get_input_details()[0]["index"], x)
    ran.invoke()
    assert np.abs(ran.get_tensor(ran.get_output_details()[0]["index"]) - want).max() < 1e-4


@pytest.mark.proof
def test_a_whole_build_with_its_profile(tmp_path: Path) -> None:
    """Nothing of edgebuild is changed: the package is on the path, its profile and a target lie next to the project."""
    project = write_project(tmp_path / "project")
    for kind, name in (("profiles", "litert"), ("targets", "this-machine-litert")):
        (project / kind / f"{name}.toml").write_text((PLUGIN / kind / f"{name}.toml").read_text())
    paths = os.pathsep.join([str(install(tmp_path / "site")), *filter(None, [os.environ.get("PYTHONPATH")])])
    ended = run("build", "--target", "this-machine-litert", cwd=project, env={"PYTHONPATH": paths})
    assert ended.code in {0, 4}, ended.err  # on a noisy machine the speed may stay open; the accuracy doesn't
    assert "litert" in str(record(project))


def test_the_page_shows_the_package_as_it_is() -> None:
    """Every snippet of docs/extending.md that names its file is a part of that file."""
    snippets = re.findall(r"`(examples/plugins/litert/[^`]+)`:\n\n```\w+\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert len(snippets) >= 4
    for name, text in snippets:
        source = (PLUGIN.parents[2] / name).read_text()
        assert text in source, f"{name} doesn't hold:\n{text}"
