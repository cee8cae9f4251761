"""How far an int8 artifact's outputs are from the unoptimised graph's, in quantisation steps; what may be concluded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgebuild.core.verdict import CrossCheck

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from edgebuild.core.verdict import LayerGap

#: Float arithmetic alone moves an output by this much of its frame's largest value (as parity checks allow).
FLOAT_NOISE = 1e-4
#: Stands for a gap that no number of steps makes: records hold finite numbers.
ENDLESS = 1e9
#: A gap is unexplained beyond this multiple of what rounding reached in the draws: these are a sample, not a bound.
REACH_LIMIT = 2.0


def gap_in_steps(expected: NDArray[Any], found: NDArray[Any], step: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the gap of every element in steps; arrays have frames on axis 0.

    Floats: ``|found - expected| / step``, where a step is at least ``FLOAT_NOISE`` of the frame's largest value.
    Anything else: 0 where equal, 1 where one step changes the element too (``step`` isn't 0), else
    ``ENDLESS``, as is what isn't a number (from everything but itself) or has another shape.
    """
    if expected.shape != found.shape:
        return np.full(expected.shape, ENDLESS)
    if expected.dtype.kind != "f":
        return np.asarray(np.where(expected == found, 0.0, np.where(step > 0, 1.0, ENDLESS)))
    left, right = expected.astype(np.float64), found.astype(np.float64)
    least = _floor(left)
    with np.errstate(invalid="ignore"):
        gap: NDArray[np.float64] = np.asarray(np.abs(left - right) / np.maximum(step, least))
    gap[~(gap < ENDLESS)] = ENDLESS
    gap[(left == right) | (np.isnan(left) & np.isnan(right))] = 0.0
    return gap


def share_of_reach(expected: NDArray[Any], found: NDArray[Any], reach: NDArray[np.float64]) -> float:
    """Return the largest gap as a multiple of ``reach``: for each place of a frame, what rounding alone makes of it."""
    return float(gap_in_steps(expected, found, np.broadcast_to(reach, expected.shape)).max(initial=0.0))


def _floor(values: NDArray[np.float64]) -> NDArray[np.float64]:
    size = np.abs(np.where(np.isfinite(values), values, 0.0)).reshape(len(values), -1).max(axis=1, initial=0.0)
    floor = np.maximum(FLOAT_NOISE * size, np.finfo(np.float32).tiny)
    shaped: NDArray[np.float64] = floor.reshape([len(values)] + [1] * (values.ndim - 1))
    return shaped


def spread(lengths: Sequence[int], *, frames: int, steps: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Choose at most ``frames`` frames, spread evenly over the samples: their rows, and how many of each sample.

    Of a sample with more than ``steps`` frames the first ``steps`` are taken: a state starts at a sample's start.
    """
    whole = [min(length, steps) for length in lengths]
    count = max(1, min(len(lengths), frames // max(1, *whole)))
    chosen = sorted({int(i) for i in np.linspace(0, len(lengths) - 1, count).round()})
    starts = np.concatenate([[0], np.cumsum(lengths)])
    rows = tuple(int(starts[i]) + k for i in chosen for k in range(whole[i]))
    return rows, tuple(whole[i] for i in chosen)


def agreeing(sample: str, frames: int, output: str, steps: float) -> CrossCheck:
    """The conclusion where no element is further off than one step."""
    return CrossCheck(
        cause="agrees",
        explanation=f"no output is more than one step from the unoptimised graph's ({steps:.2f} at most)",
        sample=sample,
        frames=frames,
        output=output,
        steps=steps,
        share=0.0,
    )


def of_layer(seen: CrossCheck, layer: LayerGap) -> CrossCheck:
    """Conclude that this layer makes the gap."""
    why = f": {layer.why}" if layer.why else "; why can't be shown"
    found = (
        f"{layer.op} {layer.node} diverges on identical inputs, by up to {steps_text(layer.steps)} in "
        f"{layer.share:.2%} of its elements{why}"
    )
    return seen.model_copy(update={"cause": "layer", "layer": layer, "explanation": f"{_gap(seen)}; {found}"})


def of_right_layers(seen: CrossCheck, tensors: int) -> CrossCheck:
    """Conclude that rounding makes the gap: the layers, all right, were seen to make up the artifact."""
    explanation = (
        f"{_gap(seen)}: rounding that adds up (none of {tensors} layers is off by more than one, and with its layers "
        "shown the model answers the same)"
    )
    return seen.model_copy(update={"cause": "rounding", "explanation": explanation})


def of_reach(seen: CrossCheck, *, reach: float, tensors: int, unseen: str = "") -> CrossCheck:
    """Conclude from how far rounding reaches. ``unseen`` says why no layer could be checked."""
    gap = _gap(seen)
    looked = f"the layers can't be checked: {unseen}" if unseen else f"none of {tensors} layers is off by more than one"
    if reach <= REACH_LIMIT:
        explanation = f"{gap}: rounding that adds up ({reach:.2f} of what it reaches in this graph; {looked})"
        return seen.model_copy(update={"cause": "rounding", "reach": reach, "explanation": explanation})
    explanation = f"{gap}, {reach:.1f} times what rounding reaches in this graph; not explained: {looked}"
    return seen.model_copy(update={"cause": "unexplained", "reach": reach, "explanation": explanation})


def _gap(seen: CrossCheck) -> str:
    return f"output {seen.output} is up to {steps_text(seen.steps)} from the unoptimised graph's"


def steps_text(steps: float | None) -> str:
    """A gap for people."""
    if steps is None:
        return "an unknown number of steps"
    return "more than any number of steps" if steps >= ENDLESS else f"{steps:.1f} steps"
