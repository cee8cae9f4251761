"""How accurate two releases are, one against the other: sample by sample where both kept what each sample came to."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from pydantic import ValidationError

from edgebuild.core.scores import MAX_SCORES_BYTES, SCORES, SCORES_FILE, Scores
from edgebuild.errors import ReleaseError
from edgebuild.judging.drops import MIN_UNITS, score_drop
from edgebuild.releasing.gate import Row

if TYPE_CHECKING:
    from edgebuild.core.verdict import Drop
    from edgebuild.releasing.bundle import Bundle, TargetPart
    from edgebuild.releasing.gate import GateOutcome

PATH = f"evidence/{SCORES}/{SCORES_FILE}"
LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """What a release says of its accuracy: against its own original, and of each sample where it kept that."""

    drop: Drop | None
    scores: Scores | None = None


def accuracy_of(bundle: Bundle, part: TargetPart) -> Accuracy:
    """Return what a target says; raises ``ReleaseError`` where its samples don't add up to its figure."""
    drop, layer = part.release.accuracy, part.files().get(PATH)
    if layer is None or drop is None:
        return Accuracy(drop=drop)
    try:
        scores = Scores.model_validate_json(bundle.layout.read(layer, limit=MAX_SCORES_BYTES), strict=True)
    except (ValidationError, RecursionError) as error:
        raise ReleaseError(f"{PATH} of {part.release.target} in {bundle.layout.folder} can't be read.") from error
    with np.errstate(over="ignore"):  # what overflows adds up to nothing that a release claims
        mean = float(np.mean(scores.scores)) if scores.scores else math.nan
    fits = scores.groups is None or len(scores.groups) == len(scores.scores)
    fits = fits and (scores.metric, len(scores.scores)) == (drop.metric, drop.samples)
    if not fits or not math.isclose(mean, drop.artifact, rel_tol=1e-6, abs_tol=1e-9):
        raise ReleaseError(
            f"{PATH} of {part.release.target} in {bundle.layout.folder} doesn't add up to the accuracy that it claims.",
            hint="Nothing of such a bundle is believed.",
        )
    return Accuracy(drop=drop, scores=scores)


def accuracy_row(new: Accuracy, old: Accuracy) -> Row:
    """Compare two releases: in pairs where both kept their samples' scores on one test set, else by their intervals."""
    if new.drop is None or old.drop is None:
        return Row(what="accuracy", new="–", old="–", outcome="inconclusive", why="one of them has no such figure")
    if new.scores is not None and old.scores is not None and _same_samples(new.scores, old.scores):
        return _paired(new.drop, new.scores, old.scores)
    return _by_intervals(new.drop, old.drop)


def _paired(drop: Drop, new: Scores, old: Scores) -> Row:
    """Compare sample by sample: whatever originals the two were built from."""
    found = score_drop(
        np.asarray(old.scores),
        np.asarray(new.scores),
        None if new.groups is None else [str(group) for group in new.groups],
        sign=1 if new.direction == "maximise" else -1,
        level=LEVEL,
        seed=0,
        span=new.span or max(1e-300, abs(float(np.mean(old.scores))), abs(float(np.mean(new.scores)))),
    )
    low, high = found.interval.low, found.interval.high
    outcome = _outcome(low, high, drop.budget) if found.units >= MIN_UNITS else "inconclusive"
    return _row(drop, found.artifact, found.reference, outcome, _why(found.drop, low, high, drop.budget, "in pairs"))


def _by_intervals(new: Drop, old: Drop) -> Row:
    """Compare what both lost against the same original on the same test set.

    The intervals are of one release each and not paired with each other: their difference is bounded by the sum of
    both, so a difference that is called one is one, and a small one stays open.
    """
    if (new.metric, new.samples, new.reference) != (old.metric, old.samples, old.reference):
        why = "they were judged on other test data, or against another original by a metric that is no mean"
        return _row(new, new.artifact, old.artifact, "inconclusive", why)
    low, high = new.low - old.high, new.high - old.low
    why = _why(new.drop - old.drop, low, high, new.budget, "by both intervals")
    return _row(new, new.artifact, old.artifact, _outcome(low, high, new.budget), why)


def _outcome(low: float, high: float, budget: float) -> GateOutcome:
    if low > 0:
        return "worse"
    if high < 0:
        return "better"
    return "equivalent" if high <= budget else "inconclusive"


def _why(worse: float, low: float, high: float, budget: float, how: str) -> str:
    return f"{worse:+.4f} [{low:+.4f}, {high:+.4f}] worse, {how}; the budget is {budget:.4g}"


def _row(drop: Drop, new: float, old: float, outcome: GateOutcome, why: str) -> Row:
    what = f"{drop.metric} on {drop.samples:,} test samples"
    return Row(what=what, new=f"{new:.4f}", old=f"{old:.4f}", outcome=outcome, why=why)


def _same_samples(new: Scores, old: Scores) -> bool:
    same = ("metric", "direction", "span", "test", "groups")
    return bool(new.test) and all(getattr(new, name) == getattr(old, name) for name in same)
