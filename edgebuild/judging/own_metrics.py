"""Metrics from a project's own functions, whose answers are checked where they come in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from edgebuild.core.chunks import chunks
from edgebuild.errors import DataError
from edgebuild.judging.metrics import Direction, Metric, Scale, Scorer, mean_of
from edgebuild.judging.pace import FEW_DRAWS

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from edgebuild.judging.arrays import Floats, Ints, Outputs

    Function: TypeAlias = Callable[[Outputs, NDArray[Any]], Any]

#: How far what is combined from all samples may be from what the plain function says of them.
TOLERANCE = 1e-6


def custom(function: Function, *, name: str, direction: Direction, scale: Scale | None = None) -> Metric:
    """Return a metric from a callable ``(outputs, targets) -> number``, which is called for every draw.

    When it raises, or returns no finite number, the metric raises ``DataError`` naming the callable.
    """

    def prepare(outputs: Outputs, targets: NDArray[Any]) -> Scorer:
        def score(counts: Ints | None) -> float:
            if counts is None:
                return _number(name, len(targets), function, outputs, targets)
            rows = _rows(counts)
            part = {key: array[rows] for key, array in outputs.items()}
            return _number(name, len(rows), function, part, targets[rows])

        return score

    return Metric(name=name, direction=direction, scale=scale, prepare=prepare, most_draws=FEW_DRAWS[0])


def by_samples(
    per_sample: Function,
    combine: Callable[[Any], Any] | None,
    *,
    name: str,
    direction: Direction,
    scale: Scale | None = None,
    plain: Function | None = None,
) -> Metric:
    """Return a metric from ``per_sample(outputs, targets)``, one entry per sample, and what combines any of them.

    Without ``combine`` it is the mean of one number per sample. Raises ``DataError`` naming the callable where one
    raises, entries are missing, or the metric over all samples isn't what ``plain(outputs, targets)`` says.
    """

    def entries(outputs: Outputs, targets: NDArray[Any]) -> NDArray[Any]:
        found = _entries(_call(name, per_sample, outputs, targets), len(targets), name, "per_sample")
        return found if combine is not None else _numbers(found, name)

    def prepare(outputs: Outputs, targets: NDArray[Any]) -> Scorer:
        found = entries(outputs, targets)
        score = mean_of(found) if combine is None else _combined(found, combine, name)
        if plain is not None:
            _agree(score(None), _number(name, len(targets), plain, outputs, targets), len(targets), name)
        return score

    return Metric(
        name=name, direction=direction, scale=scale, prepare=prepare, scores=entries if combine is None else None
    )


def decoded(metric: Metric, decode: Callable[[Outputs], Any]) -> Metric:
    """Return a metric of what ``decode(outputs)`` makes of all outputs: one prediction per sample.

    It gets some samples at a time: outputs of a whole split may be larger than memory. Raises ``DataError`` where it
    raises or predictions are missing.
    """

    def outputs_of(outputs: Outputs) -> Outputs:
        largest, *others = sorted(outputs.values(), key=lambda array: -array.size)
        found = []
        for part in chunks(largest, *others):
            some = _call(metric.name, decode, {name: array[part] for name, array in outputs.items()})
            _entries(some, len(largest[part]), metric.name, "decode")
            found.append(some)
        return {"decoded": _entries(_joined(found), len(largest), metric.name, "decode")}

    scores = metric.scores
    return replace(
        metric,
        prepare=lambda outputs, targets: metric.prepare(outputs_of(outputs), targets),
        scores=None if scores is None else lambda outputs, targets: scores(outputs_of(outputs), targets),
        reads=(outputs_of, metric),
    )


def _joined(parts: list[Any]) -> Any:
    """Return the predictions of all parts as code of a project's would return them at once."""
    if len({getattr(part, "shape", (0, -1))[1:] for part in parts}) == 1 and isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)
    return list(chain.from_iterable(parts))


def _combined(entries: NDArray[Any], combine: Callable[[Any], Any], name: str) -> Scorer:
    def score(counts: Ints | None) -> float:
        chosen = entries if counts is None else entries[_rows(counts)]
        return _number(name, len(chosen), combine, chosen)

    return score


def _rows(counts: Ints) -> NDArray[np.intp]:
    return np.repeat(np.arange(len(counts)), counts)


def _entries(found: Any, samples: int, name: str, what: str) -> NDArray[Any]:
    """Return one entry per sample: an array of numbers, or of objects where they are anything else."""
    try:
        count = len(found)
    except TypeError as error:
        raise DataError(f"metric {name}: {what} returned {type(found).__name__}, not one entry a sample") from error
    if count != samples:
        raise DataError(f"metric {name}: {what} returned {count} entries for {samples} samples")
    if isinstance(found, np.ndarray):
        return found
    try:
        plain = np.asarray(found)
    except ValueError:
        plain = None  # of several shapes
    return (
        plain if plain is not None and plain.dtype.kind in "biuf" else np.fromiter(found, dtype=object, count=samples)
    )


def _numbers(entries: NDArray[Any], name: str) -> Floats:
    if entries.shape == (len(entries), 1):
        entries = entries[:, 0]
    if entries.ndim != 1 or entries.dtype.kind not in "biuf":
        raise DataError(
            f"metric {name}: per_sample returned shape {entries.shape} of {entries.dtype}, not one number a sample",
            hint='name under [metric] what makes one number of several entries: `combine = "module:function"`',
        )
    wrong = np.flatnonzero(~np.isfinite(entries))
    if len(wrong):
        raise DataError(f"metric {name}: per_sample returned {entries[wrong[0]]} for sample {wrong[0]}")
    return entries.astype(np.float64)


def _agree(combined: float, plain: float, samples: int, name: str) -> None:
    if not math.isclose(combined, plain, rel_tol=TOLERANCE, abs_tol=TOLERANCE):
        raise DataError(
            f"metric {name}: per_sample combines to {combined:.9g} on {samples} samples, where it returns {plain:.9g}",
            hint="combining the entries of all samples must give what the callable returns; or leave `callable` out",
        )


def _number(name: str, samples: int, function: Callable[..., Any], *arguments: Any) -> float:
    result = _call(name, function, *arguments)
    try:
        number = float(result)
    except (TypeError, ValueError) as error:
        raise DataError(f"metric {name} returned {type(result).__name__}, not a number") from error
    if not math.isfinite(number):
        raise DataError(f"metric {name} returned {number} on {samples} samples")
    return number


def _call(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except Exception as error:
        given = ", ".join(_shown(each) for each in arguments)
        raise DataError(
            f"metric {name} raised {type(error).__name__}: {error}",
            hint=f"It was called with {given}; docs/metrics.md.",
        ) from error


def _shown(argument: Any) -> str:
    """Say what a function was called with, as its author would write it."""
    if isinstance(argument, Mapping):
        return "{" + ", ".join(f"{key!r}: {_shown(each)}" for key, each in argument.items()) + "}"
    if isinstance(argument, np.ndarray):
        return f"{argument.dtype} {argument.shape}"
    return type(argument).__name__
