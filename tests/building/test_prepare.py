"""What freezing a model says goes into the record."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from edgebuild.building.prepare import freeze_model
from edgebuild.core.artifact import Contract, TensorSpec
from edgebuild.models.steps import FreezeModel

if TYPE_CHECKING:
    from pathlib import Path

SPEC = TensorSpec(name="x", shape=("batch", 3), dtype="float32")


def test_what_was_folded_and_what_was_not_is_noted_on_the_model(tmp_path: Path) -> None:
    contract = Contract(inputs=(SPEC,), outputs=(SPEC.model_copy(update={"name": "y"}),))
    (tmp_path / "contract.json").write_text(contract.to_json())
    (tmp_path / "folding.json").write_text(json.dumps(["folded", "not folded"]))
    ran: list[Any] = []
    said: list[tuple[str, str]] = []

    def run(step: Any, inputs: Any, *, label: str) -> Any:
        ran.append((step, label))
        return SimpleNamespace(path=tmp_path)

    project = SimpleNamespace(input_specs=(SPEC,), shipped_shape=lambda _: (1, 3), custom_ops_path=None)
    context: Any = SimpleNamespace(project=project, run=run, say=lambda topic, text: said.append((topic, text)))
    any_step: Any = None
    _, shipped = freeze_model(context, contract, any_step, any_step, any_step, label="freeze")
    assert shipped == contract
    assert ran == [(FreezeModel(contract=contract, shapes=(("x", (1, 3)),)), "freeze")]
    assert said == [("model", "folded"), ("model", "not folded")]
