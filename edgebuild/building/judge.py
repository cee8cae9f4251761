"""Judging as a cached step: its maths is pure and lives in `edgebuild.judging`; here it meets files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from edgebuild.catalogue.project_tables import MetricTable
from edgebuild.core.budget import Budget
from edgebuild.core.scores import SCORES_FILE, Scores
from edgebuild.core.steps import RunsOn, Step, StepContext
from edgebuild.core.values import digest_bytes
from edgebuild.core.verdict import Closeness, Verdict
from edgebuild.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from edgebuild.judging.judge import Evaluated
    from edgebuild.judging.metrics import Metric
    from edgebuild.models.dataset import Dataset


class JudgeOutputs(Step):
    """Judges an artifact's outputs against the reference's on identical samples.

    Inputs: ``reference`` and ``outputs`` (outputs folders), ``data`` (dataset folder). Writes ``verdict.json`` and
    ``closeness.json``; on the test set also ``scores.json``, where the metric is a mean over samples. ``values`` is
    what a callable metric says now of both (``metric_values``): it may read files.
    """

    metric: MetricTable | None
    budget: Budget
    split: Literal["validation", "test"]
    level: float
    values: tuple[str, ...] = ()
    kind: ClassVar[str] = "judge-outputs"
    version: ClassVar[int] = 5
    runs_on: ClassVar[RunsOn] = RunsOn.HOST
    tools: ClassVar[tuple[str, ...]] = ("numpy", "scipy")

    @property
    def uses_code(self) -> bool:
        """See ``Step``."""
        return self.metric is not None and self.metric.uses_code

    def all_tools(self) -> tuple[str, ...]:
        """See ``Step``."""
        coco = self.metric is not None and (self.metric.name or "").startswith("coco_")
        return (*self.tools, "pycocotools") if coco else self.tools

    def run(self, inputs: Mapping[str, Path], out_dir: Path, ctx: StepContext) -> None:
        """See ``Step``."""
        from edgebuild.judging.closeness import closeness
        from edgebuild.judging.judge import Evaluated, judge
        from edgebuild.judging.pace import Pace
        from edgebuild.models.dataset import Dataset
        from edgebuild.models.outputs import read_outputs

        data = Dataset.open(inputs["data"])
        reference, artifact = read_outputs(inputs["reference"]), read_outputs(inputs["outputs"])
        groups, slices = labels_of(data)
        metric = self.build_metric(ctx.load)
        evaluated = Evaluated(reference=reference, artifact=artifact, targets=data.target, groups=groups, slices=slices)
        verdict = judge(
            evaluated,
            metric,
            self.budget,
            split=self.split,
            level=self.level,
            seed=ctx.seed,
            pace=Pace(progress=ctx.progress, check=ctx.check),
        )
        close = closeness(reference, artifact)
        (out_dir / "verdict.json").write_text(verdict.to_json())
        (out_dir / "closeness.json").write_text(close.to_json())
        scores = self._scores(evaluated, metric) if self.split == "test" and verdict.drop is not None else None
        if scores is not None:
            (out_dir / SCORES_FILE).write_text(scores.to_json())

    def _scores(self, evaluated: Evaluated, metric: Metric | None) -> Scores | None:
        """Return what each sample came to; None where the metric isn't a mean over samples."""
        from edgebuild.judging.agreement import agreement_name, agrees
        from edgebuild.judging.intervals import group_codes

        codes = group_codes(evaluated.groups)
        groups = None if codes is None else tuple(codes.tolist())
        if self.budget.agreement is not None or metric is None or evaluated.targets is None:
            agreed = agrees(evaluated.reference, evaluated.artifact)
            name = agreement_name(evaluated.reference)
            return Scores(metric=name, direction="maximise", span=1.0, scores=tuple(agreed.tolist()), groups=groups)
        found = metric.per_sample(evaluated.artifact, evaluated.targets)
        if found is None:
            return None
        span = None if metric.scale is None else metric.scale[1] - metric.scale[0]
        return Scores(
            metric=metric.name, direction=metric.direction, span=span, scores=tuple(found.tolist()), groups=groups
        )

    def own_metric(self, load: Callable[[str], Callable[..., Any]]) -> Metric | None:
        """Return the metric that is judged by where its values are in the key: one that isn't edgebuild's alone."""
        from edgebuild.judging.metrics import is_builtin

        if self.metric is None or self.budget.agreement is not None:
            return None
        table = self.metric
        ours = table.name is not None and is_builtin(table.name) and not table.uses_code
        return None if ours else self.build_metric(load)

    def build_metric(self, load: Callable[[str], Callable[..., Any]]) -> Metric | None:
        """Return the metric that the project asks for; None where only agreement counts."""
        from edgebuild.judging.metrics import named_metric
        from edgebuild.judging.own_metrics import decoded

        table = self.metric
        if table is None:
            return None
        if table.name is None:
            return _own(table, load)
        metric = named_metric(table.name, output=table.output)
        return metric if table.decode is None else decoded(metric, load(table.decode))


def _own(table: MetricTable, load: Callable[[str], Callable[..., Any]]) -> Metric | None:
    from edgebuild.judging.own_metrics import by_samples, custom

    scale = None if table.scale is None else (table.scale[0], table.scale[1])
    plain = None if table.callable is None else load(table.callable)
    name = table.callable or table.per_sample
    if name is None or table.direction is None:
        return None
    if table.per_sample is None:
        return None if plain is None else custom(plain, name=name, direction=table.direction, scale=scale)
    combine = None if table.combine is None else load(table.combine)
    return by_samples(load(table.per_sample), combine, name=name, direction=table.direction, scale=scale, plain=plain)


def metric_values(metric: Metric, outputs: Iterable[Path], data: Path) -> tuple[str, ...]:
    """Return what a metric is and says of each outputs folder, or why it says nothing: for a key, to the last bit."""
    from edgebuild.models.dataset import Dataset
    from edgebuild.models.outputs import read_outputs

    targets = Dataset.open(data).target
    if targets is None:
        return ()
    values = [repr((metric.direction, metric.scale, metric.by_class, metric.package))]
    for folder in outputs:
        try:
            found = read_outputs(folder)
            values.append(repr(metric.value(found, targets)))
            scores = metric.per_sample(found, targets)
            values.append("" if scores is None else digest_bytes(scores.tobytes()))
        except DataError as error:
            values.append(error.message)
    return tuple(values)


def labels_of(data: Dataset) -> tuple[Any, Any]:
    """Groups and slices per frame. The steps of one sequence belong together even where no group is named."""
    from edgebuild.judging.arrays import frame_groups, frame_labels

    groups, slices, lengths = data.groups(), data.slices(), data.lengths.tolist()
    grouped = data.frames != data.samples or any(group is not None for group in groups)
    return (
        frame_groups(lengths, groups) if grouped else None,
        frame_labels(lengths, slices) if any(name is not None for name in slices) else None,
    )


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What was judged; ``scores`` is where each sample's score lies, None where the metric is no mean over them."""

    verdict: Verdict
    closeness: Closeness
    scores: Path | None


def judged(folder: Path) -> tuple[Verdict, Closeness]:
    """Read what the step wrote."""
    verdict = Verdict.model_validate(json.loads((folder / "verdict.json").read_bytes()))
    return verdict, Closeness.model_validate(json.loads((folder / "closeness.json").read_bytes()))
