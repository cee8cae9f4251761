"""Agreement with the reference: what unlabelled data are judged by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgebuild.judging.arrays import Floats, Outputs, chunks

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Outputs that aren't class scores agree with the reference within this share of the output's RMS over the data.
RELATIVE_TOLERANCE = 0.05


def agreement_name(reference: Outputs) -> str:
    """Return what ``agrees`` compares, in words."""
    kinds = {are_class_scores(array.shape) for array in reference.values()}
    words = {True: "same class", False: f"outputs within {RELATIVE_TOLERANCE:.0%} of their RMS"}
    return "agreement (" + " and ".join(words[kind] for kind in sorted(kinds, reverse=True)) + ")"


def agrees(reference: Outputs, artifact: Outputs) -> Floats:
    """Return 1.0 per sample on which every output of the artifact agrees with the reference's, else 0.0.

    An output of shape (samples, classes), classes >= 2, agrees when the highest score is of the same class. Any other
    output agrees when the root mean square of its error in a sample is at most 5 % of the reference's RMS over all
    samples. A model whose two-dimensional output isn't class scores (an embedding) wants a callable metric instead.
    Arrays may be memory maps; they are streamed.
    """
    samples = len(next(iter(reference.values())))
    result = np.ones(samples)
    for name, wanted in reference.items():
        given = artifact[name]
        limit = 0.0 if are_class_scores(wanted.shape) else RELATIVE_TOLERANCE * _rms(wanted)
        for part in chunks(wanted):
            if are_class_scores(wanted.shape):
                same = wanted[part].argmax(axis=1) == given[part].argmax(axis=1)
            else:
                error = given[part].astype(np.float64) - wanted[part].astype(np.float64)
                same = np.sqrt((error.reshape(len(error), -1) ** 2).mean(axis=1)) <= limit
            result[part] *= same
    return result


def are_class_scores(shape: tuple[int, ...]) -> bool:
    """Return whether an output of this shape is taken as scores of classes."""
    return len(shape) == 2 and shape[1] >= 2


def _rms(array: NDArray[Any]) -> float:
    total = sum(float((array[part].astype(np.float64) ** 2).sum()) for part in chunks(array))
    return float(np.sqrt(total / array.size))
