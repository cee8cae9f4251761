"""The rank of a matrix's signal, by empirical variational Bayes matrix factorisation, which has a closed form.

Source: Nakajima, Sugiyama, Babacan, Tomioka 2013, "Global Analytic Solution of Fully-observed Variational Bayesian
Matrix Factorization", JMLR 14, theorem 2 and corollary 3 (noise variance by one bounded search).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: The paper's approximation of the zero of its function Φ: τ = 2.5129 √α.
TAU_FACTOR = 2.5129


def signal_rank(matrix: NDArray[Any]) -> int:
    """Return how many singular values stand out of the noise; at least 1."""
    from scipy.optimize import minimize_scalar

    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    rows, columns = wide.shape
    values = np.linalg.svd(wide.astype(np.float64), compute_uv=False)
    if rows < 2 or not values.any():
        return 1
    alpha = rows / columns
    tau = TAU_FACTOR * math.sqrt(alpha)
    edge = (1 + tau) * (1 + alpha / tau)
    upper = float(np.sum(values**2)) / (rows * columns)
    # The paper's bound: at most ceil(L / (1 + α)) - 1 components can be signal.
    first_noise = max(0, min(math.ceil(rows / (1 + alpha)) - 1, rows) - 1)
    noise = values[first_noise + 1 :]
    lower = max(float(noise[0] ** 2) / (columns * edge), float(np.mean(noise**2)) / columns) if len(noise) else 0.0
    lower = min(max(lower, 1e-12 * upper), upper)
    variance = upper
    if lower < upper:
        found = minimize_scalar(_energy, bounds=(lower, upper), args=(values, rows, columns, edge), method="bounded")
        variance = float(found.x)
    threshold = math.sqrt(columns * variance * edge)
    return max(1, int(np.sum(values > threshold)))


def _energy(variance: float, values: NDArray[Any], rows: int, columns: int, edge: float) -> float:
    """The free energy as a function of the noise variance, constants left out."""
    alpha = rows / columns
    x = np.maximum(values**2 / (columns * variance), 1e-300)
    signal, noise = x[x > edge], x[x <= edge]
    middle = signal - (1 + alpha)
    tau = 0.5 * (middle + np.sqrt(np.maximum(middle**2 - 4 * alpha, 0)))
    energy = np.sum(noise - np.log(noise)) + np.sum(signal - tau) + np.sum(np.log((tau + 1) / signal))
    energy += alpha * np.sum(np.log(tau / alpha + 1)) + (rows - len(values)) * math.log(variance)
    return float(energy)
