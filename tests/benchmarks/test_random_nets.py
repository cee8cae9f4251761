"""The nets of the benchmarks: the random ones run and look at their image, the trained one has weights that fit."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
from safetensors.torch import load_file

if TYPE_CHECKING:
    from types import ModuleType

    import onnx

NETS = Path(__file__).resolve().parents[2] / "benchmarks" / "nets"


def _module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"nets_{name}", NETS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


random_nets = _module("random_nets")


def _logits(model: onnx.ModelProto, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.stack([session.run(["logits"], {"image": image[np.newaxis]})[0].ravel() for image in images])


@pytest.mark.parametrize("name", ["squeezenet", "mobilenet"])
def test_outputs_are_finite_and_depend_on_the_image(name: str) -> None:
    images = np.random.default_rng(0).normal(size=(3, 3, 224, 224)).astype(np.float32)
    logits = _logits(random_nets.NETS[name](0), images)
    assert logits.shape == (3, 1_000)
    assert np.isfinite(logits).all()
    assert np.abs(logits).max() < 1_000
    assert logits.std(axis=1).min() > 0.1
    assert logits.std(axis=0).max() > 1e-3


def test_one_seed_gives_one_model() -> None:
    first, again, other = (random_nets.squeezenet(seed).SerializeToString() for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_no_weight_is_left_to_a_constant_of_shape() -> None:
    model = random_nets.squeezenet(0)
    assert "ConstantOfShape" not in {node.op_type for node in model.graph.node}
    assert [value.name for value in model.graph.input] == ["image"]
    assert [value.name for value in model.graph.output] == ["logits"]


def test_mobilenet_is_depthwise() -> None:
    groups = [
        attribute.i
        for node in random_nets.mobilenet(0).graph.node
        if node.op_type == "Conv"
        for attribute in node.attribute
        if attribute.name == "group"
    ]
    assert len(groups) == 52
    assert sum(group > 1 for group in groups) == 17


def test_the_trained_depthwise_net_has_weights_that_fit() -> None:
    network = _module("dwnet").dwnet()
    network.load_state_dict(load_file(NETS / "dwnet.safetensors"), strict=True)
    assert json.loads((NETS / "dwnet.json").read_text())["test_accuracy"] >= 0.90
