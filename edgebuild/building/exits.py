"""Early exits: the model cut into a chain, thresholds chosen on validation, every stage compiled, all linked up."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any, ClassVar

from edgebuild.building.judge import JudgeOutputs, labels_of, metric_values
from edgebuild.catalogue.project_tables import MetricTable
from edgebuild.core.artifact import Contract, Exit, Precision, Stage
from edgebuild.core.budget import Budget
from edgebuild.core.steps import RunsOn, Step, StepContext
from edgebuild.core.values import Value
from edgebuild.core.verdict import Outcome
from edgebuild.execution.disk import copy_file
from edgebuild.models.edits import AddHead

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from edgebuild.backends.protocol import Backend, CompileRequest
    from edgebuild.building.context import BuildContext
    from edgebuild.building.prepare import ModelInputs
    from edgebuild.execution.executor import StepResult
    from edgebuild.models.exits import Part

CHAIN = "chain.json"
#: A threshold is taken where the drop's bound at this level is inside the budget: wide enough that on the test set,
#: which is another draw of samples, the 95 % bound nearly always is too.
LEVEL = 0.9999
#: Thresholds that are tried: this many quantiles of the confidences on validation, the lowest first.
TRIED = 40


class ChainFile(Value):
    """``chain.json``: the stages of a cut model with their thresholds, and what is said of them."""

    contract: Contract
    stages: tuple[Stage, ...]
    notes: tuple[str, ...]


class CutExits(Step):
    """Cuts a frozen model behind its heads and chooses the thresholds within the budget; checks the chain's parity.

    Inputs: ``model`` (folder with model.onnx), ``data`` (validation), ``reference`` (the original's outputs on it),
    ``library`` (custom operators, optional). Writes ``stage-N/model.onnx``, ``stage-N/contract.json``, ``chain.json``.
    """

    contract: Contract
    heads: tuple[AddHead, ...]
    metric: MetricTable | None
    budget: Budget
    values: tuple[str, ...] = ()
    kind: ClassVar[str] = "cut-exits"
    version: ClassVar[int] = 4
    runs_on: ClassVar[RunsOn] = RunsOn.HOST_KERNELS
    tools: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime", "numpy", "scipy")

    @property
    def uses_code(self) -> bool:
        """See ``Step``."""
        return self.judging().uses_code

    def run(self, inputs: Mapping[str, Path], out_dir: Path, ctx: StepContext) -> None:
        """See ``Step``."""
        import numpy as np
        import onnx

        from edgebuild.models.dataset import Dataset
        from edgebuild.models.exits import cut
        from edgebuild.models.host_session import HostSession, run_dataset
        from edgebuild.models.onnx_files import count_macs, read_facts
        from edgebuild.models.onnx_graphs import save
        from edgebuild.models.outputs import read_outputs
        from edgebuild.models.steps import collect_outputs, require_parity

        data, library = Dataset.open(inputs["data"]), inputs.get("library")
        path = inputs["model"] / "model.onnx"
        parts = cut(onnx.load(str(path)), self.heads)
        for number, part in enumerate(parts):
            folder = out_dir / f"stage-{number}"
            folder.mkdir()
            save(part.model, folder / "model.onnx")
            facts = read_facts(part.model)
            (folder / "contract.json").write_text(Contract(inputs=facts.inputs, outputs=facts.outputs).to_json())
        sessions = [HostSession(out_dir / f"stage-{n}" / "model.onnx", library=library) for n in range(len(parts))]
        chain, texts = _whole(sessions), self._told(parts)
        frames: list[dict[str, NDArray[Any]]] = []
        with ctx.progress.task("Choosing exits", total=data.frames) as task:
            for frame in run_dataset(chain, data, texts, batch=1, check=ctx.check):
                frames.append(frame)
                task.advance()
        found = {name: np.concatenate([np.asarray(f[name]).reshape(1, -1) for f in frames]) for name in frames[0]}
        # With every exit passed by, the chain gives all that the model in one piece does.
        whole = collect_outputs(HostSession(path, library=library), data, self.contract, 1, ctx.check)
        require_parity(whole, found, "the model cut behind its exits", "the model in one piece")
        threshold, notes = self._choose(parts, found, read_outputs(inputs["reference"]), data, ctx)
        macs = [count_macs(part.model) for part in parts]
        chosen = ChainFile(
            contract=self._shipped(),
            stages=tuple(_stage(number, part, threshold) for number, part in enumerate(parts)),
            notes=(*notes, *_macs_note(macs, _ends(parts, found, threshold))),
        )
        (out_dir / CHAIN).write_text(chosen.to_json())

    def judging(self) -> JudgeOutputs:
        """The judge of the chain's outputs on validation."""
        return JudgeOutputs(
            metric=self.metric,
            budget=self.budget,
            split="validation",
            level=LEVEL,
        )

    def _shipped(self) -> Contract:
        """The contract of the chain: it answers with the model's own output only."""
        from edgebuild.models.exits import exit_output

        exits = {exit_output(head) for head in self.heads}
        own = tuple(spec for spec in self.contract.outputs if spec.name not in exits)
        return self.contract.model_copy(update={"outputs": own})

    def _told(self, parts: Sequence[Part]) -> Contract:
        """The contract with the confidences among the outputs."""
        from edgebuild.core.artifact import TensorSpec

        more = tuple(TensorSpec(name=p.confidence, shape=(1,), dtype="float32") for p in parts if p.confidence)
        return self.contract.model_copy(update={"outputs": (*self.contract.outputs, *more)})

    def _choose(
        self,
        parts: Sequence[Part],
        found: Mapping[str, NDArray[Any]],
        reference: Mapping[str, NDArray[Any]],
        data: Any,
        ctx: StepContext,
    ) -> tuple[float, tuple[str, ...]]:
        """Return the lowest threshold, one for all exits, that the budget allows, and what is to be said of it."""
        import numpy as np

        from edgebuild.judging.judge import Evaluated, judge
        from edgebuild.judging.pace import Pace
        from edgebuild.models.exits import NEVER

        (output,) = (spec.name for spec in self._shipped().outputs)
        metric, (groups, slices) = self.judging().build_metric(ctx.load), labels_of(data)
        confidences = np.concatenate([found[part.confidence].ravel() for part in parts if part.confidence])
        tried = np.unique(np.quantile(confidences, np.linspace(0, 1, TRIED)))
        answers = np.stack([found[part.output or output] for part in parts])
        for threshold in [*map(float, tried), NEVER]:
            ctx.check()
            ends = _ends(parts, found, threshold)
            artifact = answers[ends, np.arange(len(ends))].reshape(np.shape(reference[output]))
            verdict = judge(
                Evaluated(
                    reference=reference, artifact={output: artifact}, targets=data.target, groups=groups, slices=slices
                ),
                metric,
                self.budget,
                split="validation",
                level=LEVEL,
                seed=ctx.seed,
                pace=Pace(check=ctx.check),
            )
            if verdict.outcome is Outcome.ACCEPTED:
                break
        if threshold == NEVER:
            return NEVER, ("no early exit is ever taken: none stays inside the budget on these validation samples",)
        names = [head.name for head in self.heads]
        rule = " and ".join(sorted({head.confidence for head in self.heads}))
        reasons = "; ".join(verdict.reasons)
        return threshold, (f"exits {', '.join(names)} are taken at {rule} of {threshold:.4g} or more: {reasons}",)


def _whole(sessions: Sequence[Any]) -> Callable[[Mapping[str, NDArray[Any]]], dict[str, NDArray[Any]]]:
    """Return what runs all stages, whatever their exits say."""

    def call(feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        values = dict(feeds)
        for session in sessions:
            values.update(session({name: values[name] for name in session.inputs}))
        return values

    return call


def _ends(parts: Sequence[Part], found: Mapping[str, NDArray[Any]], threshold: float) -> NDArray[Any]:
    """Return the number of the stage that each sample ends at."""
    import numpy as np

    sure = [found[part.confidence].ravel() >= threshold for part in parts if part.confidence]
    ends: NDArray[Any] = np.argmax(np.stack([*sure, np.ones_like(sure[0])]), axis=0)
    return ends


def _stage(number: int, part: Part, threshold: float) -> Stage:
    folder = f"stage-{number}"
    if not part.output:
        return Stage(folder=folder)
    name = part.output.removeprefix("exit_")
    return Stage(
        folder=folder, exit=Exit(name=name, output=part.output, confidence=part.confidence, threshold=threshold)
    )


def _macs_note(macs: Sequence[int | None], ends: NDArray[Any]) -> tuple[str, ...]:
    import numpy as np

    if any(each is None for each in macs):
        return ()
    reached = np.cumsum([each or 0 for each in macs])
    mean = float(reached[ends].mean())
    return (f"on validation {mean:,.0f} MACs of {reached[-1]:,} in the mean",)


class LinkChain(Step):
    """Puts compiled stages into one artifact. Inputs: ``chain`` (of ``CutExits``), ``stage-N`` (compiled artifacts)."""

    backend: str
    precision: Precision
    kind: ClassVar[str] = "link-chain"
    version: ClassVar[int] = 2
    runs_on: ClassVar[RunsOn] = RunsOn.HOST
    tools: ClassVar[tuple[str, ...]] = ()

    def run(self, inputs: Mapping[str, Path], out_dir: Path, ctx: StepContext) -> None:
        """See ``Step``."""
        from edgebuild.backends.protocol import write_artifact, write_notes
        from edgebuild.core.artifact_files import NOTES

        ctx.check()
        chain = read_chain(inputs["chain"])
        for stage in chain.stages:
            target = out_dir / stage.folder
            shutil.copytree(inputs[stage.folder], target, copy_function=copy_file, ignore=shutil.ignore_patterns(NOTES))
        write_artifact(
            out_dir,
            backend=self.backend,
            entry=f"{chain.stages[0].folder}/artifact.json",
            contract=chain.contract,
            precision=self.precision,
            stages=chain.stages,
        )
        write_notes(out_dir, chain.notes)


def read_chain(folder: Path) -> ChainFile:
    """Read what ``CutExits`` wrote."""
    return ChainFile.model_validate_json((folder / CHAIN).read_bytes())


def cut_exits(
    context: BuildContext,
    heads: tuple[AddHead, ...],
    frozen: StepResult,
    contract: Contract,
    prepared: ModelInputs,
    *,
    label: str,
) -> StepResult:
    """Cut the frozen model of a recipe into a chain."""
    step = CutExits(contract=contract, heads=heads, metric=context.project.metric, budget=context.budget)
    metric = step.judging().own_metric(context.load)
    if metric is not None:
        values = metric_values(metric, (prepared.reference.path,), prepared.validation.path)
        step = step.model_copy(update={"values": values})
    inputs: dict[str, StepResult | Path] = {
        "model": frozen,
        "data": prepared.validation,
        "reference": prepared.reference,
    }
    if context.project.custom_ops_path is not None:
        inputs["library"] = context.project.custom_ops_path
    return context.run(step, inputs, label=label)


def compile_chain(
    context: BuildContext, backend: Backend, chain: StepResult, request: CompileRequest, who: str
) -> StepResult:
    """Compile every stage as ``request`` says, each with its own contract, and link them up."""
    compiled: dict[str, StepResult | Path] = {"chain": chain}
    for stage in read_chain(chain.path).stages:
        folder = chain.path / stage.folder
        contract = Contract.model_validate_json((folder / "contract.json").read_bytes())
        step = backend.compile_step(request.model_copy(update={"contract": contract}))
        compiled[stage.folder] = context.run(step, {"model": folder}, label=f"compile {who}, {stage.folder}")
    return context.run(LinkChain(backend=backend.name, precision=request.precision), compiled, label=f"link {who}")


def exit_notes(outputs: Path) -> tuple[str, ...]:
    """Say where the samples of an evaluation ended, where the artifact may end early."""
    exits = json.loads((outputs / "outputs.json").read_bytes()).get("exits", ())
    total = sum(count for _, count in exits)
    if not total:
        return ()
    return ("where samples of validation end: " + ", ".join(f"{count / total:.1%} at {name}" for name, count in exits),)
