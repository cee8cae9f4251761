"""Weights refitted so that each layer, on its 8-bit input, says what the float layer says on the float input.

Layer by layer: the least-squares weight for the 8-bit input, held near the original by a ridge; then codes whose
rounding errors make up for each other through the covariance of the inputs (Frantar et al. 2023, "GPTQ", algorithm 1);
then the bias that takes the mean error out. The ridge is what keeps few samples from being learnt by heart.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.linalg.lapack import dpotrf, dpotri

from edgebuild.quantisers.own.arithmetic import Codes, codes_of, weight_levels
from edgebuild.quantisers.own.layers import POSITIONS, as_rows, from_rows, mean_patch, moments, products, weight_count

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from edgebuild.core.artifact import Int8Scheme
    from edgebuild.quantisers.own.graph import Graph
    from edgebuild.quantisers.own.placement import WeightedOp
    from edgebuild.quantisers.own.simulator import QuantisationState
    from edgebuild.quantisers.own.workbench import Calibration, Inputs

#: Layers with more inputs per channel than this keep their codes: the covariance would be too large.
LARGEST = 2304
#: A covariance is taken over this many patches per input of the layer, and over no fewer frames than stated.
PATCHES_PER_INPUT, LEAST_FRAMES = 16, 32
#: Codes are compensated in blocks of this many inputs: within one after another, for the rest all at once.
BLOCK = 64
#: A product in float64 takes as long as two in float32, which budgets count.
DOUBLE = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class FloatLayer:
    """What a layer sees in the float model: ``mean_patch`` of what it reads, and where it is refitted, ``products``.

    ``cost`` is what refitting it takes, in MACs; None where it isn't.
    """

    mean: NDArray[np.float64]
    products: Sequence[NDArray[np.float32]]
    cost: int | None


def float_layers(bench: Calibration, numbers: QuantisationState) -> dict[str, FloatLayer]:
    """Return what the layers see in the float model of ``numbers``, by op; those that the budget has room for refitted.

    It is the same for all rungs that follow, so that the float model goes through its layers once.
    """
    frames, found = len(bench.walkers), dict[str, FloatLayer]()
    costs = affordable(bench.graph, bench.placement.ops, frames, max(bench.budget_macs, len(bench.fit) * bench.macs))

    def keep(numbers: QuantisationState, op: WeightedOp, read: Inputs) -> QuantisationState:
        # As many batches as hold the frames that show enough.
        some = read[: -(-len(read) * _frames(bench.graph, op, frames) // frames)] if op.name in costs else ()
        found[op.name] = FloatLayer(
            mean=mean_patch(bench.graph, op, read),
            products=products(bench.graph, op, numbers.weights[op.name], some, bench.seed),
            cost=costs.get(op.name),
        )
        return numbers

    bench.layer_by_layer(bench.base(numbers), keep)
    return found


def corrected(bench: Calibration, numbers: QuantisationState, right: Mapping[str, FloatLayer]) -> QuantisationState:
    """Return the numbers with biases that take each channel's mean error out, one layer after another."""

    def change(numbers: QuantisationState, op: WeightedOp, read: Inputs) -> QuantisationState:
        return _with_bias(bench, numbers, op, read, right[op.name])

    return bench.layer_by_layer(numbers, change)


def reconstructed(
    bench: Calibration,
    numbers: QuantisationState,
    right: Mapping[str, FloatLayer],
    ridge: float,
    share: float = 1.0,
) -> QuantisationState:
    """Return ``numbers`` with the layers refitted in graph order that the budget has room for, and all biases.

    ``ridge`` is relative to the inputs' mean power. Weights make up for ``share`` of what 8-bit inputs leave missing.
    """

    def change(numbers: QuantisationState, op: WeightedOp, read: Inputs) -> QuantisationState:
        layer = right[op.name]
        if layer.cost is not None:
            # Inputs far from zero that hardly vary have no covariance in float64.
            with suppress(np.linalg.LinAlgError):
                numbers = _refitted(bench, numbers, op, read, layer, ridge, share)
            bench.tick(layer.cost / bench.macs)
        return _with_bias(bench, numbers, op, read, layer)

    return bench.layer_by_layer(numbers, change)


def affordable(graph: Graph, ops: Sequence[WeightedOp], frames: int, budget_macs: int) -> dict[str, int]:
    """Return the layers that are refitted and what each costs: the cheapest first, until the budget is spent."""
    chosen: dict[str, int] = {}
    for cost, op in sorted(((_cost(graph, op, frames), op) for op in ops), key=lambda pair: pair[0]):
        budget_macs -= cost
        if budget_macs >= 0 and _inputs(graph, op) <= LARGEST:
            chosen[op.name] = cost
    return chosen


def _inputs(graph: Graph, op: WeightedOp) -> int:
    return weight_count(graph, op) // op.channels


def _cost(graph: Graph, op: WeightedOp, frames: int) -> int:
    """Return about what refitting a layer takes, in MACs of float32: its covariance, the inverse, the compensation."""
    inputs, rows = _inputs(graph, op), POSITIONS * _frames(graph, op, frames)
    each = inputs**2 * rows + inputs**3 + op.channels // op.groups * inputs**2
    return DOUBLE * op.groups * each


def _frames(graph: Graph, op: WeightedOp, frames: int) -> int:
    """Return how many of ``frames`` show enough of the layer's inputs."""
    positions = max(op.macs // weight_count(graph, op), 1)
    wanted = _inputs(graph, op) * PATCHES_PER_INPUT // min(positions, POSITIONS)
    return min(frames, max(wanted, LEAST_FRAMES))


def _with_bias(
    bench: Calibration, numbers: QuantisationState, op: WeightedOp, read: Inputs, right: FloatLayer
) -> QuantisationState:
    """Return the numbers with a bias that makes the layer's mean what it is in float."""
    if op.bias_slot is None:
        return numbers
    mean_x, mean_y = mean_patch(bench.graph, op, read), right.mean
    rows, codes = (as_rows(op, w) for w in (numbers.weights[op.name], numbers.codes[op.name].reals(op.axis)))
    error = np.einsum("goi,gi->go", rows, mean_y) - np.einsum("goi,gi->go", codes, mean_x)
    bias = numbers.float_biases[op.name]
    return replace(numbers, biases={**numbers.biases, op.name: (bias + error.reshape(bias.shape)).astype(np.float32)})


def _refitted(
    bench: Calibration,
    numbers: QuantisationState,
    op: WeightedOp,
    read: Inputs,
    right: FloatLayer,
    ridge: float,
    share: float,
) -> QuantisationState:
    weight = numbers.weights[op.name]
    pairs = zip(read, right.products, strict=False)  # products of the first few inputs are enough
    found = moments(bench.graph, op, weight, pairs, bench.seed, centred=op.bias_slot is not None)
    _damp(found.covariance, ridge)
    power = np.diagonal(found.covariance, axis1=1, axis2=2).copy()
    inverse = _inverted(found.covariance)
    fitted = as_rows(op, weight) + share * np.matmul(found.missing, inverse)
    target = from_rows(op, fitted, weight.shape).astype(np.float32)
    moved = replace(numbers, weights={**numbers.weights, op.name: target})
    codes = compensated(op, target, bench.full_scale(op, moved), (power, inverse), bench.scheme)
    return replace(numbers, codes={**numbers.codes, op.name: codes})


def _damp(covariance: NDArray[np.float64], ridge: float) -> None:
    """Add the ridge to the diagonal of each group, in place."""
    size = covariance.shape[-1]
    power = np.trace(covariance, axis1=1, axis2=2) / size
    covariance[:, range(size), range(size)] += np.maximum(ridge * power, 1e-12)[:, None]


def _inverted(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the inverse of each group; that of a single large one in its own memory.

    Raises ``LinAlgError`` where there is none.
    """
    if len(covariance) > 1:
        return np.asarray(np.linalg.inv(covariance))
    matrix = covariance[0]
    _, failed = dpotri(_upper_factors(covariance)[0], overwrite_c=1)
    if failed:
        raise np.linalg.LinAlgError
    for i in range(len(matrix)):  # LAPACK fills one triangle
        matrix[i, i + 1 :] = matrix[i + 1 :, i]
    return covariance


def _upper_factors(matrices: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return U of each with matrix = UᵀU, in a single matrix's own memory; what is below the diagonal means nothing."""
    if len(matrices) > 1:
        return np.asarray(np.linalg.cholesky(matrices).swapaxes(1, 2), dtype=np.float64)
    upper, failed = dpotrf(matrices[0].T, clean=0, overwrite_a=1)
    if failed:
        raise np.linalg.LinAlgError
    return np.asarray(upper)[np.newaxis]


def compensated(
    op: WeightedOp,
    weight: NDArray[Any],
    scale: NDArray[np.float32],
    inputs: tuple[NDArray[np.float64], NDArray[np.float64]],
    scheme: Int8Scheme,
) -> Codes:
    """Return codes for ``weight`` on the grid of ``scale``.

    ``inputs`` holds the diagonal of their covariance, (groups, K), and its inverse, (groups, K, K), positive definite.
    """
    power, inverse = inputs
    rows = as_rows(op, weight).astype(np.float64)
    steps = np.broadcast_to(scale, (op.channels,)).reshape(op.groups, -1).astype(np.float64)
    levels = weight_levels(scheme)
    codes = _rounded(rows, steps, power, inverse, levels)
    return codes_of(np.ascontiguousarray(from_rows(op, codes, weight.shape)), scale, scheme)


def _rounded(
    rows: NDArray[np.float64],
    steps: NDArray[np.float64],
    power: NDArray[np.float64],
    inverse: NDArray[np.float64],
    levels: int,
) -> NDArray[np.float64]:
    # The inputs with the most power come first: their errors have the most others left to make up for them.
    order = np.argsort(-power, axis=1, kind="stable")
    groups = np.arange(len(rows))[:, None, None]
    # Its rows give the update of what is not rounded yet.
    upper = _upper_factors(inverse[groups, order[:, :, None], order[:, None, :]])
    # One input of all channels after another: so they lie in memory, too.
    left = np.take_along_axis(rows.swapaxes(1, 2), order[:, :, None], axis=1)
    codes = np.empty_like(left)
    for start in range(0, left.shape[1], BLOCK):
        end = min(start + BLOCK, left.shape[1])
        block, errors = left[:, start:end], np.empty((len(left), end - start, left.shape[2]))
        for i in range(end - start):
            at = start + i
            codes[:, at] = np.clip(np.rint(block[:, i] / steps), -levels, levels)
            errors[:, i] = (block[:, i] - codes[:, at] * steps) / upper[:, at, at, None]
            block[:, i + 1 :] -= upper[:, at, at + 1 : end, None] * errors[:, None, i]
        left[:, end:] -= np.matmul(upper[:, start:end, end:].swapaxes(1, 2), errors)
    result = np.empty_like(codes)
    np.put_along_axis(result, order[:, :, None], codes, axis=1)
    return result.swapaxes(1, 2)
