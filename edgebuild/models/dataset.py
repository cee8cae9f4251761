"""The user's data, materialised once: a folder of `.npy` files that every later stage maps instead of loading.

Layout: ``<input>.npy`` (axis 0: frames of all samples, one after another), ``lengths.npy`` (frames per sample),
``target.npy`` (frames on axis 0; absent if unlabelled), ``groups.json`` / ``slices.json`` (a name or null per sample),
``data.json`` (counts). A stateless sample is one frame.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from edgebuild.core.data import Sample
from edgebuild.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from edgebuild.core.artifact import TensorSpec
    from edgebuild.core.steps import Task


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A materialised data set; arrays are memory-mapped and read-only."""

    folder: Path
    samples: int
    frames: int
    inputs: tuple[str, ...]
    labelled: bool

    @classmethod
    def open(cls, folder: Path) -> Dataset:
        """Open a folder that ``write_dataset`` made."""
        facts = json.loads((folder / "data.json").read_text())
        return cls(
            folder=folder,
            samples=facts["samples"],
            frames=facts["frames"],
            inputs=tuple(facts["inputs"]),
            labelled=facts["labelled"],
        )

    def array(self, name: str) -> NDArray[Any]:
        """Return the mapped frames of one input."""
        mapped: NDArray[Any] = np.load(self.folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        return mapped

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Frames per sample."""
        lengths: NDArray[np.int64] = np.load(self.folder / "lengths.npy", allow_pickle=False)
        return lengths

    @property
    def target(self) -> NDArray[Any] | None:
        """The target of every frame, or None."""
        return self.array("target") if self.labelled else None

    def groups(self) -> tuple[str | None, ...]:
        """The group of every sample."""
        return tuple(json.loads((self.folder / "groups.json").read_text()))

    def slices(self) -> tuple[str | None, ...]:
        """The slice of every sample."""
        return tuple(json.loads((self.folder / "slices.json").read_text()))

    def per_frame(self, names: tuple[str | None, ...]) -> NDArray[Any] | None:
        """Spread a name per sample over its frames; None if no sample has one."""
        if all(name is None for name in names):
            return None
        filled = np.array([f"sample {i}" if name is None else name for i, name in enumerate(names)], dtype=np.str_)
        return np.repeat(filled, self.lengths)


@dataclass
class _Writer:
    """Appends frames to a `.npy` file in bounded memory; numpy's header leaves room for axis 0 to grow."""

    path: Path
    tail: tuple[int, ...]
    dtype: np.dtype[Any]
    count: int = 0
    file: IO[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.file = self.path.open("wb")
        self._header()

    def _header(self) -> None:
        header = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False}
        np.lib.format.write_array_header_1_0(self.file, {**header, "shape": (self.count, *self.tail)})

    def append(self, frames: NDArray[Any]) -> None:
        self.file.write(np.ascontiguousarray(frames).tobytes())
        self.count += len(frames)

    def close(self) -> None:
        self.file.seek(0)
        self._header()
        self.file.close()


def write_dataset(
    samples: Iterable[Sample],
    folder: Path,
    *,
    specs: tuple[TensorSpec, ...],
    stateful: bool,
    source: str,
    task: Task,
    check: Callable[[], None],
) -> Dataset:
    """Write samples into ``folder`` one at a time, checking each against the model's inputs.

    Raises ``DataError`` naming ``source``, the sample and the input for a wrong shape, dtype, a NaN or an infinity, a
    missing or unknown input, an empty set, or samples of which only some are labelled.
    """
    writers: dict[str, _Writer] = {}
    lengths: list[int] = []
    groups: list[str | None] = []
    slices: list[str | None] = []
    try:
        for index, sample in enumerate(_iterate(samples, source)):
            check()
            where = f"{source}: sample {index}"
            frames = _frames(sample, specs, stateful, where)
            _append(writers, folder, frames, where)
            lengths.append(len(next(iter(frames.values()))))
            groups.append(sample.group)
            slices.append(sample.slice)
            task.advance()
    finally:
        for writer in writers.values():
            writer.close()
    if not lengths:
        raise DataError(f"{source} yields no samples.", hint="The callable must return at least one edgebuild.Sample.")
    np.save(folder / "lengths.npy", np.array(lengths, dtype=np.int64), allow_pickle=False)
    (folder / "groups.json").write_text(json.dumps(groups))
    (folder / "slices.json").write_text(json.dumps(slices))
    facts = {
        "samples": len(lengths),
        "frames": sum(lengths),
        "inputs": [spec.name for spec in specs],
        "labelled": "target" in writers,
    }
    (folder / "data.json").write_text(json.dumps(facts, sort_keys=True))
    return Dataset.open(folder)


def _iterate(samples: Iterable[Sample], source: str) -> Iterable[Sample]:
    """Yield samples; whatever the user's iterator raises becomes a DataError."""
    iterator = iter(samples)
    index = 0
    while True:
        try:
            sample = next(iterator)
        except StopIteration:
            return
        except Exception as error:
            raise DataError(
                f"{source} failed after {index} samples: {type(error).__name__}: {error}",
                hint="Run the callable by itself to see where it fails.",
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
    unknown, missing = sorted(set(sample.inputs) - names), sorted(names - set(sample.inputs))
    if unknown or missing:
        what = f"has no input {missing[0]!r}" if missing else f"has an input {unknown[0]!r} that the model doesn't take"
        raise DataError(f"{where} {what}.", hint=f"The model's inputs are: {', '.join(sorted(names))}.")
    frames: dict[str, NDArray[Any]] = {}
    for spec in specs:
        array = np.asarray(sample.inputs[spec.name])
        frames[spec.name] = _checked(array if stateful else array[np.newaxis], spec, where)
    count = len(frames[specs[0].name])
    for name, array in frames.items():
        if len(array) != count or count == 0:
            raise DataError(
                f"{where}: {name} has {len(array)} steps where {specs[0].name} has {count}.",
                hint="All inputs of one sample of a stateful model have the same number of steps, at least one.",
            )
    if sample.target is not None:
        target = np.asarray(sample.target)
        frames["target"] = target if stateful else target[np.newaxis]
        if stateful and (target.ndim == 0 or len(target) != count):
            raise DataError(f"{where}: its target has no entry for each of its {count} steps.")
        if target.dtype == object:
            raise DataError(f"{where}: its target is not a number or an array of numbers.")
    return frames


def _checked(array: NDArray[Any], spec: TensorSpec, where: str) -> NDArray[Any]:
    expected = spec.shape[1:]
    got = array.shape[1:]
    fits = len(got) == len(expected) and all(isinstance(e, str) or e == g for e, g in zip(expected, got, strict=True))
    if not fits:
        raise DataError(
            f"{where}: input {spec.name!r} has shape {list(got)}, the model takes {list(expected)} (no batch axis).",
            hint="Change the data callable, or the shape under [[inputs]] in edgebuild.toml.",
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


def _append(writers: dict[str, _Writer], folder: Path, frames: Mapping[str, NDArray[Any]], where: str) -> None:
    if writers and set(writers) != set(frames):
        raise DataError(f"{where}: only some samples have a target.", hint="Give every sample a target, or none.")
    for name, array in frames.items():
        writer = writers.get(name)
        if writer is None:
            writer = writers[name] = _Writer(folder / f"{name}.npy", array.shape[1:], array.dtype)
        if array.shape[1:] != writer.tail:
            raise DataError(
                f"{where}: {name} has shape {list(array.shape[1:])}, earlier samples have {list(writer.tail)}.",
                hint="Pad or crop the samples to one shape.",
            )
        writer.append(array.astype(writer.dtype, copy=False))
