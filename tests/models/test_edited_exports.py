"""What edits leave behind can be exported, by both exporters, and computes the same in ONNX Runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from edgebuild.core.artifact import TensorSpec
from edgebuild.models import torch_models
from edgebuild.models.edits import (
    AddHead,
    Codebook,
    Edit,
    Grid,
    KeepHeads,
    Mask,
    MonarchLinear,
    Quantise,
    ReplaceModule,
)
from edgebuild.models.host_session import HostSession
from edgebuild.models.interpreter import apply_edits, layer_at
from tests.models.test_edits import X, fresh
from tests.techniques.zoo import IMAGE, ZOO, grown

if TYPE_CHECKING:
    from pathlib import Path

SPECS = (TensorSpec(name="x", shape=("batch", 4, 8, 8), dtype="float32"),)
CASES: dict[str, tuple[Edit, ...]] = {
    "a head": (AddHead(name="early", after="2", features=8, outputs=3, hidden=4),),
    "views": (
        Mask(module="8"),
        Quantise(module="8", weight=Grid(bits=4, per_channel=True), input=Grid(bits=8), output=Grid(bits=8)),
        Codebook(module="4", entries=4, zero=True),
        Quantise(module="10", weight=Grid(bits=1)),
    ),
    "monarch": (ReplaceModule(module="8", by=MonarchLinear(blocks=2)),),
}


@pytest.mark.parametrize(
    ("name", "quick"), [("a head", True), ("a head", False), ("views", True), ("views", False), ("monarch", True)]
)
def test_edited_models_export(name: str, quick: bool, tmp_path: Path) -> None:
    model = apply_edits(fresh(), CASES[name]).eval().requires_grad_(False)
    if name == "views":
        layer: Any = layer_at(model, "8")
        layer.parametrizations.weight[1].fit(layer.parametrizations.weight.original)
        layer.input_grid.scale.fill_(0.02)
        layer.output_grid.scale.fill_(0.03)
        shared: Any = layer_at(model, "4")
        shared.parametrizations.weight[0].codebook.copy_(torch.tensor([9.0, -0.1, 0.1, 0.2]))
        shared.parametrizations.weight[0].index.random_(0, 4)
    names = ("early", "logits") if name == "a head" else ("logits",)
    path = tmp_path / "model.onnx"
    by = torch_models.export(model, (X,), SPECS, names, path, quick=quick)
    assert by == ("tracing" if quick else "dynamo")
    got = HostSession(path)({"x": X[:2].numpy()})
    expected = torch_models.call_module(model, ("x",), names)({"x": X[:2].numpy()})
    for output in names:
        np.testing.assert_allclose(got[output], expected[output], rtol=1e-3, atol=1e-3)
    if name == "views":
        import onnx

        ops = [node.op_type for node in onnx.load(str(path)).graph.node]
        assert "Sub" not in ops, "what only serves gradients isn't exported"


def test_attention_with_fewer_heads_exports(tmp_path: Path) -> None:
    model = apply_edits(grown(ZOO["vit"]), [KeepHeads(module="blocks.0.attention", heads=(0, 3))]).requires_grad_(False)
    image = torch.randn(3, 3, 8, 8)
    torch_models.export(model, (image,), (IMAGE,), ("logits",), tmp_path / "model.onnx", quick=True)
    got = HostSession(tmp_path / "model.onnx")({"image": image[:2].numpy()})["logits"]
    np.testing.assert_allclose(got, model(image[:2]).numpy(), rtol=1e-4, atol=1e-5)
