"""A student that never saw a class: one scalar per missing class sets it right."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgebuild.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

#: Rounds over several classes at most.
ROUNDS = 20


def bias_for_priors(logits: NDArray[np.floating], priors: Mapping[int, float]) -> dict[int, float]:
    """Return what to add to each missing class's bias so that it is predicted as often as ``priors`` say it occurs.

    ``logits`` (samples, classes) are the student's on unlabelled data that holds the classes in their usual shares.
    Hinton 2015, section 3: a student that never saw a 3 learns it from soft targets, all but its bias; one
    number brought it to 98.6 % of the threes. There it was chosen on the test set; here the prior chooses it: halfway
    between the last sample that should go to the class and the first that shouldn't. Several classes are set in turn
    until none moves.

    Raises ``UsageError`` for shares outside (0, 1), a class that doesn't exist or no samples.
    """
    samples, classes = logits.shape
    if not samples:
        raise UsageError("There are no logits to choose a bias from.", hint="Give the student's logits on some data.")
    for label, prior in priors.items():
        if not 0 <= label < classes:
            raise UsageError(f"There is no class {label}: the model has {classes}.")
        if not 0 < prior < 1:
            raise UsageError(f"The share of class {label} is {prior}; it must lie between 0 and 1.")
    shifted = np.array(logits, dtype=np.float64)
    biases = dict.fromkeys(priors, 0.0)
    for _ in range(ROUNDS if len(priors) > 1 else 1):
        moved = 0.0
        for label, prior in priors.items():
            by = _one(shifted, label, prior)
            shifted[:, label] += by
            biases[label] += by
            moved = max(moved, abs(by))
        if moved < 1e-6:
            break
    return biases


def _one(logits: NDArray[np.float64], label: int, prior: float) -> float:
    """Return the bias at which the share of predictions of ``label`` is nearest to ``prior``."""
    # A sample goes to the class once the bias exceeds its margin.
    margins = np.sort(np.delete(logits, label, axis=1).max(axis=1) - logits[:, label])
    count = min(max(round(prior * len(margins)), 1), len(margins))
    above = margins[count] if count < len(margins) else margins[-1] + 1.0
    return float((margins[count - 1] + above) / 2)
