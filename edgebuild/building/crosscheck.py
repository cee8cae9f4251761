"""Before an int8 artifact is accepted: do the target's kernels do what the unoptimised Q/DQ graph says?

A small sample of validation, the artifact's outputs on the device against those of the same ONNX file in onnxruntime on
the host with nothing optimised, in quantisation steps. Where a gap is larger than one step, the model is compiled once
more with its quantised tensors as outputs, run on the same device, and every layer is recomputed from what that run
fed it: a layer that is off by more than one step there is named.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from edgebuild.building.compiling import compile_request
from edgebuild.core.artifact import Contract
from edgebuild.core.verdict import CrossCheck, LayerGap
from edgebuild.crosscheck import steps
from edgebuild.crosscheck.conclusion import of_layer, of_reach, of_right_layers, spread
from edgebuild.execution.faults import Failure
from edgebuild.measuring.evaluate import EvaluateArtifact
from edgebuild.models.qdq import QdqGraph

if TYPE_CHECKING:
    from pathlib import Path

    from edgebuild.building.context import BuildContext
    from edgebuild.building.evaluation import CompiledCandidate
    from edgebuild.execution.executor import StepResult

#: Frames that are compared, and of a recurrent model's sample at most this many steps. A board may be slow.
SAMPLE_FRAMES = 32
SAMPLE_STEPS = 8
#: Frames that the layers are checked on: those with the largest gaps.
WALK_FRAMES = 4


def cross_check(context: BuildContext, made: CompiledCandidate, data: StepResult, outputs: StepResult) -> CrossCheck:
    """Return what is found of an int8 candidate, evaluated on ``data`` (validation, or a part of it) as ``outputs``.

    What can't be compared is ``not checked``, with the reason. What runs here is never the candidate itself but a
    variant of it that shows more: where only that crashes, it is such a reason, not the candidate's crash. Raises what
    the device and the store raise.
    """
    check = _Check(context, made, data)
    found = context.guard.attempt(f"the cross-check of {made.planned.id}", lambda: check.run(outputs))
    return unchecked(found.with_report) if isinstance(found, Failure) else found


def unchecked(reason: str) -> CrossCheck:
    """Return that nothing was compared, and why."""
    return CrossCheck(cause="not checked", explanation=f"not compared with the unoptimised graph: {reason}")


class _Sample(NamedTuple):
    """What is compared: frames of validation, and the artifact's outputs, in which ``rows`` are these frames."""

    data: StepResult
    rows: tuple[int, ...]
    lengths: tuple[int, ...]
    outputs: StepResult


class _Check:
    def __init__(self, context: BuildContext, made: CompiledCandidate, data: StepResult) -> None:
        self.context, self.planned, self.contract = context, made.planned, made.contract
        self.data, self.model, self.artifact, self.compiled = data, made.model, made.artifact, made.compiled
        path = context.project.custom_ops_path
        self.library: dict[str, StepResult | Path] = {} if path is None else {"library": path}

    def run(self, outputs: StepResult) -> CrossCheck:
        reason = self._refusal()
        if reason:
            return unchecked(reason)
        data = self.data
        lengths = np.load(data.path / "lengths.npy", allow_pickle=False).tolist()
        rows, taken = spread(lengths, frames=SAMPLE_FRAMES, steps=SAMPLE_STEPS)
        sample = self._run(steps.TakeFrames(rows=rows, lengths=taken), {"data": data}, "sample for")
        text = f"{len(rows)} of {sum(lengths):,} validation frames, spread evenly"
        if self.contract.state:
            shown = self._run(steps.ShowState(), {"artifact": self.compiled}, "state of")
            outputs, rows = self._evaluate(shown, sample), tuple(range(len(rows)))
        compare = steps.CompareWithGraph(contract=self.contract, sample=text, rows=rows)
        inputs = {"model": self.model, "sample": sample, "outputs": outputs, **self.library}
        compared = self._run(compare, inputs, "compare").path
        seen = CrossCheck.model_validate_json((compared / "crosscheck.json").read_bytes())
        if (seen.steps or 0.0) <= 1:
            return seen
        worst = json.loads((compared / "worst.json").read_bytes())
        return self._concluded(seen, _Sample(sample, rows, taken, outputs), worst)

    def _refusal(self) -> str:
        from edgebuild.models.onnx_files import load_onnx

        graph = QdqGraph(load_onnx(self.model.path / "model.onnx"))
        if not any(graph.sources(spec.name) for spec in self.contract.outputs):
            return "no output comes from a tensor that is quantised with constant 8-bit parameters"
        if self.contract.state and self.contract.batch != 1:
            return "a recurrent model in batches leaves states that can't be distinguished"
        return ""

    def _concluded(self, seen: CrossCheck, sample: _Sample, worst: list[int]) -> CrossCheck:
        """Conclude about a gap of more than one step: from the layers, else from how far rounding reaches."""
        walked = self.context.guard.attempt(
            f"the layer-wise cross-check of {self.planned.id}", lambda: self._walk(sample, worst)
        )
        if isinstance(walked, Failure):
            return of_reach(seen, reach=self._reach(sample), tensors=0, unseen=walked.with_report)
        tensors, layer, composes = walked
        if layer is not None:
            return of_layer(seen, layer)
        if composes:
            return of_right_layers(seen, tensors)
        return of_reach(seen, reach=self._reach(sample), tensors=tensors)

    def _reach(self, sample: _Sample) -> float:
        step = steps.ReachOfRounding(contract=self.contract, rows=sample.rows)
        inputs = {"model": self.model, "sample": sample.data, "outputs": sample.outputs, **self.library}
        found = json.loads((self._run(step, inputs, "reach of rounding in").path / "reach.json").read_bytes())
        return float(found["reach"])

    def _walk(self, sample: _Sample, worst: list[int]) -> tuple[int, LayerGap | None, bool]:
        """Return how many layers were compared, the one that is off, if any, and whether they make up the artifact."""
        rows, lengths = _worst_rows(worst, sample.lengths)
        few = self._run(steps.TakeFrames(rows=rows, lengths=lengths), {"data": sample.data}, "worst of")
        shown = self._run(steps.ShowLayers(contract=self.contract), {"model": self.model}, "layers of")
        contract = Contract.model_validate_json((shown.path / "contract.json").read_bytes())
        step = self.context.backends[self.planned.backend].compile_step(
            compile_request(self.context, self.planned, contract)
        )
        compiled = self._run(step, {"model": shown}, "compile the layers of")
        outputs = self._evaluate(compiled, few)
        inputs = {"model": self.model, "sample": few, "outputs": outputs, "own": sample.outputs, **self.library}
        walk = steps.WalkLayers(contract=self.contract, rows=tuple(sample.rows[row] for row in rows))
        walked = self._run(walk, inputs, "walk the layers of")
        found = json.loads((walked.path / "layers.json").read_bytes())
        layer = None if found["fault"] is None else LayerGap.model_validate(found["fault"])
        if layer is not None and not layer.why:
            layer = layer.model_copy(update={"why": self._why(layer, compiled, few)})
        return int(found["layers"]), layer, bool(found["composes"])

    def _why(self, layer: LayerGap, compiled: StepResult, few: StepResult) -> str:
        """What the runtime says of the layer; where that can't be read, the layer is named all the same."""
        what = f"reading the layers of {self.planned.id}"
        found = self.context.guard.attempt(what, lambda: self._precision(layer, compiled, few))
        return "" if isinstance(found, Failure) else found

    def _precision(self, layer: LayerGap, compiled: StepResult, few: StepResult) -> str:
        """Say so where the runtime itself says that it computes the layer in something else than 8 bits."""
        step = steps.ReadLayers(
            settings=self.artifact.settings,
        )
        read = self._run(step, {"artifact": compiled, "data": few}, "precision of")
        for each in json.loads((read.path / "layers.json").read_bytes())["layers"]:
            if layer.node in str(each["name"]) and each["precision"] not in ("int8", "unknown"):
                return f"the runtime computes it in {each['precision']}"
        return ""

    def _evaluate(self, compiled: StepResult, data: StepResult) -> StepResult:
        step = EvaluateArtifact(
            split="the cross-check's sample",
            settings=self.artifact.settings,
        )
        return self._run(step, {"artifact": compiled, "data": data}, "run")

    def _run(self, step: object, inputs: dict[str, StepResult | Path], what: str) -> StepResult:
        return self.context.run(step, inputs, label=f"cross-check: {what} {self.planned.id}")  # type: ignore[arg-type]


def _worst_rows(worst: list[int], taken: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The frames of a sample to look at closely: the worst, each with all of its sequence, ``WALK_FRAMES`` samples."""
    ends = np.cumsum(taken)
    samples = list(dict.fromkeys(int(np.searchsorted(ends, row, side="right")) for row in worst))
    most = max(1, WALK_FRAMES // max(taken)) if max(taken) > 1 else WALK_FRAMES
    chosen = sorted(samples[:most])
    rows = tuple(int(ends[i]) - taken[i] + k for i in chosen for k in range(taken[i]))
    return rows, tuple(taken[i] for i in chosen)
