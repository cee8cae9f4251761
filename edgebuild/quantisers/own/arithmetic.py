"""The arithmetic of 8-bit numbers: scales, zero points, and the ranges worth trying. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgebuild.core.artifact import Int8Scheme

#: Below this a range is taken for a constant zero; a smaller scale would be subnormal in float32.
SMALLEST_RANGE = 1e-30
PERCENTILES = (99.9, 99.99, 99.999)
BINS = 2048


@dataclass(frozen=True, kw_only=True)
class Affine:
    """``real = scale * (q - zero_point)``, q between ``low`` and ``high``. Zero is exactly representable."""

    scale: float
    zero_point: int
    low: int
    high: int

    @property
    def reals(self) -> tuple[float, float]:
        """The smallest and the largest number that can be said."""
        return self.scale * (self.low - self.zero_point), self.scale * (self.high - self.zero_point)

    def apply(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return ``x`` as it comes back from 8 bits."""
        q = np.clip(np.rint(x / self.scale) + self.zero_point, self.low, self.high)
        real: NDArray[Any] = (q - self.zero_point) * self.scale
        return real


def affine(low: float, high: float, scheme: Int8Scheme) -> Affine:
    """Return the activation parameters that cover ``low`` to ``high``, which is widened to hold zero."""
    low, high = min(low, 0.0), max(high, 0.0)
    q_low, q_high = (0, 255) if scheme.activations == "uint8" else (-128, 127)
    if high - low < SMALLEST_RANGE:
        low, high = 0.0, 1.0
    if not scheme.symmetric_activations:
        scale = _float32((high - low) / 255)
        zero = int(np.clip(np.rint(q_low - low / scale), q_low, q_high))
        return Affine(scale=scale, zero_point=zero, low=q_low, high=q_high)
    top = max(-low, high)
    if scheme.activations == "int8":
        return Affine(scale=_float32(top / 127), zero_point=0, low=-128, high=127)
    if low == 0:
        return Affine(scale=_float32(top / 255), zero_point=0, low=0, high=255)
    return Affine(scale=_float32(top / 127), zero_point=128, low=0, high=255)


def _float32(value: float) -> float:
    return max(float(np.float32(value)), float(np.finfo(np.float32).tiny))


@dataclass(frozen=True, kw_only=True, eq=False)
class Histogram:
    """How often the values of a tensor, from ``low`` to ``high``, fell into equal bins.

    ``edges`` is what the bins cover. Default: ``low`` to ``high``.
    """

    low: float
    high: float
    counts: NDArray[np.int64]
    edges: tuple[float, float] | None = None

    @property
    def bounds(self) -> NDArray[np.float64]:
        """Where the bins begin and end, one more than there are bins."""
        low, high = self.edges or (self.low, self.high)
        return np.linspace(low, high, len(self.counts) + 1)

    @cached_property
    def centres(self) -> NDArray[np.float64]:
        """The middle of each bin."""
        bounds = self.bounds
        return np.asarray((bounds[:-1] + bounds[1:]) / 2, dtype=np.float64)

    def percentile(self, p: float) -> tuple[float, float]:
        """Return the range that leaves out (100 - p) % of the values, at the two ends together."""
        cumulative = np.cumsum(self.counts) / max(int(self.counts.sum()), 1)
        tail = (1 - p / 100) / (1 if self.low >= 0 or self.high <= 0 else 2)
        bounds = np.clip(self.bounds, self.low, self.high)
        low = self.low if self.low >= 0 else bounds[int(np.searchsorted(cumulative, tail, side="right"))]
        last = int(np.searchsorted(cumulative, 1 - tail, side="left"))
        high = self.high if self.high <= 0 else bounds[min(last + 1, len(bounds) - 1)]
        return float(low), float(high)


def candidate_ranges(histogram: Histogram, scheme: Int8Scheme) -> dict[str, tuple[float, float]]:
    """Return the ranges worth trying by name: ``minmax``, percentiles, ``mse``, ``entropy``; equal ones only once."""
    low, high = histogram.low, histogram.high
    found: dict[str, tuple[float, float]] = {"minmax": (low, high)}
    if high - low < SMALLEST_RANGE:
        return found
    shrunk = _shrunk(low, high)
    found["mse"] = min(shrunk, key=lambda r: _squared_error(histogram, affine(r[0], r[1], scheme)))
    found["entropy"] = min(shrunk, key=lambda r: _divergence(histogram, affine(r[0], r[1], scheme)))
    for p in PERCENTILES:
        found[f"p{p:g}"] = histogram.percentile(p)
    unique: dict[str, tuple[float, float]] = {}
    seen: set[tuple[float, int]] = set()
    for name, (a, b) in found.items():
        parameters = affine(a, b, scheme)
        if b > a and (key := (parameters.scale, parameters.zero_point)) not in seen:
            seen.add(key)
            unique[name] = (a, b)
    return unique


def _shrunk(low: float, high: float) -> list[tuple[float, float]]:
    """Ranges that give up more and more of one end or of both; the first is the whole."""
    factors = np.linspace(1.0, 0.3, 36)
    ranges = [(low * float(f), high * float(f)) for f in factors]
    if low < 0 < high:
        ranges += [(low, high * float(f)) for f in factors[1:]] + [(low * float(f), high) for f in factors[1:]]
    return ranges


def _squared_error(histogram: Histogram, parameters: Affine) -> float:
    centres = histogram.centres
    error = parameters.apply(centres) - centres
    # Inside the bins the values spread, so that even a bin whose centre is representable has an error.
    return float(histogram.counts @ error**2)


def _divergence(histogram: Histogram, parameters: Affine) -> float:
    """Return KL(values || values in 8 bits); each level's mass is spread evenly over its non-empty bins."""
    counts = histogram.counts.astype(np.float64)
    levels = np.clip(
        np.rint(histogram.centres / parameters.scale) + parameters.zero_point, parameters.low, parameters.high
    ).astype(np.int64)
    levels -= parameters.low
    occupied = counts > 0
    inside = (histogram.centres >= parameters.reals[0] - parameters.scale / 2) & (
        histogram.centres <= parameters.reals[1] + parameters.scale / 2
    )
    mass = np.bincount(levels[inside], weights=counts[inside], minlength=256)
    bins = np.bincount(levels[inside & occupied], minlength=256)
    q = np.where(inside & occupied, (mass / np.maximum(bins, 1))[levels], 0.0)
    # What is clipped lands on the outermost bins in p, while q knows nothing of it (Migacz, GTC 2017).
    p = np.where(inside, counts, 0.0)
    kept = np.flatnonzero(inside)
    if len(kept) == 0 or q.sum() == 0:
        return float("inf")
    p[kept[0]] += counts[: kept[0]].sum()
    p[kept[-1]] += counts[kept[-1] + 1 :].sum()
    p, q = p / p.sum(), q / q.sum()
    some = p > 0
    return float(np.sum(p[some] * np.log(p[some] / np.maximum(q[some], 1e-12))))


@dataclass(frozen=True, kw_only=True, eq=False)
class Codes:
    """A weight in 8 bits: ``real = scale * (codes - zero_point)``, the scale per channel or one for all."""

    codes: NDArray[np.uint8] | NDArray[np.int8]
    scale: NDArray[np.float32]
    zero_point: int

    @property
    def centred(self) -> NDArray[np.int16]:
        """The codes less the zero point, which one byte doesn't hold on the way."""
        return self.codes.astype(np.int16) - np.int16(self.zero_point)

    def reals(self, axis: int) -> NDArray[np.float32]:
        """Return the weight as it comes back from 8 bits."""
        spread = along(self.scale, self.codes.ndim, axis)
        reals: NDArray[np.float32] = (self.centred * spread).astype(np.float32)
        return reals


def along(values: NDArray[Any], ndim: int, axis: int) -> NDArray[Any]:
    """Return a vector shaped so that it runs along ``axis`` of an array with ``ndim`` axes; a scalar stays one."""
    if values.ndim == 0 or values.size == 1:
        return values.reshape(())
    shape = [1] * ndim
    shape[axis] = -1
    return values.reshape(shape)


def weight_levels(scheme: Int8Scheme) -> int:
    """Return the largest magnitude of a code: symmetric and narrow, so that -q is always there too."""
    return 63 if scheme.reduce_range else 127


def weight_scale(
    weight: NDArray[Any], axis: int, scheme: Int8Scheme, floor: NDArray[Any] | float = 0.0
) -> NDArray[np.float32]:
    """Return the scales that reach each channel's largest weight (one scale where the scheme is per tensor).

    ``floor`` is the least scale, per channel: it keeps the int32 codes of a bias in reach.
    """
    others = tuple(i for i in range(weight.ndim) if i != axis)
    reach = np.abs(weight).max(axis=others) if scheme.per_channel else np.abs(weight).max()
    scale = np.asarray(reach, dtype=np.float64) / weight_levels(scheme)
    least = floor if scheme.per_channel else np.max(floor)
    found = np.maximum(np.where(scale > SMALLEST_RANGE, scale, 1.0), least)
    return np.minimum(found, np.finfo(np.float32).max).astype(np.float32)


def encode(weight: NDArray[Any], scale: NDArray[np.float32], axis: int, scheme: Int8Scheme) -> Codes:
    """Return the nearest codes of a weight."""
    levels = weight_levels(scheme)
    return codes_of(np.clip(np.rint(weight / along(scale, weight.ndim, axis)), -levels, levels), scale, scheme)


def codes_of(whole: NDArray[Any], scale: NDArray[np.float32], scheme: Int8Scheme) -> Codes:
    """Return whole numbers around zero as codes, in the one byte each that they need: several trials' are held."""
    if scheme.weights == "uint8":
        return Codes(codes=(whole + 128).astype(np.uint8), scale=scale, zero_point=128)
    return Codes(codes=whole.astype(np.int8), scale=scale, zero_point=0)


def clipped_scale(
    weight: NDArray[Any], axis: int, scheme: Int8Scheme, full: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the scales, ``full`` or up to 40 % below, with the least squared error per channel."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    best, least = full.copy(), np.full(full.shape, np.inf)
    levels = weight_levels(scheme)
    for factor in np.linspace(1.0, 0.6, 21):
        scale = (full * factor).astype(np.float32)
        spread = along(scale, weight.ndim, axis)
        error = (np.clip(np.rint(weight / spread), -levels, levels) * spread - weight) ** 2
        total = error.sum(axis=others) if scheme.per_channel else np.asarray(error.sum())
        better = total < least
        best, least = np.where(better, scale, best), np.where(better, total, least)
    return best.astype(np.float32)
