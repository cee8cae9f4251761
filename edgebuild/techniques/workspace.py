"""One compression under way: the module, the edits so far, the data, and what was said about each layer.

This is all that a technique works with. Imports torch: import it inside functions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import nn

from edgebuild.errors import DataError, EdgebuildError, ModelError
from edgebuild.models import compressed_model
from edgebuild.models.exits import with_exits
from edgebuild.models.interpreter import apply_edits, copied
from edgebuild.models.replacements import WithHeads
from edgebuild.models.steps import export_checked
from edgebuild.models.torch_models import example_inputs, failing_layer, flatten
from edgebuild.techniques.report import LayerReport, TechniqueReport
from edgebuild.techniques.sizes import count_macs, count_parameters
from edgebuild.techniques.timing.layer_times import read_times
from edgebuild.training.losses import cross_entropy, fits, known_l2

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from edgebuild.core.artifact import Contract, TensorSpec
    from edgebuild.core.steps import StepContext
    from edgebuild.models.compressed_model import CodeNames, UserCode
    from edgebuild.models.dataset import Dataset
    from edgebuild.models.edits import CompressedModel, Edit
    from edgebuild.techniques.timing.layer_times import LayerTimes

#: Samples that normalisations are recalibrated on, at most, and in batches of how many.
NORM_SAMPLES = 1024
NORM_BATCH = 64
#: Frames that a rebuilt model is compared on.
PROBE_FRAMES = 8

#: The data that a step may be given.
DATA = ("train", "calibration", "validation")

Batch = tuple[tuple[torch.Tensor, ...], torch.Tensor | None]


class CompressionStep(Protocol):
    """What a workspace needs to know of the step that works in it: see ``Technique``."""

    @property
    def kind(self) -> str:
        """The technique's name."""
        ...

    @property
    def changes(self) -> frozenset[Any]:
        """What it changes."""
        ...

    @property
    def parameters(self) -> Any:
        """Its own parameters."""
        ...

    @property
    def code(self) -> CodeNames:
        """What of the user's code it may call."""
        ...

    @property
    def specs(self) -> tuple[TensorSpec, ...]:
        """The model's inputs in the order of ``forward``."""
        ...

    @property
    def contract(self) -> Contract:
        """How the model is called."""
        ...

    @property
    def loss(self) -> str:
        """The user's own loss; empty without."""
        ...

    @property
    def loader(self) -> str:
        """The user's own training loader; empty without."""
        ...


@dataclass
class Workspace:
    """The model that a technique changes, and what it may use for that.

    ``module`` is in eval mode between a technique's own steps. ``examples`` are the model's inputs in order, real
    samples. ``said`` holds what is reported of each layer; ``times`` what the target said of layers, if it was asked.
    """

    step: CompressionStep
    module: nn.Module
    stored: CompressedModel
    examples: tuple[torch.Tensor, ...]
    data: Mapping[str, Dataset]
    folder: Path
    teacher_folder: Path | None
    ctx: StepContext
    said: list[LayerReport] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    edits: list[Edit] = field(default_factory=list)
    sizes_before: tuple[int, int] = (0, 0)
    shapes_before: tuple[tuple[tuple[int, ...], torch.dtype], ...] = ()
    times: LayerTimes | None = None

    @property
    def code(self) -> UserCode:
        """The user's code, as far as the step may call it."""
        return self.step.code.code_in(self.ctx)

    @property
    def code_digest(self) -> str:
        """What stands for the user's code in keys."""
        return "" if self.ctx.code is None else self.ctx.code.digest

    @classmethod
    def open(cls, step: CompressionStep, inputs: Mapping[str, Path], ctx: StepContext) -> Workspace:
        """Load the model and open the data; raises ``ModelError`` for a model that doesn't run on real samples."""
        from edgebuild.models.dataset import Dataset
        from edgebuild.models.host_session import constant_array

        module, model = compressed_model.load_model(inputs["model"], step.code.code_in(ctx))
        data = {name: Dataset.open(inputs[name]) for name in DATA if name in inputs}
        first = next(iter(data.values()), None)
        if first is None:
            raise DataError(f"{step.kind} has neither calibration nor training data.")
        torch.manual_seed(ctx.seed)
        samples = {name: first.array(name)[:PROBE_FRAMES] for name in first.inputs}
        constants = {constant.name: constant_array(constant) for constant in step.contract.constants}
        work = cls(
            step=step,
            module=module,
            stored=model,
            examples=example_inputs(step.specs, samples, constants),
            data=data,
            folder=inputs["model"],
            teacher_folder=inputs.get("teacher"),
            ctx=ctx,
            times=read_times(inputs),
        )
        work.shapes_before = work.output_shapes(module)
        work.sizes_before = work.sizes(module)
        return work

    def apply(self, *changes: Edit) -> None:
        """Carry out edits on the module and remember them; raises ``ModelError`` where one doesn't fit."""
        self.module = apply_edits(self.module, changes, self.code.module_maker)
        self.edits.extend(changes)

    def tried(self, *changes: Edit) -> nn.Module:
        """Return a copy with edits carried out that is known to run and to keep its outputs; nothing is changed here.

        Raises ``ModelError`` naming the layer where it can't be built or doesn't run.
        """
        module = apply_edits(copied(self.module), changes, self.code.module_maker)
        self.require_shapes(module)
        return module

    def say(self, layer: str, before: object, after: object, reason: str = "") -> None:
        """Report what became of a layer."""
        self.said.append(LayerReport(layer=layer, before=str(before), after=str(after), reason=reason))

    def teacher(self) -> nn.Module:
        """Return the original model, frozen, in eval mode."""
        if self.teacher_folder is None:
            raise ModelError(f"{self.step.kind} has no teacher.", hint="The original model is always given as one.")
        module, _ = compressed_model.load_model(self.teacher_folder, self.code)
        return module.requires_grad_(False)

    def dataset(self, *, train: bool) -> Dataset:
        """Return the training data, or the calibration data where ``train`` is false or there are no training data."""
        for name in ("train", "calibration") if train else ("calibration", "train"):
            if name in self.data:
                return self.data[name]
        raise DataError(f"{self.step.kind} has no data.")

    def validation(self) -> Dataset:
        """Return the data to choose between models by; the calibration data where there are none."""
        return self.data["validation"] if "validation" in self.data else self.dataset(train=False)

    def labels(self, dataset: Dataset) -> NDArray[Any] | None:
        """Return the targets that a loss can be taken of: None for texts, boxes and what else no loss here reads."""
        numbers = dataset.numbers
        if numbers is None or self.step.loss:
            return numbers
        shape, _ = self.shapes_before[0]
        return numbers if fits(shape, numbers.shape, whole=numbers.dtype.kind in "iub") else None

    @property
    def labelled(self) -> bool:
        """Whether there is something to learn from beside the original's answers; of a loader of the user's: yes."""
        return bool(self.step.loader) or self.labels(self.dataset(train=True)) is not None

    def loader(self) -> Any:
        """Return what the user's own ``[training].loader`` gives; None without: then ``dataset`` is trained on."""
        if not self.step.loader:
            return None
        try:
            return self.code.load(self.step.loader)()
        except EdgebuildError:
            raise
        except Exception as error:  # whatever the user's code raises
            raise DataError(
                f"{self.step.loader} failed: {type(error).__name__}: {error}", hint="Call it directly to see where."
            ) from error

    def batches(
        self, dataset: Dataset, size: int, *, limit: int | None = None, shuffle: bool = False
    ) -> Iterator[Batch]:
        """Yield inputs in the model's order, constants among them, and targets; shuffled by the seed where asked."""
        order = np.arange(dataset.frames)
        if shuffle:
            np.random.default_rng(self.ctx.seed).shuffle(order)
        order = order[:limit]
        arrays, numbers = {name: dataset.array(name) for name in dataset.inputs}, self.labels(dataset)
        for start in range(0, len(order), size):
            self.ctx.check()
            rows = np.sort(order[start : start + size])
            target = None if numbers is None else torch.from_numpy(np.asarray(numbers[rows]).copy())
            yield self._inputs({name: np.asarray(array[rows]) for name, array in arrays.items()}), target

    def _inputs(self, arrays: Mapping[str, NDArray[Any]]) -> tuple[torch.Tensor, ...]:
        examples = dict(zip((spec.name for spec in self.step.specs), self.examples, strict=True))
        return tuple(
            torch.from_numpy(arrays[name].copy()) if name in arrays else examples[name]
            for name in (spec.name for spec in self.step.specs)
        )

    def run(self, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
        """Run a module and return its outputs in order, gradients on where they are on; errors name the layer."""
        try:
            return flatten(module(*inputs))
        except EdgebuildError:
            raise
        except Exception as error:  # whatever the user's forward raises
            first = str(error).splitlines()[0][:300] if str(error) else ""
            raise ModelError(
                f"The model failed in {failing_layer(error, module)}: {type(error).__name__}: {first}",
                hint="Its forward() can't be compressed so; leave the technique out, or that layer.",
            ) from error

    def output_shapes(self, module: nn.Module) -> tuple[tuple[tuple[int, ...], torch.dtype], ...]:
        """Return shape and dtype of every output on the examples."""
        with torch.no_grad():
            return tuple((tuple(output.shape), output.dtype) for output in self.run(module, self.examples))

    def require_shapes(self, module: nn.Module) -> None:
        """Raise ``ModelError`` unless a module runs and ends in the outputs that the model had, heads' before them."""
        got = self.output_shapes(module)
        own = got[len(got) - len(self.shapes_before) :] if "heads" in self.step.changes else got
        if own != self.shapes_before:
            raise ModelError(
                f"{self.step.kind} changed the model's outputs from {_shapes(self.shapes_before)} to {_shapes(own)}.",
                hint="Leave the last layers out of it.",
            )

    def recalibrate_norms(self) -> int:
        """Take the running statistics of batch normalisations again from the data; return how many there are.

        A pruned net's old statistics are those of channels that are gone. Source: Li et al. 2020, "EagleEye".
        """
        kind = nn.modules.batchnorm._BatchNorm
        norms = [m for m in self.module.modules() if isinstance(m, kind) and m.track_running_stats]
        if not norms:
            return 0
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean over all batches
            norm.train()
        data = self.dataset(train=True)
        with torch.no_grad():
            for inputs, _ in self.batches(data, NORM_BATCH, limit=NORM_SAMPLES, shuffle=True):
                # One sample has no variance; a single one in all is for the layer itself to refuse.
                if len(inputs[0]) > 1 or data.frames == 1:
                    self.run(self.module, inputs)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        self.module.eval()
        return len(norms)

    def loss(self, outputs: list[torch.Tensor], target: torch.Tensor | None) -> torch.Tensor:
        """Return the task's loss: the user's own, else cross-entropy for whole targets and squared error for others.

        Unknown targets (-1, NaN) have no share. Without targets: the outputs' mean square, whose gradient says what the
        outputs hang on. Raises ``ModelError`` where it can't be taken.
        """
        try:
            return self._own_loss(outputs, target) if self.step.loss else self._task_loss(outputs, target)
        except EdgebuildError:
            raise
        except Exception as error:  # whatever the user's loss raises, and torch for classes that the model doesn't have
            raise ModelError(
                f"The loss failed: {type(error).__name__}: {str(error).splitlines()[0][:300] if str(error) else ''}",
                hint="Check that it fits the model's outputs and the data's targets.",
            ) from error

    def _task_loss(self, outputs: list[torch.Tensor], target: torch.Tensor | None) -> torch.Tensor:
        first = self._own(outputs)[0]
        if target is None:
            return torch.stack([output.float().pow(2).mean() for output in outputs]).sum()
        if fits(first.shape, target.shape, whole=not target.is_floating_point()):
            return (known_l2 if target.is_floating_point() else cross_entropy)(first.float(), target)
        raise DataError(
            f"No loss is known for targets {target.dtype} {list(target.shape)} and outputs {list(first.shape)}.",
            hint='Name yours as [training].loss = "module:function", called with the outputs and the targets.',
        )

    def _own_loss(self, outputs: list[torch.Tensor], target: torch.Tensor | None) -> torch.Tensor:
        own = self._own(outputs)
        value = self.code.load(self.step.loss)(own if len(own) > 1 else own[0], target)
        if not isinstance(value, torch.Tensor) or value.dim() != 0:
            raise DataError(f"{self.step.loss} must return one number as a tensor.", hint="Return loss.mean().")
        return value

    def _own(self, outputs: list[torch.Tensor]) -> list[torch.Tensor]:
        """Return the model's own outputs, behind those of its heads; a head's answer given alone stands for them."""
        heads = len(self.module.heads) if isinstance(self.module, WithHeads) else 0
        return outputs[heads:] or outputs

    def sizes(self, module: nn.Module) -> tuple[int, int]:
        """Return MACs of one sample, and parameters."""
        return count_macs(module, self.examples, lambda m, x: self.run(m, x)), count_parameters(module)

    def store(self, folder: Path, *, with_onnx: bool) -> None:
        """Write the model and check what is ensured: see ``edgebuild.techniques.technique``."""
        self.module.eval()
        self.require_shapes(self.module)
        model = self.stored.model_copy(update={"edits": (*self.stored.edits, *self.edits)})
        compressed_model.write_model(self.module, model, folder, source=self.folder)
        rebuilt, _ = compressed_model.load_model(folder, self.code)
        with torch.no_grad():
            pairs = zip(self.run(self.module, self.examples), self.run(rebuilt, self.examples), strict=True)
            if not all(torch.equal(mine, theirs) for mine, theirs in pairs):
                raise ModelError(
                    f"{self.step.kind}: rebuilt from its edits the model gives other outputs.",
                    hint="The technique changed something that no edit says, or the factory isn't deterministic.",
                )
        if with_onnx:
            self._require_onnx(rebuilt)

    def _require_onnx(self, module: nn.Module) -> None:
        dataset = self.dataset(train=False)
        path = self.ctx.scratch / "parity.onnx"
        contract = with_exits(self.step.contract, (*self.stored.edits, *self.edits))
        export_checked(module, self.step.specs, contract, dataset, path, self.ctx.check, quick=True)

    def report(self, summary: str) -> TechniqueReport:
        """Return the report of what was done."""
        macs, parameters = self.sizes(self.module)
        return TechniqueReport(
            technique=self.step.kind,
            summary=summary,
            macs_before=self.sizes_before[0],
            macs_after=macs,
            parameters_before=self.sizes_before[1],
            parameters_after=parameters,
            layers=tuple(self.said),
            notes=tuple(self.notes),
        )


def _shapes(found: tuple[tuple[tuple[int, ...], torch.dtype], ...]) -> str:
    return ", ".join(f"{str(dtype).removeprefix('torch.')} {list(shape)}" for shape, dtype in found)
