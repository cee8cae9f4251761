"""What is wrong with a project's data, metric or model ends the build in a sentence; the store keeps whole results."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import helper

from .example import CLASSES, SHAPE, classifier, classifier_weights, model_of, refused, refused_build, toml

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

DATA = """\
import numpy as np
from edgebuild import Sample

def read(seed, count=40):
    generator = np.random.default_rng(seed)
    for i in range(count):
        image, label = generator.standard_normal((1, 8, 8)).astype(np.float32), int(generator.integers(4))
        {line}
        yield Sample(inputs={{"image": image}}, target=label)

def calibration():
    return read(1)

def validation():
    return read(2)

def test():
    return read(3)
"""
BY_ITSELF = "Run the callable directly to see where it fails."

DATA_PROBLEMS = {
    "wrong shape": (
        "image = image[:, :7]",
        "data:calibration: sample 0: input 'image' has shape [1, 7, 8], the model takes [1, 8, 8] (no batch axis).",
        "Change the data callable, or the shape under [[inputs]] in edgebuild.toml.",
    ),
    "wrong dtype": (
        "image = image.astype(np.float64)",
        "data:calibration: sample 0: input 'image' is float64, the model takes float32.",
        "Convert it in the data callable: array.astype('float32').",
    ),
    "NaN": (
        "image[0, 0, 0] = np.nan if i == 7 else 0",
        "data:calibration: sample 7: input 'image' holds NaN or infinity.",
        "Clean the sample or leave it out.",
    ),
    "raises": (
        "1 / (i - 3)",
        "data:calibration failed after 3 samples: ZeroDivisionError: division by zero",
        BY_ITSELF,
    ),
    "empty": (
        "return",
        "data:calibration yields no samples.",
        "The callable must return at least one edgebuild.Sample.",
    ),
    "some unlabelled": (
        "label = None if i == 5 else label",
        "data:calibration: sample 5: only some samples have a target.",
        "Give every sample a target, or none.",
    ),
    "label out of range": (
        "label = 9 if i == 5 else label",
        "metric accuracy: the target of sample 5 is 9, but the model has 4 classes (0 to 3); "
        "1 targets are out of range",
        "map labels to 0 … classes - 1 in the data callable",
    ),
    "no labels at all": (
        "label = None",
        "a budget of 2 points needs targets",
        "for unlabelled data use `agreement = 0.98`",
    ),
}


@pytest.mark.parametrize("name", DATA_PROBLEMS)
def test_data(name: str, project: Path) -> None:
    line, message, hint = DATA_PROBLEMS[name]
    (project / "data.py").write_text(DATA.format(line=line))
    refused_build(project, message=message, hint=hint)


def test_a_data_file_that_is_none(project: Path) -> None:
    (project / "edgebuild.toml").write_text(
        toml({"data": 'calibration = "broken.npz"\nvalidation = "data:validation"\ntest = "data:test"'})
    )
    (project / "broken.npz").write_bytes(b"not an archive")
    message = f"{project}/broken.npz can't be read: BadZipFile: File is not a zip file"
    refused(project, "build", code=2, message=message, hint="It must be written by numpy.savez, without objects.")


METRIC = 'callable = "metric:score"\ndirection = "maximise"\nscale = [0.0, 1.0]'

METRIC_PROBLEMS = {
    "raises": (
        "raise ValueError('no')",
        "metric metric:score raised ValueError: no",
        "It was called with {'logits': float32 (400, 4)}, int64 (400,); docs/metrics.md.",
    ),
    "NaN": ("return float('nan')", "metric metric:score returned nan on 400 samples", ""),
    "text": ("return 'good'", "metric metric:score returned str, not a number", ""),
}


@pytest.mark.parametrize("name", METRIC_PROBLEMS)
def test_metric(name: str, built: Path) -> None:
    body, message, hint = METRIC_PROBLEMS[name]
    (built / "edgebuild.toml").write_text(toml({"metric": METRIC}))
    (built / "metric.py").write_text(f"def score(outputs, targets):\n    {body or 'return 1.0'}\n")
    refused_build(built, message=message, hint=hint)


def save(model: onnx.ModelProto, project: Path) -> None:
    onnx.save(model, str(project / "model.onnx"))


def with_operator(domain: str) -> onnx.ModelProto:
    node = helper.make_node("Frobnicate", ["image"], ["logits"], name="frob", domain=domain)
    opsets = {"": 17, domain: 1} if domain else {"": 17}
    return model_of([node], inputs={"image": ["batch", *SHAPE]}, outputs={"logits": ["batch", CLASSES]}, opsets=opsets)


def test_an_operator_that_the_opset_does_not_have(project: Path) -> None:
    save(with_operator(""), project)
    message = f"{project}/model.onnx: node 'frob' is a 'Frobnicate', which opset 17 of 'ai.onnx' doesn't have."
    hint = "Export the model again with a newer opset, or name its custom-op library."
    refused(project, "plan", code=2, message=message, hint=hint, driver=False)
    refused(project, "build", code=2, message=message, hint=hint)


def test_an_operator_of_a_library_that_nobody_named(project: Path) -> None:
    save(with_operator("my.ops"), project)
    refused_build(
        project,
        message=f"{project}/model.onnx uses operators of my.ops, which no runtime brings.",
        hint="Name the shared library that has them as [model].custom_ops, or export the model without them.",
    )


@pytest.mark.parametrize("content", [b"hello", None], ids=["text", "cut short"])
def test_a_file_that_is_no_model(content: bytes | None, project: Path) -> None:
    path = project / "model.onnx"
    path.write_bytes(content if content is not None else path.read_bytes()[:500])
    refused_build(
        project,
        message=f"{path} can't be read as ONNX: "
        "Error parsing message with type 'onnx.ModelProto': Wire format was corrupt",
        hint="Is it complete, and an .onnx file?",
    )


def test_outputs_that_are_not_finite(project: Path) -> None:
    weights = classifier_weights()
    poisoned: NDArray[np.float32] = weights["c"].copy()
    poisoned[1] = np.inf
    save(classifier({**weights, "c": poisoned}), project)
    refused_build(
        project,
        message="the reference model on the validation data: output 'logits' is NaN or infinite for frame 0.",
        hint="Look at that sample and at the model's weights; nothing can be judged against such outputs.",
    )


def test_inputs_that_the_model_does_not_have(project: Path) -> None:
    (project / "edgebuild.toml").write_text(
        toml({"[inputs]": 'name = "imgae"\nshape = ["batch", 1, 9, 8]\ndtype = "int32"'})
    )
    refused_build(
        project,
        message="edgebuild.toml and the ONNX model disagree: the model's input 'image' is missing from [[inputs]]; "
        "[[inputs]] names 'imgae', the model's inputs are image.",
        hint="`edgebuild init MODEL.onnx` writes [[inputs]] as the file has them.",
    )
    (project / "edgebuild.toml").write_text(
        toml({"[inputs]": 'name = "image"\nshape = ["batch", 1, 9, 8]\ndtype = "int32"'})
    )
    refused_build(
        project,
        message="edgebuild.toml and the ONNX model disagree: "
        "input 'image' is int32 in edgebuild.toml and float32 in the model; "
        "input 'image' is ['batch', 1, 9, 8] in edgebuild.toml and ['batch', 1, 8, 8] in the model.",
        hint="`edgebuild init MODEL.onnx` writes [[inputs]] as the file has them.",
    )


# Models by a factory

NET = """\
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear({width}, 4))

    def forward(self, x):
        {forward}
        return self.body(x)

def build():
    {build}
    return Net()
"""


def write_net(project: Path, *, width: int = 64, forward: str = "pass", build: str = "pass") -> None:
    (project / "edgebuild.toml").write_text(toml({"model": 'factory = "net:build"'}))
    (project / "net.py").write_text(NET.format(width=width, forward=forward, build=build))


def test_a_factory_that_raises(project: Path) -> None:
    write_net(project, build="raise RuntimeError('no weights here')")
    refused(
        project,
        "plan",
        code=2,
        message="The model factory net:build failed: RuntimeError: no weights here",
        hint="Call it directly to see the whole error.",
        driver=False,
    )


def test_a_factory_that_can_not_be_imported(project: Path) -> None:
    write_net(project)
    (project / "net.py").write_text("import torch\nclass Net(\n")
    refused(
        project,
        "plan",
        code=2,
        message='callable "net:build": 1 problem\n'
        "  - importing \"net\" failed: SyntaxError: '(' was never closed (net.py, line 2)",
        hint="A callable is named as module:function; its module lies in the project's folder or in an installed "
        "package.",
        driver=False,
    )


def test_a_layer_of_another_shape_is_named(project: Path) -> None:
    write_net(project, width=60)
    refused_build(
        project,
        message="The model failed in 'body.1': RuntimeError: "
        "mat1 and mat2 shapes cannot be multiplied (64x64 and 60x4)",
        hint="forward() gets a tensor for each of [[inputs]] in edgebuild.toml, in that order: check their shapes and "
        "dtypes.",
    )


def test_a_model_that_does_not_export(project: Path) -> None:
    write_net(project, forward="x = x + torch.linalg.eigvals(x[0, 0]).real.sum()")
    ended = refused(
        project,
        "build",
        code=2,
        message="The model doesn't export to ONNX (dynamo: DispatchError: No ONNX function found for "
        "<OpOverload(op='aten.linalg_eig', overload='default')>. Failure message: No decompositions registered for the "
        "real-valued input; tracing: UnsupportedOperatorError: Exporting the operator 'aten::linalg_eigvals' to ONNX "
        "opset version 17 is not supported).",
        hint="Remove data-dependent Python control flow from forward(), or export it yourself and give [model].onnx.",
    )
    assert "Traceback" not in ended.err
