"""The steps at both ends of a recipe: the user's model as a stored one, and a stored one as ONNX."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, ClassVar

from edgebuild.core.artifact import Contract, TensorSpec
from edgebuild.core.steps import NoProgress, RunsOn, Step, StepContext
from edgebuild.models.compressed_model import CodeNames

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class SaveOriginal(Step):
    """Writes the user's model as a stored model without edits. Input: ``weights`` (.safetensors, optional)."""

    factory: str
    model_digest: str = ""
    kind: ClassVar[str] = "store-original"
    version: ClassVar[int] = 2
    runs_on: ClassVar[RunsOn] = RunsOn.HOST
    tools: ClassVar[tuple[str, ...]] = ("torch",)

    @property
    def uses_code(self) -> bool:
        """See ``Step``."""
        return True

    def run(self, inputs: Mapping[str, Path], out_dir: Path, ctx: StepContext) -> None:
        """See ``Step``."""
        from edgebuild.models import compressed_model, torch_models
        from edgebuild.models.edits import CompressedModel

        ctx.check()
        module = torch_models.make_module(ctx.load(self.factory), self.factory, inputs.get("weights"))
        compressed_model.write_model(module, CompressedModel(factory=self.factory), out_dir)


class SaveOnnx(Step):
    """Reads an ONNX model as a torch module, compares both on real samples, and writes a stored model without edits.

    Inputs: ``model`` (a folder with model.onnx), ``samples`` (a dataset folder), ``reference`` (the model's outputs on
    them). Raises ``ModelError`` naming the node that can't be read, or that gives something else.
    """

    specs: tuple[TensorSpec, ...]
    contract: Contract
    kind: ClassVar[str] = "store-onnx"
    version: ClassVar[int] = 1
    runs_on: ClassVar[RunsOn] = RunsOn.HOST_KERNELS
    tools: ClassVar[tuple[str, ...]] = ("torch", "onnx")

    def run(self, inputs: Mapping[str, Path], out_dir: Path, ctx: StepContext) -> None:
        """See ``Step``."""
        import onnx

        from edgebuild.models import compressed_model
        from edgebuild.models.dataset import Dataset
        from edgebuild.models.edits import CompressedModel
        from edgebuild.models.onnx_graphs import save
        from edgebuild.models.onnx_torch.source import arranged, require_same

        model = arranged(onnx.load(str(inputs["model"] / "model.onnx")), self.specs)
        dataset = Dataset.open(inputs["samples"])
        module = require_same(model, self.specs, self.contract, dataset, inputs["reference"], ctx.progress, ctx.check)
        save(model, out_dir / compressed_model.SOURCE_FILE)
        compressed_model.write_model(module, CompressedModel(factory=compressed_model.SOURCE_FILE), out_dir)


class ExportCompressed(Step):
    """Exports a stored model to ONNX with its named axes dynamic, and compares both on real samples.

    Inputs: ``model`` (a stored model), ``samples`` (a dataset folder). Writes ``model.onnx``, ``export.json``, and the
    torch model's own outputs on the first samples, which the frozen file is compared with. Raises ``ModelError`` naming
    the worst sample when torch and ONNX disagree at any batch size.
    """

    code: CodeNames
    specs: tuple[TensorSpec, ...]
    contract: Contract
    kind: ClassVar[str] = "export-stored"
    version: ClassVar[int] = 2
    runs_on: ClassVar[RunsOn] = RunsOn.HOST_KERNELS
    tools: ClassVar[tuple[str, ...]] = ("torch", "onnx", "onnxscript", "onnxruntime")
    unkeyed: ClassVar[frozenset[str]] = frozenset({"code"})

    @property
    def uses_code(self) -> bool:
        """See ``Step``."""
        return True

    def run(self, inputs: Mapping[str, Path], out_dir: Path, ctx: StepContext) -> None:
        """See ``Step``."""
        from edgebuild.models import compressed_model, torch_models
        from edgebuild.models.dataset import Dataset
        from edgebuild.models.outputs import write_outputs
        from edgebuild.models.steps import collect_outputs, export_checked

        module, _ = compressed_model.load_model(inputs["model"], self.code.code_in(ctx))
        dataset = Dataset.open(inputs["samples"])
        exporter = export_checked(module, self.specs, self.contract, dataset, out_dir / "model.onnx", ctx.check)
        (out_dir / "export.json").write_text(json.dumps({"exporter": exporter}))
        names = tuple(spec.name for spec in self.contract.outputs)
        call = torch_models.call_module(module, tuple(spec.name for spec in self.specs), names)
        outputs = collect_outputs(call, dataset, self.contract, self.contract.batch, ctx.check)
        write_outputs([outputs], out_dir, count=len(outputs[names[0]]), names=names, task=NoProgress())
