"""Operators that scale and shift each channel by constants: y = scale · x + shift."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from edgebuild.models.folding.idle import SHAPERS, attribute
from edgebuild.models.folding.wiring import OWN_DOMAINS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgebuild.models.folding.wiring import Wiring

Vector: TypeAlias = "NDArray[np.float64]"
#: ONNX's number for float32.
FLOAT = 1

#: From here on a float32 has no fractions: adding and taking away so much rounds, and is meant to.
MOST_SHIFT = float(1 << 22)
ODD = "a constant of it is zero, infinite, NaN or too large"
SPREAD = "its constants aren't one per channel"
#: Operators with two inputs, of which one is a constant.
BINARY = frozenset({"Add", "Sub", "Mul", "Div"})


@dataclass(frozen=True, kw_only=True)
class Channels:
    """Where the channels of a tensor lie: ``axis`` counts from the end (-1 is the last), ``rank`` None if unknown."""

    count: int
    axis: int
    rank: int | None

    def vector(self, values: NDArray[Any]) -> Vector | None:
        """Return a constant, broadcast against the tensor, as one value per channel; None where it isn't that.

        Nor is it one that would give the tensor more axes, or longer ones.
        """
        if values.ndim > (1 if self.rank is None else self.rank):
            return None
        own = values.shape[self.axis] if values.ndim >= -self.axis else 1
        if own not in {1, self.count} or own != values.size:
            return None
        return np.broadcast_to(values.reshape(-1).astype(np.float64), (self.count,))

    def spread(self, vector: Vector) -> NDArray[Any]:
        """Return one value per channel in a shape that broadcasts against the tensor."""
        return vector.reshape(-1, *[1] * (-self.axis - 1))

    def behind(self, wiring: Wiring, node: Any) -> Channels | None:
        """Return where the channels lie behind what only moves or splits other axes; None behind anything else."""
        if node.domain not in OWN_DOMAINS:
            return None
        if node.op_type == "Transpose":
            perm = list(attribute(node, "perm", []))
            if len(perm) != (self.rank or len(perm)) or not perm:
                return None
            return Channels(count=self.count, rank=len(perm), axis=perm.index(len(perm) + self.axis) - len(perm))
        if node.op_type not in SHAPERS - {"Expand"}:
            return None
        before, after = (wiring.static_shape(name) for name in (node.input[0], node.output[0]))
        # Elements lie in the same order: a channel is every so many of them, before and after.
        for axis in range(-1, -1 - len(after), -1) if before else ():
            if after[axis] == self.count and _inner(after, axis) == _inner(before, self.axis):
                return Channels(count=self.count, rank=len(after), axis=axis)
        return None


def _inner(shape: tuple[int, ...], axis: int) -> int:
    """Return how many elements lie from one to the next along an axis that counts from the end."""
    return math.prod(shape[len(shape) + axis + 1 :])


@dataclass(frozen=True, kw_only=True)
class Affine:
    """y = ``scale`` · x + ``shift``, one of each per channel."""

    scale: Vector
    shift: Vector

    def then(self, other: Affine) -> Affine:
        """Return this one with another after it."""
        return Affine(scale=self.scale * other.scale, shift=self.shift * other.scale + other.shift)

    @property
    def sound(self) -> bool:
        """Whether it keeps what it is given, up to rounding."""
        finite = bool(np.isfinite(self.scale).all() and np.isfinite(self.shift).all())
        return finite and bool((self.scale != 0).all() and (np.abs(self.shift) < MOST_SHIFT).all())


def identity(count: int) -> Affine:
    """Return what changes nothing."""
    return Affine(scale=np.ones(count), shift=np.zeros(count))


def data_of(wiring: Wiring, node: Any) -> str | None:
    """Return the input that a node scales and shifts by float32 constants, if that is what it does."""
    if node.domain not in OWN_DOMAINS or not node.input:
        return None
    if node.op_type == "BatchNormalization":
        return str(node.input[0]) if not attribute(node, "training_mode", 0) and _settled(wiring, node) else None
    if node.op_type == "Neg":
        return str(node.input[0]) if wiring.types.get(node.input[0]) == FLOAT else None
    if node.op_type not in BINARY:
        return None
    stored = [_float(wiring, name) is not None for name in node.input]
    if sum(stored) != 1 or (node.op_type == "Div" and stored[0]):
        return None
    return str(node.input[stored.index(False)])


def affine_of(wiring: Wiring, node: Any, channels: Channels) -> Affine | str:
    """Return what a node (see ``data_of``) does to each channel of its data, or the reason why it can't be said."""
    one = identity(channels.count)
    if node.op_type == "Neg":
        return Affine(scale=-one.scale, shift=one.shift)
    if node.op_type == "BatchNormalization":
        return _normalisation(wiring, node, channels)
    place = 1 if node.input[0] == data_of(wiring, node) else 0
    values = _float(wiring, node.input[place])
    vector = None if values is None else channels.vector(values)
    if vector is None:
        return SPREAD
    with np.errstate(all="ignore"):
        if node.op_type == "Add":
            found = Affine(scale=one.scale, shift=vector)
        elif node.op_type == "Sub":
            sign = 1.0 if place == 1 else -1.0
            found = Affine(scale=sign * one.scale, shift=-sign * vector)
        else:
            found = Affine(scale=vector if node.op_type == "Mul" else 1 / vector, shift=one.shift)
    return found if found.sound else ODD


def _normalisation(wiring: Wiring, node: Any, channels: Channels) -> Affine | str:
    if channels.rank is None or channels.axis != 1 - channels.rank:
        return SPREAD
    parts = [_float(wiring, name) for name in node.input[1:]]
    gamma, beta, mean, variance = (part.astype(np.float64) for part in parts if part is not None)
    if gamma.shape != (channels.count,):
        return SPREAD
    with np.errstate(all="ignore"):
        scale = gamma / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
        found = Affine(scale=scale, shift=beta - mean * scale)
    return found if found.sound else ODD


def _settled(wiring: Wiring, node: Any) -> bool:
    """Whether a normalisation's statistics are constants, and nobody reads others from it."""
    plain = attribute(node, "spatial", 1) == 1 and wiring.one_output(node)
    return plain and all(_float(wiring, name) is not None for name in node.input[1:])


def _float(wiring: Wiring, name: str) -> NDArray[np.float32] | None:
    values = wiring.array(name)
    return values if values is not None and values.dtype == np.float32 else None


def is_per_channel(wiring: Wiring, node: Any) -> bool:
    """Whether a node (see ``data_of``) has constants of more than one number."""
    found = (_float(wiring, name) for name in node.input)
    return any(values is not None and values.size > 1 for values in found)
