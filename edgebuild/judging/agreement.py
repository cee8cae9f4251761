"""Agreement with the reference: what unlabelled data are judged by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgebuild.core.chunks import chunks
from edgebuild.core.classes import is_class_row

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgebuild.judging.arrays import Floats, Outputs

#: Outputs that aren't class scores agree with the reference within this share of the output's RMS over the data.
RELATIVE_TOLERANCE = 0.05


def agreement_name(reference: Outputs) -> str:
    """Return what ``agrees`` compares, in words."""
    kinds = {is_class_row(array.shape) for array in reference.values()}
    words = {True: "same class", False: f"outputs within {RELATIVE_TOLERANCE:.0%} of their RMS"}
    return "agreement (" + " and ".join(words[kind] for kind in sorted(kinds, reverse=True)) + ")"


def agrees(reference: Outputs, artifact: Outputs) -> Floats:
    """Return 1.0 per sample on which every output of the artifact agrees with the reference's, else 0.0.

    An output with one score per class (``is_class_row``) agrees when the highest score is of the same class. Any other
    output agrees when the root mean square of its error in a sample is at most 5 % of the reference's RMS over all
    samples; where the reference is -inf, a masked score, the artifact must stay below all that isn't masked. A
    model whose two-dimensional output isn't class scores (an embedding) wants a callable metric instead.
    Arrays may be memory maps; they are streamed.
    """
    samples = len(next(iter(reference.values())))
    result = np.ones(samples)
    for name, wanted in reference.items():
        given = artifact[name]
        limit = 0.0 if is_class_row(wanted.shape) else RELATIVE_TOLERANCE * _rms(wanted)
        for part in chunks(wanted, given):
            if is_class_row(wanted.shape):
                same = (wanted[part].argmax(axis=1) == given[part].argmax(axis=1)).reshape(-1)
            else:
                same = _near(wanted[part], given[part], limit)
            result[part] *= same
    return result


def _near(wanted: NDArray[Any], given: NDArray[Any], limit: float) -> NDArray[np.bool_]:
    rows = len(wanted)
    left, right = (array.astype(np.float64).reshape(rows, -1) for array in (wanted, given))
    seen = np.isfinite(left)
    error = np.subtract(right, left, out=np.zeros_like(left), where=seen)
    lowest = np.where(seen, left, np.inf).min(axis=1, keepdims=True, initial=np.inf)
    still_masked = (seen | (right < lowest)).all(axis=1)
    return np.asarray((np.sqrt((error**2).sum(axis=1) / np.maximum(1, seen.sum(axis=1))) <= limit) & still_masked)


def _rms(array: NDArray[Any]) -> float:
    total, count = 0.0, 0
    for part in chunks(array):
        seen = array[part][np.isfinite(array[part])].astype(np.float64)
        total, count = total + float((seen**2).sum()), count + seen.size
    return float(np.sqrt(total / max(1, count)))
