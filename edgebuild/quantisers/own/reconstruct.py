"""Weights refitted so that each layer, on its 8-bit input, says what the float layer says on the float input.

Layer by layer: the least-squares weight for the 8-bit input, held near the original by a ridge; then codes whose
rounding errors make up for each other through the covariance of the inputs (Frantar et al. 2023, "GPTQ", algorithm 1);
then the bias that takes the mean error out. The ridge is what keeps few samples from being learnt by heart.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgebuild.quantisers.own.arithmetic import Codes, weight_levels
from edgebuild.quantisers.own.layers import POSITIONS, as_rows, from_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgebuild.core.artifact import Int8Scheme
    from edgebuild.quantisers.own.placement import WeightedOp
    from edgebuild.quantisers.own.simulator import QuantisationState
    from edgebuild.quantisers.own.workbench import Calibration

#: Layers with more inputs per channel than this keep their codes: the covariance would be too large.
LARGEST = 2304
#: A covariance is taken over this many patches per input of the layer, and over no fewer frames than stated.
PATCHES_PER_INPUT, LEAST_FRAMES = 16, 32


def reconstructed(bench: Calibration, numbers: QuantisationState, ridge: float) -> QuantisationState:
    """Return ``numbers`` with every layer refitted in graph order. ``ridge`` is relative to the inputs' mean power."""
    for op in bench.placement.ops:
        try:
            numbers = _refitted(bench, numbers, op, ridge)
        except np.linalg.LinAlgError:
            continue  # inputs far from zero that hardly vary: in float64 they have no covariance
    return numbers


def _refitted(bench: Calibration, numbers: QuantisationState, op: WeightedOp, ridge: float) -> QuantisationState:
    weight, bias = numbers.weights[op.name], numbers.biases.get(op.name)
    if weight.size // op.channels > LARGEST:
        return numbers
    found = bench.moments(op, numbers, _frames(bench, op))
    if bias is None:
        found = replace(found, mean_x=found.mean_x * 0, mean_y=found.mean_y * 0)
    damped = _damped(found.covariance, ridge)
    rows = as_rows(op, weight).astype(np.float64)
    # rows · (C - H) · (H + ridge)⁻¹; H is symmetric, so the inverse goes to the left of the transposed.
    change = np.linalg.solve(damped, (found.cross_covariance - found.covariance).swapaxes(1, 2)).swapaxes(1, 2)
    fitted = rows + np.matmul(rows, change)
    target = from_rows(op, fitted, weight.shape).astype(np.float32)
    moved = replace(numbers, weights={**numbers.weights, op.name: target})
    codes = compensated(op, target, bench.full_scale(op, moved), damped, bench.scheme)
    numbers = replace(numbers, codes={**numbers.codes, op.name: codes})
    if bias is None:
        return numbers
    error = np.einsum("goi,gi->go", rows, found.mean_y) - np.einsum(
        "goi,gi->go", as_rows(op, codes.reals(op.axis)), found.mean_x
    )
    corrected = (bias + error.reshape(bias.shape)).astype(np.float32)
    return replace(numbers, biases={**numbers.biases, op.name: corrected})


def _frames(bench: Calibration, op: WeightedOp) -> int:
    """Return how many frames show enough of the layer's inputs, if there are so many and they can be afforded."""
    inputs = bench.original.weights[op.name].size // op.channels
    positions = max(op.macs // bench.original.weights[op.name].size, 1)
    return min(bench.layer_frames, max(inputs * PATCHES_PER_INPUT // min(positions, POSITIONS), LEAST_FRAMES))


def _damped(covariance: NDArray[np.float64], ridge: float) -> NDArray[np.float64]:
    size = covariance.shape[-1]
    power = np.trace(covariance, axis1=1, axis2=2) / size
    damped: NDArray[np.float64] = covariance + np.eye(size) * np.maximum(ridge * power, 1e-12)[:, None, None]
    return damped


def compensated(
    op: WeightedOp,
    weight: NDArray[Any],
    scale: NDArray[np.float32],
    covariance: NDArray[np.float64],
    scheme: Int8Scheme,
) -> Codes:
    """Return codes for ``weight`` on the grid of ``scale``; ``covariance`` is (groups, K, K), positive definite."""
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
    # The inputs with the most power come first: their errors have the most others left to make up for them.
    order = np.argsort(-np.diag(covariance), kind="stable")
    # Upper factor U with inv(H) = UᵀU; its rows give the update of what is not rounded yet.
    upper = np.linalg.cholesky(np.linalg.inv(covariance[np.ix_(order, order)])).T
    left = rows[:, order].copy()
    codes = np.empty_like(left)
    for i in range(left.shape[1]):
        codes[:, i] = np.clip(np.rint(left[:, i] / steps), -levels, levels)
        error = (left[:, i] - codes[:, i] * steps) / upper[i, i]
        left[:, i + 1 :] -= error[:, None] * upper[i, i + 1 :]
    result = np.empty_like(codes)
    result[:, order] = codes
    return result
