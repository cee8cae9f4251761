"""What a user's data yield, looked at before any of it is used: one sample at a time, with its arrays."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from edgebuild.core.data import Sample
from edgebuild.errors import DataError, EdgebuildError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

    from edgebuild.core.artifact import TensorSpec


def checked_samples(
    samples: Iterable[Sample], specs: tuple[TensorSpec, ...], stateful: bool, source: str, check: Callable[[], None]
) -> Iterator[tuple[Sample, dict[str, NDArray[Any]]]]:
    """Yield each sample with its arrays, frames on axis 0, that a data set holds of it; raises ``DataError``."""
    for index, sample in enumerate(_iterate(samples, source)):
        check()
        yield sample, _frames(sample, specs, stateful, f"{source}: sample {index}")


def _iterate(samples: Iterable[Sample], source: str) -> Iterable[Sample]:
    """Yield samples; whatever the user's iterator raises becomes a DataError."""
    try:
        iterator = iter(samples)
    except TypeError as error:
        raise DataError(
            f"{source} returned a {type(samples).__name__}, which holds no samples.",
            hint="Return a list of edgebuild.Sample, or yield them.",
        ) from error
    index = 0
    while True:
        try:
            sample = next(iterator)
        except StopIteration:
            return
        except EdgebuildError:
            raise
        except Exception as error:
            raise DataError(
                f"{source} failed after {index} samples: {type(error).__name__}: {error}",
                hint="Run the callable directly to see where it fails.",
            ) from error
        if not isinstance(sample, Sample):
            raise DataError(
                f"{source} yielded a {type(sample).__name__} as sample {index}.",
                hint="Yield edgebuild.Sample(inputs={...}, target=...).",
            )
        yield sample
        index += 1


def _frames(sample: Sample, specs: tuple[TensorSpec, ...], stateful: bool, where: str) -> dict[str, NDArray[Any]]:
    names = {spec.name for spec in specs}
    if not isinstance(sample.inputs, Mapping):
        raise DataError(
            f"{where}: its inputs are a {type(sample.inputs).__name__}, not a mapping of names to arrays.",
            hint=f"The model's inputs are: {', '.join(sorted(names))}.",
        )
    unknown, missing = sorted(set(sample.inputs) - names, key=str), sorted(names - set(sample.inputs))
    if unknown or missing:
        what = f"has no input {missing[0]!r}" if missing else f"has an input {unknown[0]!r} that the model doesn't take"
        raise DataError(f"{where} {what}.", hint=f"The model's inputs are: {', '.join(sorted(names))}.")
    frames: dict[str, NDArray[Any]] = {}
    for spec in specs:
        array = _array(sample.inputs[spec.name], f"{where}: input {spec.name!r}")
        frames[spec.name] = _checked(array if stateful else array[np.newaxis], spec, where)
    count = len(frames[specs[0].name])
    for name, array in frames.items():
        if len(array) != count or count == 0:
            than = "" if count == 0 else f" where {specs[0].name!r} has {count}"
            raise DataError(
                f"{where}: input {name!r} has {len(array)} steps{than}.",
                hint="All inputs of one sample of a stateful model have the same number of steps, at least one.",
            )
    if sample.target is not None:
        target = _array(_plain(sample.target, stateful, where), f"{where}: its target")
        frames["target"] = target if stateful else target[np.newaxis]
        if stateful and (target.ndim == 0 or len(target) != count):
            raise DataError(f"{where}: its target has no entry for each of its {count} steps.")
    for word, label in (("group", sample.group), ("slice", sample.slice)):
        if not isinstance(label, str | None):
            raise DataError(f"{where}: its {word} is a {type(label).__name__}, not a text.", hint="Use str(...).")
    return frames


def is_structure(target: Any) -> bool:
    """Whether a target is no array, but a mapping or a list of some, as detectors have it."""
    return isinstance(target, Mapping) or (
        isinstance(target, list | tuple) and bool(target) and isinstance(target[0], Mapping)
    )


def _plain(target: Any, stateful: bool, where: str) -> Any:
    """Return a structure as a text of JSON, one for each step of a stateful model's; anything else as it is."""
    if not is_structure(target):
        return target
    try:
        if stateful and not isinstance(target, Mapping):
            return [json.dumps(step, default=_listed, sort_keys=True, allow_nan=False) for step in target]
        return json.dumps(target, default=_listed, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{where}: its target can't be kept: {error}.",
            hint="A structure is made of mappings by text, lists, arrays, texts and finite numbers.",
        ) from error


def _listed(value: Any) -> Any:
    if not hasattr(value, "tolist"):
        raise TypeError(f"it holds a {type(value).__name__}")
    return value.tolist()


def _array(value: Any, what: str) -> NDArray[Any]:
    """Return plain numbers or texts; a ragged list is neither."""
    try:
        array = np.asarray(value)
        if array.dtype.kind in "US":
            array.tolist()  # raises for what is no text, as a damaged file may hold it
    except ValueError as error:
        raise DataError(f"{what} is no array: {error}") from error
    if array.dtype == object:
        raise DataError(f"{what} is a {type(value).__name__}, not a number or an array of numbers.")
    return array


def _checked(array: NDArray[Any], spec: TensorSpec, where: str) -> NDArray[Any]:
    expected = spec.shape[1:]
    got = array.shape[1:]
    fits = (
        array.ndim > 0
        and len(got) == len(expected)
        and all(isinstance(e, str) or e == g for e, g in zip(expected, got, strict=True))
    )
    if not fits:
        raise DataError(
            f"{where}: input {spec.name!r} has shape {list(got)}, the model takes {list(expected)} (no batch axis).",
            hint=_shape_hint(got, spec),
        )
    if array.dtype != np.dtype(spec.dtype):
        raise DataError(
            f"{where}: input {spec.name!r} is {array.dtype}, the model takes {spec.dtype}.",
            hint=f"Convert it in the data callable: array.astype({spec.dtype!r}).",
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(
            f"{where}: input {spec.name!r} holds NaN or infinity.", hint="Clean the sample or leave it out."
        )
    return array


def _shape_hint(got: tuple[int, ...], spec: TensorSpec) -> str:
    if got == spec.shape and got[:1] != (1,):
        return f"Axis 0 of every input is its batch, {got[0]} here: export the model with one, if it has none."
    if len(got) == len(spec.shape) and got[1:] == spec.shape[1:]:
        return "Leave its first axis out: a sample has no batch axis."
    return "Change the data callable, or the shape under [[inputs]] in edgebuild.toml."
