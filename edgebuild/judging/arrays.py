"""Outputs and targets as the metrics see them: checked once, with errors that say what is wrong and where.

Axis 0 of every array is the sample (for a stateful model: the step of a sequence, sequences one after another).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgebuild.core.chunks import chunks
from edgebuild.core.classes import is_class_row
from edgebuild.errors import DataError, ModelError

Outputs: TypeAlias = Mapping[str, NDArray[Any]]
Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
#: A name, or none, per sample.
Labels: TypeAlias = Sequence[str | None] | NDArray[Any]

#: Rows count as probabilities when they are not negative and sum to one within this (half precision rounds at 5e-4).
PROBABILITY_TOLERANCE = 1e-2


def pick_output(outputs: Outputs, output: str | None, metric: str) -> NDArray[Any]:
    """Return the named output, or the only one. Raises ``DataError`` when it's absent or which one isn't said."""
    names = ", ".join(outputs)
    if output is not None:
        if output not in outputs:
            raise DataError(
                f"metric {metric}: the model has no output {output!r}, it has {names}",
                hint=f"under [metric] in edgebuild.toml: `output = {json.dumps(next(iter(outputs)))}`, or another one",
            )
        return np.asarray(outputs[output])
    if len(outputs) != 1:
        raise DataError(
            f"metric {metric}: the model has {len(outputs)} outputs ({names}) and the metric reads one",
            hint=f"name it under [metric] in edgebuild.toml: `output = {json.dumps(next(iter(outputs)))}`; or use a "
            "callable metric, `module:function(outputs, targets)`, which gets all of them",
        )
    return np.asarray(next(iter(outputs.values())))


def _same_length(scores: NDArray[Any], targets: NDArray[Any], metric: str) -> None:
    if not len(scores):
        raise DataError(f"metric {metric}: there are no samples", hint="check the data callable: it yielded nothing")
    if targets.dtype == object:
        raise DataError(
            f"metric {metric}: the targets of the samples differ in shape, and it compares one array with another",
            hint="use a callable metric, `module:function(outputs, targets)`, which gets them one by one",
        )
    if targets.ndim == 0 or len(targets) != len(scores):
        raise DataError(f"metric {metric}: {len(scores)} outputs but targets of shape {targets.shape}")


def class_labels(targets: NDArray[Any], classes: int, shape: tuple[int, ...], metric: str) -> Ints:
    """Return targets as integer labels of ``shape``, each in ``0 … classes - 1``; an error names the first bad one."""
    labels = np.asarray(targets)
    if labels.shape == (*shape, 1):
        labels = labels[..., 0]
    if labels.shape != shape:
        raise DataError(f"metric {metric}: targets have shape {labels.shape}, the outputs need {shape}")
    if labels.dtype.kind not in "iub" and (
        labels.dtype.kind != "f" or not np.isfinite(labels).all() or not np.array_equal(labels, np.rint(labels))
    ):
        raise DataError(f"metric {metric}: targets must be class numbers, they are {labels.dtype} values")
    whole = labels.astype(np.int64)
    bad = np.argwhere((whole < 0) | (whole >= classes))
    if len(bad):
        where = tuple(int(i) for i in bad[0])
        place = f"sample {where[0]}" if len(where) == 1 else f"position {where}"
        raise DataError(
            f"metric {metric}: the target of {place} is {int(whole[where])}, but the model has {classes} classes "
            f"(0 to {classes - 1}); {len(bad)} targets are out of range",
            hint="map labels to 0 … classes - 1 in the data callable",
        )
    return whole


def class_scores(scores: NDArray[Any], targets: NDArray[Any], metric: str) -> tuple[NDArray[Any], Ints]:
    """Return scores of shape (samples, classes, …) and integer labels of shape (samples, …), axes of 1 left out."""
    _same_length(scores, targets, metric)
    if scores.ndim < 2 or scores.shape[1] < 2:
        raise DataError(
            f"metric {metric}: needs one score per class, (samples, classes); the output has shape {scores.shape}",
            hint="for a single score use auroc or average_precision, or a callable metric",
        )
    if is_class_row(scores.shape) and targets.size == len(targets):
        scores, targets = scores.reshape(scores.shape[:2]), targets.reshape(-1)
    shape = (scores.shape[0], *scores.shape[2:])
    return scores, class_labels(targets, scores.shape[1], shape, metric)


def by_parts(array: NDArray[Any], make: Callable[[NDArray[Any]], NDArray[Any]]) -> NDArray[Any]:
    """Return what ``make`` says of each sample, some samples at a time."""
    return np.concatenate([make(array[part]) for part in chunks(array)])


def value_pairs(values: NDArray[Any], targets: NDArray[Any], metric: str) -> tuple[Floats, Floats]:
    """Return outputs and targets of a regression as float64 arrays of shape (samples, values)."""
    check_values(values, targets, metric)
    return as_values(values), as_values(targets)


def as_values(array: NDArray[Any]) -> Floats:
    """Return float64 of shape (samples, values)."""
    return array.astype(np.float64).reshape(len(array), -1)


def check_values(values: NDArray[Any], targets: NDArray[Any], metric: str) -> None:
    """Raise ``DataError`` where outputs and targets aren't those of a regression."""
    _same_length(values, targets, metric)
    if values.shape != targets.shape and values.shape != (*targets.shape, 1) and targets.shape != (*values.shape, 1):
        raise DataError(f"metric {metric}: the output has shape {values.shape}, the targets {targets.shape}")
    if targets.dtype.kind not in "iubf":
        raise DataError(f"metric {metric}: targets must be numbers, they are {targets.dtype}")
    for what, array in (("output", values), ("target", targets)):
        wrong = np.flatnonzero(~by_parts(array, lambda part: np.isfinite(part).reshape(len(part), -1).all(axis=1)))
        if len(wrong):
            raise DataError(
                f"metric {metric}: the {what} holds NaN or an infinity in {len(wrong)} samples, the first {wrong[0]}",
                hint="leave such samples out, or use a callable metric that leaves masked values out",
            )


def is_probability(scores: NDArray[Any]) -> bool:
    """Whether every row of (samples, classes) scores is a probability distribution: what is not is taken as logits."""
    for part in chunks(scores):
        rows = np.asarray(scores[part], dtype=np.float64)
        if rows.min() < 0 or np.abs(rows.sum(axis=1) - 1).max() > PROBABILITY_TOLERANCE:
            return False
    return True


def log_softmax(logits: NDArray[Any]) -> Floats:
    """Return the log-probabilities of (samples, classes) logits; what is masked by -inf stays -inf."""
    shifted = logits.astype(np.float64)
    highest = shifted.max(axis=1, keepdims=True)
    shifted -= np.where(np.isneginf(highest), 0.0, highest)
    total = np.exp(shifted).sum(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.where(total > 0, total, 1.0)))


def check_pair(reference: Outputs, artifact: Outputs) -> int:
    """Return the number of samples.

    Raises ``ModelError`` where the artifact's outputs have other names or shapes, ``DataError`` where there are none.
    """
    if not reference:
        raise DataError("the reference has no outputs")
    if set(reference) != set(artifact):
        raise ModelError(f"the artifact's outputs are {sorted(artifact)}, the reference's {sorted(reference)}")
    lengths = {name: len(array) for name, array in reference.items()}
    if len(set(lengths.values())) != 1:
        raise DataError(f"the outputs hold different numbers of samples: {lengths}")
    for name, array in reference.items():
        if array.shape != artifact[name].shape:
            raise ModelError(f"output {name!r} has shape {artifact[name].shape}, the reference's has {array.shape}")
    samples = next(iter(lengths.values()))
    if samples == 0:
        raise DataError("there are no samples to judge by", hint="check the data callable: it yielded nothing")
    return samples


def first_not_finite(outputs: Outputs, reference: Outputs | None = None) -> tuple[str, int, int] | None:
    """Return (output, first sample, count of samples) of non-finite outputs, or ``None``; streams memory maps.

    -inf is how models mask a score: it's right in the reference (``reference`` None), and where the reference has it.
    """
    for name, array in outputs.items():
        if array.dtype.kind != "f":
            continue
        bad = []
        for part in chunks(array, *([] if reference is None else [reference[name]])):
            right = np.isfinite(array[part])
            right |= np.isneginf(array[part]) & (reference is None or np.isneginf(reference[name][part]))
            bad.append(part.start + np.flatnonzero(~right.reshape(len(right), -1).all(axis=1)))
        rows = np.concatenate(bad)
        if len(rows):
            return name, int(rows[0]), len(rows)
    return None


def frame_labels(lengths: Sequence[int], labels: Sequence[str | None] | None) -> list[str | None] | None:
    """Return one label per frame from one per sample; ``lengths`` are the frames of each sample."""
    if labels is None:
        return None
    return [label for label, length in zip(labels, lengths, strict=True) for _ in range(length)]


def frame_groups(lengths: Sequence[int], groups: Sequence[str | None] | None) -> list[str | None] | None:
    """Return the group of each frame: frames of one sample always stay together, so a sequence is at least a group."""
    if all(length == 1 for length in lengths):
        return None if groups is None else list(groups)
    named = [None] * len(lengths) if groups is None else groups
    own = [f"sample {i}" if label is None else f"group {label}" for i, label in enumerate(named)]
    return frame_labels(lengths, own)
