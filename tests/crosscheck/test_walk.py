"""When right layers explain an artifact's answer, and when they don't."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgebuild.core.artifact import Contract, TensorSpec
from edgebuild.core.data import Sample
from edgebuild.core.steps import NoProgress, StepContext
from edgebuild.crosscheck.graph import Loop, Walk
from edgebuild.models import qdq
from edgebuild.models.dataset import write_dataset
from edgebuild.models.host_session import HostSession

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

WIDE, CLASSES, FRAMES = 64, 40, 4
CONTRACT = Contract(
    inputs=(TensorSpec(name="x", shape=(1, WIDE), dtype="float32"),),
    outputs=(TensorSpec(name="y", shape=(1, CLASSES), dtype="float32"),),
)


def net() -> Any:
    """A dense layer in explicit Q/DQ with a Softmax behind it: of most classes nothing is left."""
    random = np.random.default_rng(1)
    constants = {
        "scale": np.float32(1 / 255),
        "wide": np.float32(0.2),
        "zero": np.uint8(0),
        "middle": np.uint8(128),
        "codes": random.integers(-127, 128, (WIDE, CLASSES)).astype(np.int8),
        "weight_scale": np.full(CLASSES, 1 / 32, np.float32),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["x_codes"]),
        helper.make_node("DequantizeLinear", ["x_codes", "scale", "zero"], ["input"]),
        helper.make_node("DequantizeLinear", ["codes", "weight_scale"], ["weight"], axis=1),
        helper.make_node("MatMul", ["input", "weight"], ["a"], name="dense"),
        helper.make_node("QuantizeLinear", ["a", "wide", "middle"], ["a_codes"]),
        helper.make_node("DequantizeLinear", ["a_codes", "wide", "middle"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, WIDE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, CLASSES])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


class Seen:
    """What a device with right kernels answers, layer by layer, on a few frames."""

    def __init__(self, folder: Path, *, ties: bool = False) -> None:
        self.graph, self.folder = qdq.QdqGraph(net()), folder
        self.images = np.random.default_rng(0).uniform(0, 1, (FRAMES, 1, WIDE)).astype(np.float32)
        if ties:
            self.images = ((np.floor(self.images * 255) + 0.5) / 255).astype(np.float32)
        samples = [Sample(inputs={"x": image[0]}) for image in self.images]
        write_dataset(
            samples, folder, specs=CONTRACT.inputs, stateful=False, source="a test", task=NoProgress(), check=_go_on
        )
        self.found = self.answers(self.images)

    def answers(self, images: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """What is answered to each image, the layers among it."""
        run = HostSession(qdq.with_shown(self.graph, {"x_codes": (1, WIDE), "a_codes": (1, CLASSES)}))
        parts = [run({"x": image}) for image in images]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def walk(self, **other: NDArray[Any]) -> Walk:
        """The walk through these layers, some of which answered otherwise."""
        found = {**self.found, **other}
        ctx = StepContext(progress=NoProgress(), check=_go_on, seed=0, scratch=self.folder)
        return Walk(self.graph, Loop(self.folder, CONTRACT, found), found, None, ctx)

    @property
    def own(self) -> dict[str, NDArray[Any]]:
        """The artifact's own outputs: the same."""
        return {"y": self.found["y"]}


def _go_on() -> None:
    """Never interrupted."""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    return Seen(tmp_path_factory.mktemp("walk"))


def test_right_layers_that_answer_as_the_artifact_does_are_what_it_computes(seen: Seen) -> None:
    walk = seen.walk()
    assert walk.first_fault() is None
    assert walk.composes(seen.own)


def test_another_answer_of_the_artifact_is_not_explained_by_them(seen: Seen) -> None:
    other = seen.own["y"].copy()
    other[-1, 0] += 1e-3
    assert not seen.walk().composes({"y": other})
    assert not seen.walk().composes({"y": np.full_like(other, np.nan)})


def test_which_way_ties_are_rounded_is_the_kernels_business(tmp_path: Path) -> None:
    """Pictures from -1 to 1 lie at ties everywhere: many of the first layer's codes are others on another runtime."""
    seen = Seen(tmp_path, ties=True)
    down = seen.answers(seen.images - np.float32(1e-3 / 255))
    first = seen.graph.shown["x_codes"]
    assert (np.abs(down[first] - seen.found[first]) > 0.5 / 255).mean() > 0.05
    walk = seen.walk(**down)
    assert walk.first_fault() is None
    assert walk.composes({"y": down["y"]})
    assert not walk.composes(seen.own), "the artifact answered otherwise"


def test_a_layer_that_is_off_by_one_elsewhere_than_at_ties_explains_nothing(seen: Seen) -> None:
    name = seen.graph.shown["a_codes"]
    cut_off = seen.found[name].copy()
    cut_off.reshape(-1)[::2] -= np.float32(0.2)
    powers = np.exp(cut_off - cut_off.max(axis=1, keepdims=True))
    answer = powers / powers.sum(axis=1, keepdims=True)
    walk = seen.walk(**{name: cut_off, "y": answer})
    assert walk.first_fault() is None, "no code is off by more than one"
    assert not walk.composes({"y": answer})


def test_a_tensor_that_could_not_be_shown_leaves_it_open(seen: Seen) -> None:
    found = {name: array for name, array in seen.found.items() if name != seen.graph.shown["x_codes"]}
    ctx = StepContext(progress=NoProgress(), check=_go_on, seed=0, scratch=seen.folder)
    walk = Walk(seen.graph, Loop(seen.folder, CONTRACT, found), found, None, ctx)
    assert walk.first_fault() is None
    assert not walk.composes(seen.own)
