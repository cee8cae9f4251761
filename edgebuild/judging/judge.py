"""The verdict on an artifact's outputs against a budget."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from edgebuild.core.verdict import Drop, Outcome, SliceDrop, Verdict
from edgebuild.errors import DataError, ModelError, UsageError
from edgebuild.judging.agreement import agreement_name, agrees
from edgebuild.judging.arrays import Labels, Outputs, check_pair, first_not_finite
from edgebuild.judging.budget import drop_budget, points_to_units
from edgebuild.judging.drops import MIN_UNITS, Pair, PairedDrop, paired_drop, score_drop
from edgebuild.judging.outcomes import with_reason
from edgebuild.judging.pace import Pace

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgebuild.core.budget import Budget
    from edgebuild.judging.metrics import Metric

#: Drops are reported per class, where targets are classes and no slices are named, up to this many classes.
MAX_CLASS_SLICES = 1_000


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """What is judged: outputs of reference and artifact on identical samples, and what is known of the samples.

    Axis 0 of every array, ``groups`` and ``slices`` is the sample; for stateful models the step (``frame_groups`` and
    ``frame_labels`` spread labels of samples over steps). Arrays may be memory maps. ``targets`` is ``None`` where
    nothing is labelled: then the budget must be an agreement.
    """

    reference: Outputs
    artifact: Outputs
    targets: NDArray[Any] | None = None
    groups: Labels | None = None
    slices: Labels | None = None


def judge(
    evaluated: Evaluated,
    metric: Metric | None,
    budget: Budget,
    *,
    split: Literal["validation", "test"],
    level: float = 0.95,
    seed: int = 0,
    pace: Pace | None = None,
) -> Verdict:
    """Return whether the artifact stays inside the budget, as far as these samples can tell.

    Accepted iff the upper bound of the paired drop is at most the budget; refused iff the lower bound is beyond it;
    else inconclusive, with about how many more samples would certify it. Fewer than 10 samples (or groups) are always
    inconclusive. Non-finite outputs of the artifact are refused, but for -inf where the reference has it, too: a masked
    score. Drops per slice (else per class) are always reported;
    with a limit per slice, a lower bound beyond it refuses and an estimate beyond it is inconclusive, each slice at a
    Bonferroni level, so that all of them together err no more often than one. The draws of all intervals take as long
    as ``pace`` allows.

    Raises ``DataError`` when targets don't fit or the metric can't be computed, ``ModelError`` when the reference
    itself is not finite, or the artifact's outputs don't fit it or can't be scored though the reference's can,
    ``UsageError`` when budget and metric don't go together.
    """
    _check_labels(evaluated, check_pair(evaluated.reference, evaluated.artifact))
    broken = _not_finite(evaluated)
    if broken is not None:
        return Verdict(outcome=Outcome.REFUSED, reasons=(broken,))
    if budget.agreement is not None:
        return _judge_agreement(evaluated, budget, split=split, level=level, seed=seed)
    if metric is None or evaluated.targets is None:
        missing = "a metric" if metric is None else "targets"
        raise UsageError(
            f"a budget of {budget.text} needs {missing}", hint="for unlabelled data use `agreement = 0.98`"
        )
    targets = np.asarray(evaluated.targets)
    pair = Pair(reference=evaluated.reference, artifact=evaluated.artifact, targets=targets, groups=evaluated.groups)
    pace = pace or Pace()
    if evaluated.slices is not None:
        pace = replace(pace, box_s=pace.box_s / 2)
    pair, metric = _read(pair, metric)
    whole = _whole_drop(pair, metric, level=level, seed=seed, pace=pace)
    allowed = drop_budget(budget, whole.reference, metric)
    verdict = _verdict(whole, allowed, metric.name, metric, split)
    if budget.floor is not None and allowed < 0:
        verdict = with_reason(verdict, f"the original itself, {whole.reference:.4g}, misses the floor {budget.floor:g}")
    return _with_slices(verdict, pair, evaluated.slices, metric, budget, level=level, seed=seed, pace=pace)


def _not_finite(evaluated: Evaluated) -> str | None:
    """Return where the artifact's outputs aren't finite. Raises ``ModelError`` where the reference's aren't."""
    found = first_not_finite(evaluated.reference)
    if found is not None:
        raise ModelError(
            f"the original model gives NaN or infinity in output {found[0]!r} for {found[2]} samples, first {found[1]}",
            hint="nothing can be compared with it; check the model on that sample",
        )
    found = first_not_finite(evaluated.artifact, evaluated.reference)
    if found is None:
        return None
    name, first, count = found
    if count == len(evaluated.artifact[name]):
        return f"output {name!r} is NaN or infinite for every sample: the artifact doesn't work in its runtime"
    return f"output {name!r} is NaN or infinite for {count} samples, first sample {first}"


def _read(pair: Pair, metric: Metric) -> tuple[Pair, Metric]:
    """Return predictions in place of outputs where the metric makes such first, so that each slice needn't again.

    Raises as ``_whole_drop`` does.
    """
    if metric.reads is None:
        return pair, metric
    decode, plain = metric.reads
    reference = decode(pair.reference)
    try:
        artifact = decode(pair.artifact)
    except DataError as error:
        raise _unscored(error) from error
    return replace(pair, reference=reference, artifact=artifact), plain


def _unscored(error: DataError) -> ModelError:
    return ModelError(f"its outputs can't be scored, the original's can: {error.message}")


def _whole_drop(pair: Pair, metric: Metric, *, level: float, seed: int, pace: Pace) -> PairedDrop:
    """Return the drop over all samples. Where the reference can be scored and the artifact can't, the artifact failed.

    Raises ``ModelError`` then, ``DataError`` where the metric can't be computed at all.
    """
    try:
        return paired_drop(pair, metric, level=level, seed=seed, pace=pace)
    except DataError as error:
        metric.value(pair.reference, pair.targets)
        raise _unscored(error) from error


def _check_labels(evaluated: Evaluated, samples: int) -> None:
    for name, labels in (("groups", evaluated.groups), ("slices", evaluated.slices), ("targets", evaluated.targets)):
        if labels is not None and len(labels) != samples:
            raise DataError(f"there are {samples} samples but {len(labels)} {name}")


def _judge_agreement(
    evaluated: Evaluated, budget: Budget, *, split: Literal["validation", "test"], level: float, seed: int
) -> Verdict:
    agreed = agrees(evaluated.reference, evaluated.artifact)
    whole = score_drop(np.ones_like(agreed), agreed, evaluated.groups, sign=1, level=level, seed=seed)
    verdict = _verdict(whole, 1 - (budget.agreement or 0), agreement_name(evaluated.reference), None, split)
    groups = evaluated.groups
    slices = []
    for name, rows in _named_slices(evaluated.slices).items():
        own = None if groups is None else [groups[row] for row in rows]
        slices.append(
            _slice(name, score_drop(np.ones(len(rows)), agreed[rows], own, sign=1, level=level, seed=seed), None)
        )
    return verdict.model_copy(update={"slices": tuple(slices)})


def _verdict(
    whole: PairedDrop, allowed: float, name: str, metric: Metric | None, split: Literal["validation", "test"]
) -> Verdict:
    interval = whole.interval
    says = _Words(scale=(0.0, 1.0) if metric is None else metric.scale)
    if not math.isfinite(interval.high):
        reason = (
            f"{name} is undefined on too many resamples of {whole.units} units to bound its drop; more data are needed"
        )
        return _failures(Verdict(outcome=Outcome.INCONCLUSIVE, reasons=(reason,)), whole)
    more = None
    if whole.units < MIN_UNITS:
        unit = "samples" if whole.groups is None else "groups"
        outcome = Outcome.INCONCLUSIVE
        ending = f"only {whole.units} {unit}, at least {MIN_UNITS} are needed to certify anything"
    elif interval.high <= allowed:
        outcome, ending = Outcome.ACCEPTED, f"inside the budget of {says.amount(allowed)}"
    elif interval.low > allowed:
        outcome, ending = Outcome.REFUSED, f"beyond the budget of {says.amount(allowed)}"
    else:
        outcome, more = Outcome.INCONCLUSIVE, whole.more_samples(allowed)
        ending = f"too wide for the budget of {says.amount(allowed)}: " + (
            "the estimate itself is on it or beyond" if more is None else f"about {more:,} more samples needed"
        )
    drop = Drop(
        metric=name,
        split=split,
        samples=whole.samples,
        groups=whole.groups,
        reference=whole.reference,
        artifact=whole.artifact,
        drop=whole.drop,
        low=interval.low,
        high=interval.high,
        level=whole.level,
        method=interval.method,
        budget=allowed,
        needed_samples=more,
    )
    return _failures(Verdict(outcome=outcome, reasons=(f"{name} {says.drop(whole)}, {ending}",), drop=drop), whole)


def _failures(verdict: Verdict, whole: PairedDrop) -> Verdict:
    """Say so where the metric raised on resamples."""
    failures = whole.interval.failures
    return with_reason(verdict, f"the metric failed on {failures}") if failures else verdict


def _with_slices(
    verdict: Verdict,
    pair: Pair,
    slices: Labels | None,
    metric: Metric,
    budget: Budget,
    *,
    level: float,
    seed: int,
    pace: Pace,
) -> Verdict:
    rows = _named_slices(slices) or _class_slices(pair, metric)
    limit = None if budget.per_slice_points is None else points_to_units(budget.per_slice_points, metric)
    own_level = level if limit is None else 1 - (1 - level) / max(1, len(rows))
    unjudged = Outcome.ACCEPTED if limit is None else Outcome.INCONCLUSIVE
    says = _Words(scale=metric.scale)
    share = pace.shared(max(1, len(rows)))
    for name, index in rows.items():
        try:
            found = paired_drop(pair.part(index), metric, level=own_level, seed=seed, pace=share)
        except DataError as error:
            verdict = with_reason(verdict, f"{name} can't be judged: {error.message}", unjudged)
            continue
        if not math.isfinite(found.interval.high):
            verdict = with_reason(verdict, f"{name} holds too few samples ({found.samples}) to judge", unjudged)
            continue
        verdict = verdict.model_copy(update={"slices": (*verdict.slices, _slice(name, found, limit))})
        if limit is not None and found.drop > limit:
            proven = found.interval.low > limit and found.units >= MIN_UNITS
            verdict = with_reason(
                verdict,
                f"{name} {says.drop(found)}, {'' if proven else 'perhaps '}beyond its limit of {says.amount(limit)}",
                Outcome.REFUSED if proven else Outcome.INCONCLUSIVE,
            )
    return verdict


def _slice(name: str, found: PairedDrop, limit: float | None) -> SliceDrop:
    return SliceDrop(
        slice=name,
        samples=found.samples,
        reference=found.reference,
        artifact=found.artifact,
        drop=found.drop,
        low=found.interval.low,
        high=found.interval.high,
        limit=limit,
    )


def _named_slices(slices: Labels | None) -> dict[str, NDArray[np.intp]]:
    if slices is None:
        return {}
    names = np.asarray(slices, dtype=object)
    return {str(name): np.flatnonzero(names == name) for name in sorted({name for name in names if name is not None})}


def _class_slices(pair: Pair, metric: Metric) -> dict[str, NDArray[np.intp]]:
    """Every class that targets hold is a slice, for metrics that are a mean over samples: others need all classes."""
    if not metric.by_class or metric.scores is None or pair.targets.size != len(pair.targets):
        return {}
    labels = pair.targets.reshape(-1)
    classes = np.unique(labels)
    if len(classes) > MAX_CLASS_SLICES:
        return {}
    return {f"class {int(label)}": np.flatnonzero(labels == label) for label in classes}


@dataclass(frozen=True, kw_only=True)
class _Words:
    """Drops in points where the metric has a scale, else in its own units."""

    scale: tuple[float, float] | None

    def amount(self, value: float) -> str:
        number = self._number(value)
        return number if self.scale is None else f"{number} point{'' if number == '1' else 's'}"

    def drop(self, found: PairedDrop) -> str:
        low, high = self._number(found.interval.low), self._number(found.interval.high)
        verb = "falls behind by" if found.drop >= 0 else "gains"
        return f"{verb} {self.amount(abs(found.drop))} ({found.level * 100:.4g} % interval of the drop {low} to {high})"

    def _number(self, value: float) -> str:
        if self.scale is None:
            return f"{value:.4g}"
        points = round(100 * value / (self.scale[1] - self.scale[0]), 2)
        return f"{points + 0:g}"
