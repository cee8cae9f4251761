"""The steps that turn what the user gave into a frozen ONNX model, materialised data and reference outputs."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any, ClassVar

from edgebuild.core.artifact import BATCH_AXIS, Contract, TensorSpec
from edgebuild.core.steps import RunsOn, Step, StepContext
from edgebuild.errors import DataError, EdgebuildError, ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from edgebuild.core.data import Sample

#: Samples that exported and frozen models are compared on.
PARITY_SAMPLES = 64
#: Batch sizes that an export with a dynamic batch is compared at.
PARITY_BATCHES = (1, 2, 5)

#: What is reported where folding didn't keep the outputs.
NOT_FOLDED = "folding scales and shifts into the layers changed the outputs: the model is built without"
#: What is reported of a model in float16, and where its outputs say that it must stay so.
WIDENED = "what the model computes in float16 is computed in float32; its inputs and outputs keep their types"
NOT_WIDENED = "computing in float32 changed the outputs: what is float16 in the model stays so, and isn't quantised"


class MaterialiseData(Step):
    """Calls a user's data callable once and writes its samples as mapped arrays. Writes a dataset folder.

    ``source`` is a reference of the project's, or an ``.npz`` file, which is the input ``file``. ``content`` is the
    digest of the samples that were read before (``dataset.digest_samples``): with it they, and not the code that yields
    them, decide what is reused. Empty for a file. Raises ``DataError`` when the callable now yields other samples.
    """

    source: str
    specs: tuple[TensorSpec, ...]
    stateful: bool
    content: str = ""
    kind: ClassVar[str] = "materialise-data"
    version: ClassVar[int] = 2
    runs_on: ClassVar[RunsOn] = RunsOn.HOST
    tools: ClassVar[tuple[str, ...]] = ()

    def run(self, inputs: Mapping[str, Path], out_dir: Path, ctx: StepContext) -> None:
        """See ``Step``."""
        from edgebuild.catalogue.samples import NpzSamples
        from edgebuild.models.dataset import write_dataset
        from edgebuild.models.digests import SamplesDigest

        names = tuple(spec.name for spec in self.specs)
        call = NpzSamples(path=inputs["file"], inputs=names) if "file" in inputs else ctx.load(self.source)
        samples, digest = call_for_samples(call, self.source), SamplesDigest()
        with ctx.progress.task(f"Writing {self.source}") as task:
            write_dataset(
                samples,
                out_dir,
                specs=self.specs,
                stateful=self.stateful,
                source=self.source,
                task=task,
                check=ctx.check,
                digest=digest,
            )
        if self.content and digest.value != self.content:
            raise unsteady(self.source)


def call_for_samples(call: Callable[[], Iterable[Sample]], source: str) -> Iterable[Sample]:
    """Return what a data callable returns; raises ``DataError`` naming it where it fails."""
    try:
        return call()
    except EdgebuildError:
        raise
    except Exception as error:
        raise DataError(
            f"{source} failed: {type(error).__name__}: {error}",
            hint="Run the callable directly to see where it fails.",
        ) from error


def unsteady(source: str) -> DataError:
    """Return the error that says that a data callable's samples change between two readings."""
    return DataError(
        f"{source} yields other samples at each call: two readings in a row differ.",
        hint="Fix its seed and its order; augmented training data come from [training].loader.",
    )


class ExportTorch(Step):
    """Exports the user's torch module to ONNX with its named axes dynamic, and compares both on real samples.

    Inputs: ``samples`` (a dataset folder), ``weights`` (a .safetensors file, optional). ``model_digest`` says which
    tensors the factory gives, whatever file it reads them from. Writes ``model.onnx`` and ``export.json``. Raises
    ``ModelError`` naming the worst sample when torch and ONNX disagree at any batch size.
    """

    factory: str
    specs: tuple[TensorSpec, ...]
    contract: Contract
    model_digest: str = ""
    kind: ClassVar[str] = "export-torch"
    version: ClassVar[int] = 1
    runs_on: ClassVar[RunsOn] = RunsOn.HOST_KERNELS
    tools: ClassVar[tuple[str, ...]] = ("torch", "onnx", "onnxscript", "onnxruntime")

    @property
    def uses_code(self) -> bool:
        """See ``Step``."""
        return True

    def run(self, inputs: Mapping[str, Path], out_dir: Path, ctx: StepContext) -> None:
        """See ``Step``."""
        from edgebuild.models import torch_models
        from edgebuild.models.dataset import Dataset

        module = torch_models.make_module(ctx.load(self.factory), self.factory, inputs.get("weights"))
        dataset = Dataset.open(inputs["samples"])
        exporter = export_checked(module, self.specs, self.contract, dataset, out_dir / "model.onnx", ctx.check)
        (out_dir / "export.json").write_text(json.dumps({"exporter": exporter}))


def export_checked(
    module: Any,
    specs: tuple[TensorSpec, ...],
    contract: Contract,
    dataset: Any,
    path: Path,
    check: Callable[[], None],
    *,
    quick: bool = False,
) -> str:
    """Export a torch module and compare both on real samples, at several batch sizes; return the exporter's name.

    The module's parameters are frozen by it, so that what only serves gradients isn't exported, and layers on grids are
    laid plain: see ``trained_grids.lay_plain``, whose findings go into the file. ``quick`` takes the
    exporter that is faster first, for a file that only serves to compare. Raises ``ModelError`` naming the worst sample
    where they disagree.
    """
    from edgebuild.models import torch_models, trained_grids
    from edgebuild.models.host_session import HostSession, constant_array
    from edgebuild.models.outputs import check_finite

    module.requires_grad_(False)
    settled = trained_grids.lay_plain(module)
    arrays = {name: dataset.array(name)[: torch_models.EXAMPLE_BATCH] for name in dataset.inputs}
    outputs = tuple(spec.name for spec in contract.outputs) + tuple(s.output for s in contract.state)
    constants = {constant.name: constant_array(constant) for constant in contract.constants}
    examples = torch_models.example_inputs(specs, arrays, constants)
    exporter = torch_models.export(module, examples, specs, outputs, path, quick=quick)
    trained_grids.attach(path, settled)
    check()
    call = torch_models.call_module(module, tuple(spec.name for spec in specs), outputs)
    session = HostSession(path)
    dynamic = not contract.state and any(BATCH_AXIS in spec.shape for spec in specs)
    for batch in PARITY_BATCHES if dynamic else (contract.batch,):
        expected = collect_outputs(call, dataset, contract, batch, check)
        check_finite(expected, "the torch model")
        got = collect_outputs(session, dataset, contract, batch, check)
        try:
            require_parity(expected, got, f"the exported ONNX model at batch size {batch}", "torch")
        except ModelError:
            _require_steady(expected, collect_outputs(call, dataset, contract, batch, check))
            raise
    return exporter


def _require_steady(once: Mapping[str, Any], again: Mapping[str, Any]) -> None:
    """Raise ``ModelError`` where a torch model's own answers to the same samples differ: no export could be right."""
    from edgebuild.models.outputs import worst_mismatch

    worst = worst_mismatch(once, again)
    if worst is not None:
        output, frame, gap = worst
        raise ModelError(
            f"The torch model answers the same sample differently the next time: its output {output!r} of sample "
            f"{frame} is off by {gap:.3g}.",
            hint="Take its randomness out; what it keeps between calls is an input and an output ([model.state]).",
        )


class ImportOnnx(Step):
    """Checks an ONNX file of the user's and writes it in one piece, external data inside.

    Inputs: ``model`` (the file), and ``external-…`` for its external data. Writes ``model.onnx``. Raises ``ModelError``
    where the file can't be read, or crashes onnxruntime, which is tried in a process of its own.
    """

    kind: ClassVar[str] = "import-onnx"
    version: ClassVar[int] = 2
    runs_on: ClassVar[RunsOn] = RunsOn.HOST
    tools: ClassVar[tuple[str, ...]] = ("onnx",)

    def run(self, inputs: Mapping[str, Path], out_dir: Path, ctx: StepContext) -> None:
        """See ``Step``."""
        from edgebuild.models.onnx_child import Refused, run_apart
        from edgebuild.models.onnx_files import load_onnx
        from edgebuild.models.onnx_graphs import save

        del ctx
        model = load_onnx(inputs["model"])
        # What onnxruntime merely refuses is said where it is used, with the user's library and shapes.
        with contextlib.suppress(Refused):
            if run_apart(model, "open") is None:
                raise ModelError(
                    f"{inputs['model']} crashes onnxruntime.", hint="Is it complete? Export it again, or simplify it."
                )
        save(model, out_dir / "model.onnx")


class FreezeModel(Step):
    """Freezes shapes and constant inputs, widens float16, simplifies, folds, and compares with the reference.

    A widened or folded model that differs from it on real samples isn't taken. Inputs: ``model`` (folder), ``samples``
    (dataset folder), ``reference`` (outputs of the reference on the same samples), ``library`` (custom operators,
    optional). Writes ``model.onnx``, ``contract.json`` (shipped shapes) and ``folding.json`` (notes).
    """

    contract: Contract
    shapes: tuple[tuple[str, tuple[int | str, ...]], ...]
    kind: ClassVar[str] = "freeze-model"
    version: ClassVar[int] = 6
    runs_on: ClassVar[RunsOn] = RunsOn.HOST_KERNELS
    tools: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime")

    def run(self, inputs: Mapping[str, Path], out_dir: Path, ctx: StepContext) -> None:
        """See ``Step``."""
        import onnx

        from edgebuild.models.widening import widened

        model = onnx.load(str(inputs["model"] / "model.onnx"))
        wide = widened(model)
        if wide is None:
            notes = self._freeze(model, inputs, out_dir, ctx)
        else:
            try:
                notes = (WIDENED, *self._freeze(wide, inputs, out_dir, ctx))
            except ModelError:
                notes = (NOT_WIDENED, *self._freeze(model, inputs, out_dir, ctx))
        (out_dir / "folding.json").write_text(json.dumps(notes))

    def _freeze(self, model: Any, inputs: Mapping[str, Path], out_dir: Path, ctx: StepContext) -> tuple[str, ...]:
        """Write the frozen model and how it is called; return the notes on folding."""
        from edgebuild.models.dataset import Dataset
        from edgebuild.models.folding.fold import fold
        from edgebuild.models.freezing import freeze, shipped_contract
        from edgebuild.models.host_session import HostSession
        from edgebuild.models.onnx_files import read_facts
        from edgebuild.models.onnx_graphs import save
        from edgebuild.models.outputs import read_outputs

        library = inputs.get("library")
        frozen = freeze(model, shapes=dict(self.shapes), constants=self.contract.constants, library=library)
        path = out_dir / "model.onnx"
        contract = shipped_contract(read_facts(frozen), self.contract.model_copy(update={"constants": ()}))
        dataset, expected = Dataset.open(inputs["samples"]), read_outputs(inputs["reference"])

        def outputs_of(model: Any) -> dict[str, NDArray[Any]]:
            save(model, path)
            ctx.check()
            return collect_outputs(HostSession(path, library=library), dataset, contract, contract.batch, ctx.check)

        folded = fold(frozen)
        notes = folded.notes
        if not folded.changed or not _agrees(lambda: outputs_of(folded.model), expected):
            require_parity(expected, outputs_of(frozen), "the model in its shipped shape", "the reference")
            notes = (NOT_FOLDED,) if folded.changed else notes
        (out_dir / "contract.json").write_text(contract.to_json())
        return notes


class FreezeShapes(Step):
    """Freezes shapes and simplifies, for a model that nobody judges: there is no reference to compare with.

    Inputs: ``model`` (folder). Writes ``model.onnx`` and ``contract.json``.
    """

    shapes: tuple[tuple[str, tuple[int | str, ...]], ...]
    kind: ClassVar[str] = "freeze-shapes"
    version: ClassVar[int] = 2
    runs_on: ClassVar[RunsOn] = RunsOn.HOST_KERNELS
    tools: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime")

    def run(self, inputs: Mapping[str, Path], out_dir: Path, ctx: StepContext) -> None:
        """See ``Step``."""
        import onnx

        from edgebuild.models.freezing import freeze
        from edgebuild.models.onnx_files import read_facts
        from edgebuild.models.onnx_graphs import save

        del ctx
        model = onnx.load(str(inputs["model"] / "model.onnx"))
        frozen = freeze(model, shapes=dict(self.shapes), constants=())
        save(frozen, out_dir / "model.onnx")
        facts = read_facts(frozen)
        (out_dir / "contract.json").write_text(Contract(inputs=facts.inputs, outputs=facts.outputs).to_json())


class ReferenceOutputs(Step):
    """The model as given, over a data set: torch eager fp32, or ONNX in onnxruntime with optimisation off.

    Inputs: ``data`` (dataset folder) and ``model`` (ONNX folder), or ``weights`` (optional) when ``factory`` builds a
    torch module, whose tensors ``model_digest`` stands for. Writes an outputs folder. Raises ``DataError`` when the
    reference answers NaN or infinity.
    """

    contract: Contract
    batch: int
    split: str
    order: tuple[str, ...] = ()
    factory: str | None = None
    model_digest: str = ""
    kind: ClassVar[str] = "reference-outputs"
    version: ClassVar[int] = 1
    runs_on: ClassVar[RunsOn] = RunsOn.HOST_KERNELS
    tools: ClassVar[tuple[str, ...]] = ("torch", "onnxruntime")

    @property
    def uses_code(self) -> bool:
        """See ``Step``."""
        return self.factory is not None

    def run(self, inputs: Mapping[str, Path], out_dir: Path, ctx: StepContext) -> None:
        """See ``Step``."""
        from edgebuild.models.dataset import Dataset
        from edgebuild.models.host_session import run_dataset
        from edgebuild.models.outputs import check_finite, read_outputs, write_outputs

        dataset = Dataset.open(inputs["data"])
        names = tuple(spec.name for spec in self.contract.outputs)
        frames = run_dataset(self._model(inputs, ctx), dataset, self.contract, batch=self.batch, check=ctx.check)
        with ctx.progress.task(f"Reference on {self.split}", total=dataset.frames) as task:
            write_outputs(frames, out_dir, count=dataset.frames, names=names, task=task)
        check_finite(read_outputs(out_dir), f"the reference model on the {self.split} data")

    def _model(self, inputs: Mapping[str, Path], ctx: StepContext) -> Callable[..., dict[str, Any]]:
        if self.factory is None:
            from edgebuild.models.host_session import HostSession

            return HostSession(inputs["model"] / "model.onnx", library=inputs.get("library"))
        from edgebuild.models import torch_models

        module = torch_models.make_module(ctx.load(self.factory), self.factory, inputs.get("weights"))
        outputs = tuple(spec.name for spec in self.contract.outputs) + tuple(s.output for s in self.contract.state)
        return torch_models.call_module(module, self.order, outputs)


def collect_outputs(
    call: Callable[..., dict[str, Any]], dataset: Any, contract: Contract, batch: int, check: Callable[[], None]
) -> dict[str, NDArray[Any]]:
    """Return a model's outputs on the first ``PARITY_SAMPLES`` samples, run in batches of ``batch``."""
    import numpy as np

    from edgebuild.models.host_session import run_dataset

    limit = PARITY_SAMPLES if not contract.state else min(4, dataset.samples)
    parts = list(run_dataset(call, dataset, contract, batch=batch, limit=limit, check=check))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _agrees(run: Callable[[], Mapping[str, Any]], expected: Mapping[str, Any]) -> bool:
    """Whether a model runs and answers as expected, up to rounding."""
    from edgebuild.models.outputs import worst_mismatch

    try:
        return worst_mismatch(expected, run()) is None
    except ModelError:
        return False


def require_parity(expected: Mapping[str, Any], got: Mapping[str, Any], who: str, against: str) -> None:
    """Raise ``ModelError`` naming the worst sample when outputs differ by more than rounding can explain."""
    from edgebuild.models.outputs import worst_mismatch

    worst = worst_mismatch(expected, got)
    if worst is not None:
        output, frame, gap = worst
        raise ModelError(
            f"{who[0].upper()}{who[1:]} differs from {against}: "
            f"output {output!r} of sample {frame} is off by {gap:.3g}.",
            hint="The export changed the model: an `if` or `for` on values is fixed by it (torch.where and torch.cond "
            "aren't). Write it so, or export with another opset or exporter, and give [model].onnx.",
        )
