"""Weight codes that make the layer's *output* error small, not each weight's own.

A rounding error of one weight is made up for by the weights that are rounded after it, through the covariance of their
inputs (Frantar et al. 2023, "GPTQ", algorithm 1; the inputs here are the 8-bit ones that the layer will really read).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgebuild.techniques.quantise.arithmetic import Codes, weight_levels
from edgebuild.techniques.quantise.layers import as_rows, from_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgebuild.core.artifact import Int8Scheme
    from edgebuild.techniques.quantise.placement import WeightedOp

#: Added to the covariance's diagonal, relative to its mean: directions that the samples hardly show stay cheap to err in.
DAMPING = 0.01


def compensated(
    op: WeightedOp,
    weight: NDArray[Any],
    scale: NDArray[np.float32],
    covariance: NDArray[np.float64],
    scheme: Int8Scheme,
) -> Codes:
    """Return codes for ``weight`` on the grid of ``scale``; ``covariance`` is (groups, K, K) of the layer's inputs."""
    rows = as_rows(op, weight).astype(np.float64)
    steps = np.broadcast_to(scale, (op.channels,)).reshape(op.groups, -1).astype(np.float64)
    levels = weight_levels(scheme)
    codes = np.stack([_round(rows[g], steps[g], covariance[g], levels) for g in range(op.groups)])
    zero = 128 if scheme.weights == "uint8" else 0
    shaped = from_rows(op, codes, weight.shape)
    return Codes(codes=np.ascontiguousarray(shaped + zero).astype(np.int16), scale=scale, zero_point=zero)


def _round(
    rows: NDArray[np.float64], steps: NDArray[np.float64], covariance: NDArray[np.float64], levels: int
) -> NDArray[np.float64]:
    size = rows.shape[1]
    diagonal = np.diag(covariance)
    damped = covariance + np.eye(size) * max(DAMPING * float(diagonal.mean()), 1e-12)
    # The inputs with the most power come first: their errors have the most others left to make up for them.
    order = np.argsort(-diagonal, kind="stable")
    damped = damped[np.ix_(order, order)]
    # Upper factor U with inv(H) = UᵀU; its rows give the update of what is not rounded yet.
    upper = np.linalg.cholesky(np.linalg.inv(damped)).T
    left = rows[:, order].copy()
    codes = np.empty_like(left)
    for i in range(size):
        codes[:, i] = np.clip(np.rint(left[:, i] / steps), -levels, levels)
        error = (left[:, i] - codes[:, i] * steps) / upper[i, i]
        left[:, i + 1 :] -= error[:, None] * upper[i, i + 1 :]
    result = np.empty_like(codes)
    result[:, order] = codes
    return result
