"""F1 over boxes: found ones against wanted ones, each matched at most once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgebuild.errors import DataError
from edgebuild.judging.scores import each_pair, ratio_of_sums

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from edgebuild.judging.arrays import Floats
    from edgebuild.judging.scores import Weighted

#: A found box matches a wanted one from this intersection over union on, and counts from this score on.
MATCH_IOU = 0.5
MIN_SCORE = 0.5


@dataclass(frozen=True, kw_only=True)
class Boxes:
    """Boxes of a sample: corners (n, 4) as x1, y1, x2, y2; scores and classes (n,)."""

    corners: Floats
    scores: Floats
    classes: Floats

    def where(self, kept: NDArray[Any]) -> Boxes:
        """Return some of them."""
        return Boxes(corners=self.corners[kept], scores=self.scores[kept], classes=self.classes[kept])


def box_f1(name: str, output: NDArray[Any], targets: NDArray[Any]) -> Weighted:
    """Prepare 2 · matched / (found + wanted) over all samples together (text detection calls it hmean)."""
    matched, boxes = np.zeros(len(targets)), np.zeros(len(targets))
    for sample, (found, wanted) in enumerate(box_pairs(name, output, targets)):
        sure = found.where(found.scores >= MIN_SCORE)
        matched[sample], boxes[sample] = 2 * _matched(sure, wanted), len(sure.scores) + len(wanted.scores)
    return ratio_of_sums(matched, boxes)


def box_pairs(name: str, output: NDArray[Any], targets: NDArray[Any]) -> Iterator[tuple[Boxes, Boxes]]:
    """Yield found and wanted boxes of each sample.

    Rows of an output are x1, y1, x2, y2, score, class, those of a target x1, y1, x2, y2, class; or a mapping has
    them as ``boxes`` (n, 4), ``scores`` and ``labels`` (n,). Without a class it is 0, without a score 1. Boxes of score
    0, as models fill up with, are left out.
    """
    for sample, (found, wanted) in enumerate(each_pair(name, output, targets)):
        rows = _rows(name, found, f"output of sample {sample}", ("score", "class"))
        truth = _rows(name, wanted, f"target of sample {sample}", ("class",))
        if (truth[:, :2] > truth[:, 2:4]).any():
            raise DataError(
                f"metric {name}: the target of sample {sample} has a box that ends before it starts",
                hint="boxes are x1, y1, x2, y2: two corners, not a corner and a size",
            )
        boxes = Boxes(corners=rows[:, :4], scores=_column(rows, 4, 1.0), classes=_column(rows, 5, 0.0))
        yield (
            boxes.where(boxes.scores > 0),
            Boxes(corners=truth[:, :4], scores=np.ones(len(truth)), classes=_column(truth, 4, 0.0)),
        )


def _rows(name: str, value: Any, what: str, more: tuple[str, ...]) -> Floats:
    try:
        rows = _table(value, more) if isinstance(value, Mapping) else np.asarray(value)
    except (KeyError, ValueError) as error:
        raise DataError(
            f"metric {name}: the {what} is a mapping, and not one of boxes, labels and scores of the same number",
            hint='{"boxes": rows of x1, y1, x2, y2, "labels": class numbers, "scores": only with outputs}',
        ) from error
    if not rows.size:
        return np.zeros((0, 4))
    most = 4 + len(more)
    if rows.ndim != 2 or not 4 <= rows.shape[1] <= most or rows.dtype.kind not in "iuf" or not np.isfinite(rows).all():
        raise DataError(
            f"metric {name}: the {what} is {rows.dtype} of shape {rows.shape}, not (boxes, 4 to {most}) finite numbers",
            hint=f"a box is x1, y1, x2, y2, {', '.join(more)}; `decode` under [metric] makes such rows of outputs",
        )
    return rows.astype(np.float64)


def _table(boxes: Mapping[str, Any], more: tuple[str, ...]) -> NDArray[Any]:
    """Return the rows of boxes that come as columns, as torchvision has them."""
    corners = np.asarray(boxes["boxes"], dtype=np.float64).reshape(-1, 4)
    columns = {
        "score": boxes.get("scores", np.ones(len(corners))),
        "class": boxes.get("labels", np.zeros(len(corners))),
    }
    return np.column_stack([corners, *(np.asarray(columns[name], dtype=np.float64) for name in more)])


def _column(rows: Floats, column: int, default: float) -> Floats:
    return rows[:, column] if rows.shape[1] > column else np.full(len(rows), default)


def _matched(found: Boxes, wanted: Boxes) -> int:
    """Return how many found boxes have a wanted one of their own: the surest chooses first, the one it covers best."""
    overlaps = _overlaps(found.corners, wanted.corners) * (found.classes[:, None] == wanted.classes)
    count = 0
    for row in np.argsort(-found.scores, kind="stable") if overlaps.size else ():
        best = int(overlaps[row].argmax())
        if overlaps[row, best] >= MATCH_IOU:
            overlaps[:, best] = 0
            count += 1
    return count


def _overlaps(one: Floats, other: Floats) -> Floats:
    """Return the intersection over union of each with each, (found, wanted)."""
    low, high = np.maximum(one[:, None, :2], other[:, :2]), np.minimum(one[:, None, 2:], other[:, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=2)
    total = _areas(one)[:, None] + _areas(other) - shared
    return np.asarray(np.divide(shared, total, out=np.zeros_like(shared), where=total > 0))


def _areas(corners: Floats) -> Floats:
    return np.asarray(np.prod(np.maximum(corners[:, 2:] - corners[:, :2], 0), axis=1))
