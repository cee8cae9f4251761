"""Layers as they are, beside what a technique would put in their place: pairs of small models, for a target to time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import field_serializer, field_validator

from edgebuild.core.artifact import Contract, TensorSpec
from edgebuild.core.data import Sample
from edgebuild.core.steps import CacheScope, NoProgress, RunsOn, Step, StepContext
from edgebuild.techniques.technique import Technique
from edgebuild.techniques.timing.layer_times import PAIRS_FILE, PairList

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor, nn

    from edgebuild.core.values import Json
    from edgebuild.techniques.technique import Proposal
    from edgebuild.techniques.workspace import Workspace

#: The two sides of a pair.
SIDES = ("before", "after")


class ExportLayerPairs(Step):
    """Exports every layer that a technique would replace, in isolation, and what it would put there.

    Inputs: those of the technique's step. Writes ``pairs.json`` and for each pair N ``N/before/model.onnx``,
    ``N/after/model.onnx``, ``N/contract.json`` and ``N/data``, one call's real input with ``batch`` samples: what
    reaches the layer when the model is fed. A layer that isn't called with one float32 tensor is left out.
    """

    step: Technique
    batch: int
    kind: ClassVar[str] = "export-layer-pairs"
    version: ClassVar[int] = 1
    runs_on: ClassVar[RunsOn] = RunsOn.HOST_KERNELS

    @field_serializer("step")
    def _named(self, step: Technique) -> dict[str, Any]:
        return {"kind": step.kind, **step.model_dump(mode="json")}

    @field_validator("step", mode="before")
    @classmethod
    def _of_its_kind(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        from edgebuild.techniques.registry import techniques_by_name

        fields = dict(value)
        return techniques_by_name()[fields.pop("kind")].model_validate(fields)

    @property
    def uses_code(self) -> bool:
        """See ``Step``."""
        return self.step.uses_code

    @property
    def cache(self) -> CacheScope:
        """See ``Step``."""
        return self.step.cache

    def all_tools(self) -> tuple[str, ...]:
        """See ``Step``."""
        return tuple(dict.fromkeys((*self.step.tools, "numpy", "onnx", "torch")))

    def key_fields(self) -> dict[str, Json]:
        """See ``Step``: of the technique its own key's fields."""
        technique = {"kind": self.step.kind, "version": self.step.version, **self.step.key_fields()}
        return {"batch": self.batch, "technique": technique}

    def run(self, inputs: Mapping[str, Path], out_dir: Path, ctx: StepContext) -> None:
        """See ``Step``."""
        from edgebuild.models.interpreter import layer_at
        from edgebuild.techniques.workspace import Workspace

        work = Workspace.open(self.step, inputs, ctx)
        numbers: dict[tuple[str, ...], int] = {}
        layers: list[tuple[str, int]] = []
        for proposal in self.step.proposals(work):
            ctx.check()
            name = proposal.edit.module
            layer = layer_at(work.module, name)
            seen = input_of(work, layer, self.batch)
            if seen is None:
                continue
            alike = (repr(layer), repr(tuple(seen.shape)), proposal.edit.by.to_json())
            if alike not in numbers:
                numbers[alike] = len(numbers)
                _write(work, proposal, layer, seen, out_dir / str(numbers[alike]))
            layers.append((name, numbers[alike]))
        (out_dir / PAIRS_FILE).write_text(PairList(layers=tuple(layers)).to_json())


def input_of(work: Workspace, layer: nn.Module, batch: int) -> Tensor | None:
    """Return what the layer is fed when it is first called with ``batch`` samples; None where that can't be timed."""
    import torch

    seen: list[tuple[Any, ...]] = []
    hook = layer.register_forward_pre_hook(lambda _, given: seen.append(given))
    try:
        with torch.no_grad():
            inputs, _ = next(work.batches(work.dataset(train=False), batch, limit=batch))
            work.run(work.module, inputs)
    finally:
        hook.remove()
    first = seen[0] if seen else ()
    if len(first) != 1 or not isinstance(first[0], torch.Tensor):
        return None
    value = first[0]
    fits = value.dtype == torch.float32 and value.dim() > 0 and value.numel() > 0 and bool(value.isfinite().all())
    return value if fits else None


def _write(work: Workspace, proposal: Proposal, layer: nn.Module, value: Tensor, folder: Path) -> None:
    import torch

    from edgebuild.models.dataset import write_dataset
    from edgebuild.models.interpreter import copied, layer_at
    from edgebuild.models.torch_models import export

    new = layer_at(work.tried(proposal.edit), proposal.edit.module)
    proposal.fill(new)
    with torch.no_grad():
        result = layer(value)
    spec = TensorSpec(name="x", shape=tuple(value.shape), dtype="float32")
    contract = Contract(inputs=(spec,), outputs=(TensorSpec(name="y", shape=tuple(result.shape), dtype="float32"),))
    for side, module in zip(SIDES, (layer, new), strict=True):
        (folder / side).mkdir(parents=True)
        plain = copied(module).requires_grad_(False)
        export(plain, (value,), (spec,), ("y",), folder / side / "model.onnx", quick=True)
    (folder / "contract.json").write_text(contract.to_json())
    (folder / "data").mkdir()
    write_dataset(
        (Sample(inputs={"x": row}) for row in value.numpy()),
        folder / "data",
        specs=(spec,),
        stateful=False,
        source=f"the input of layer {proposal.edit.module!r}",
        task=NoProgress(),
        check=work.ctx.check,
    )
