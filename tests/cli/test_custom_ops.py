"""A real custom-op library: named it is shipped and loaded, not named the model is refused."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import onnx
import pytest
from onnx import helper

from tests import needs

from .example import CLASSES, SHAPE, classifier_weights, model_of, newest, record, refused, run, toml

# Found, not imported: importing it switches protobuf to its slow form, here and in every process started later.
needs.skip_without(needs.module("onnxruntime_extensions", "onnxruntime-extensions"))
_SPEC = importlib.util.find_spec("onnxruntime_extensions")
assert _SPEC is not None
assert _SPEC.origin is not None
(LIBRARY,) = Path(_SPEC.origin).parent.glob("_extensions_pydll*.so")

DOMAIN = "ai.onnx.contrib"


@pytest.fixture
def custom(project: Path) -> Path:
    """The tiny project, its ReLU made of an operator that ONNX doesn't have: negative and positive parts."""
    nodes = [
        helper.make_node("Conv", ["image", "w", "b"], ["conv"], name="conv", kernel_shape=[3, 3]),
        helper.make_node("NegPos", ["conv"], ["negative", "relu"], name="parts", domain=DOMAIN),
        helper.make_node("Flatten", ["relu"], ["flat"], name="flat"),
        helper.make_node("Gemm", ["flat", "v", "c"], ["logits"], name="head"),
    ]
    model = model_of(
        nodes,
        inputs={"image": ["batch", *SHAPE]},
        outputs={"logits": ["batch", CLASSES]},
        weights=classifier_weights(),
        opsets={"": 17, DOMAIN: 1},
    )
    onnx.save(model, str(project / "model.onnx"))
    return project


@pytest.mark.proof
def test_a_named_library_is_shipped_and_runs(custom: Path) -> None:
    shutil.copyfile(LIBRARY, custom / "libcustom.so")
    (custom / "edgebuild.toml").write_text(toml({"model": 'onnx = "model.onnx"\ncustom_ops = "libcustom.so"'}))
    ended = run("build", cwd=custom)
    assert ended.code == 0, ended
    found = record(custom)
    assert found["outcome"] == "ok"
    (candidate,) = found["candidates"]
    assert candidate["test"]["drop"]["drop"] == 0.0
    assert any(layer["op"] == "NegPos" for layer in candidate["measured"]["layers"])
    shipped = newest(custom) / "artifact"
    assert (shipped / "libcustom.so").read_bytes() == LIBRARY.read_bytes()


def test_a_library_that_nobody_named_is_asked_for(custom: Path) -> None:
    refused(
        custom,
        "build",
        code=2,
        message=f"{custom}/model.onnx uses operators of {DOMAIN}, which no runtime brings.",
        hint="Name the shared library that has them as [model].custom_ops, or export the model without them.",
    )
