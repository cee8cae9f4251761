"""COCO's mean average precision: pycocotools matches the boxes of each sample once, what is left per draw are sums."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from edgebuild.errors import EnvironmentGap
from edgebuild.judging.boxes import box_pairs

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from edgebuild.judging.arrays import Floats, Ints
    from edgebuild.judging.boxes import Boxes
    from edgebuild.judging.scores import Prepare, Weighted

#: COCO's own: intersections over unions, points of recall, and boxes of a class that count in an image.
COCO_IOUS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
MAX_DETECTIONS = 100
_ANY_AREA = (0.0, 1e10)


@dataclass(kw_only=True)
class _Class:
    """What is known of one class: per found box its sample, score and whether it matches at each IoU."""

    samples: list[Ints] = field(default_factory=list)
    scores: list[Floats] = field(default_factory=list)
    matched: list[NDArray[np.bool_]] = field(default_factory=list)
    wanted: dict[int, int] = field(default_factory=dict)


def coco_map(ious: Floats) -> Prepare:
    """Return the mean of average precision over classes that are wanted and these IoUs, as COCO defines it."""

    def prepare(name: str, output: NDArray[Any], targets: NDArray[Any]) -> Weighted:
        match = _matcher(ious)
        classes: defaultdict[float, _Class] = defaultdict(_Class)
        for sample, (found, wanted) in enumerate(box_pairs(name, output, targets)):
            for label in np.union1d(found.classes, wanted.classes).tolist():
                one, other = found.where(found.classes == label), wanted.where(wanted.classes == label)
                scores, matched = match(one, other)
                known = classes[label]
                known.wanted[sample] = len(other.scores)
                known.samples.append(np.full(len(scores), sample))
                known.scores.append(scores)
                known.matched.append(matched)
        curves = [_curve(known, len(targets)) for known in classes.values() if any(known.wanted.values())]

        def score(counts: Ints) -> float:
            areas = [area for area in (curve(counts) for curve in curves) if area is not None]
            return float(np.mean(areas)) if areas else float("nan")

        return score

    return prepare


def require_evaluator(name: str) -> None:
    """Raise ``EnvironmentGap`` where pycocotools isn't installed."""
    if find_spec("pycocotools") is None:
        raise EnvironmentGap(f"the metric {name} needs pycocotools", hint="pip install 'edgebuild[detection]'")


def _matcher(ious: Floats) -> Callable[[Boxes, Boxes], tuple[Floats, NDArray[np.bool_]]]:
    """Return what matches boxes of one class in one sample: scores, highest first, and hits of (IoUs, boxes)."""
    from pycocotools.cocoeval import COCOeval

    evaluator = COCOeval(iouType="bbox")
    evaluator.params.iouThrs, evaluator.params.maxDets = ious, [MAX_DETECTIONS]

    def match(found: Boxes, wanted: Boxes) -> tuple[Floats, NDArray[np.bool_]]:
        # Image 0 and category 0 stand for any: its own loop over all of them prints, and holds all in memory.
        evaluator._gts[0, 0], evaluator._dts[0, 0] = _annotations(wanted), _annotations(found)
        evaluator.ious = {(0, 0): evaluator.computeIoU(0, 0)}
        result = evaluator.evaluateImg(0, 0, _ANY_AREA, MAX_DETECTIONS)
        return np.asarray(result["dtScores"], dtype=np.float64), np.asarray(result["dtMatches"]) > 0

    return match


def _annotations(boxes: Boxes) -> list[dict[str, Any]]:
    sizes = boxes.corners[:, 2:] - boxes.corners[:, :2]
    return [
        {"id": number, "bbox": [*corner, *size], "area": size[0] * size[1], "score": score, "iscrowd": 0, "ignore": 0}
        for number, (corner, size, score) in enumerate(
            zip(boxes.corners[:, :2].tolist(), sizes.tolist(), boxes.scores.tolist(), strict=True), start=1
        )
    ]


def _curve(known: _Class, samples: int) -> Callable[[Ints], float | None]:
    """Return the average precision of a class by how often each sample counts; None where none is wanted."""
    scores = np.concatenate(known.scores)
    order = np.argsort(-scores, kind="stable")
    owners, matched = np.concatenate(known.samples)[order], np.concatenate(known.matched, axis=1)[:, order]
    wanted = np.zeros(samples)
    wanted[list(known.wanted)] = list(known.wanted.values())

    def area(counts: Ints) -> float | None:
        total = float(wanted @ counts)
        if not total:
            return None
        weights = counts[owners].astype(np.float64)
        hits, found = np.cumsum(matched * weights, axis=1), np.cumsum(weights)
        precision = hits / np.maximum(found, 1)
        best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        return float(np.mean([_at_recalls(hits[row] / total, best[row]) for row in range(len(hits))]))

    return area


def _at_recalls(recall: Floats, precision: Floats) -> float:
    """Return the mean over COCO's points of recall; 0 at those that are never reached."""
    reached = np.searchsorted(recall, RECALLS, side="left")
    return float(precision[reached[reached < len(precision)]].sum() / len(RECALLS))
