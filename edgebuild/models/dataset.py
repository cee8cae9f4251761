"""The user's data, materialised once: a folder of `.npy` files that every later stage maps instead of loading.

Layout: ``<input>.npy`` (axis 0: frames of all samples, one after another; a slash in a name is escaped),
``lengths.npy`` (frames per sample), ``target.npy`` (frames on axis 0; absent if unlabelled), ``groups.json`` /
``slices.json`` (a name or null per sample), ``data.json`` (counts). A stateless sample is one frame. Where shapes of
targets differ, ``target.npy`` is flat, and ``target_shapes.json`` has the shape of each frame's. Targets that are
structures (mappings, or lists of them) are kept as texts of JSON; ``data.json`` says so.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from edgebuild.devices.runner.feeding import tensor_file
from edgebuild.errors import DataError, ModelError
from edgebuild.models.checked_samples import checked_samples, is_structure
from edgebuild.models.digests import SamplesDigest
from edgebuild.models.growing import TARGET_SHAPES, GrowingFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from edgebuild.core.artifact import TensorSpec
    from edgebuild.core.data import Sample
    from edgebuild.core.steps import Task

#: Names that a data folder gives a meaning of its own.
RESERVED = frozenset({"target", "lengths"})
#: The longest file name that Linux file systems take.
MAX_FILE_NAME_BYTES = 255


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A materialised data set; arrays are memory-mapped and read-only."""

    folder: Path
    samples: int
    frames: int
    inputs: tuple[str, ...]
    labelled: bool
    structured: bool = False

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
            structured=facts.get("structured", False),
        )

    def array(self, name: str) -> NDArray[Any]:
        """Return the mapped frames of one input."""
        return _mapped(self.folder / tensor_file(name))

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Frames per sample."""
        lengths: NDArray[np.int64] = np.load(self.folder / "lengths.npy", allow_pickle=False)
        return lengths

    @property
    def target(self) -> NDArray[Any] | None:
        """The target of every frame, or None; an array of objects where their shapes differ, or they are structures."""
        kept = self.kept_target
        return structures(kept) if self.structured and kept is not None else kept

    @property
    def kept_target(self) -> NDArray[Any] | None:
        """The same as it is stored: structures as texts."""
        if not self.labelled:
            return None
        flat, shapes = self.array("target"), self.folder / TARGET_SHAPES
        return _ragged(flat, json.loads(shapes.read_bytes())) if shapes.exists() else flat

    @property
    def numbers(self) -> NDArray[Any] | None:
        """The targets where one tensor can hold them: None for texts, structures, and where their shapes differ."""
        target = self.kept_target
        return target if target is not None and target.dtype.kind in "biufc" else None

    def groups(self) -> tuple[str | None, ...]:
        """The group of every sample."""
        return tuple(json.loads((self.folder / "groups.json").read_text()))

    def slices(self) -> tuple[str | None, ...]:
        """The slice of every sample."""
        return tuple(json.loads((self.folder / "slices.json").read_text()))

    def __iter__(self) -> Iterator[tuple[dict[str, NDArray[Any]], str | None, str | None]]:
        """Yield every sample: its arrays with frames on axis 0 (``target`` among them), its group and its slice."""
        arrays = {name: self.array(name) for name in self.inputs}
        if (target := self.kept_target) is not None:
            arrays["target"] = target
        start = 0
        for length, group, slice_ in zip(self.lengths.tolist(), self.groups(), self.slices(), strict=True):
            parts = {name: array[start : start + length] for name, array in arrays.items()}
            if "target" in parts and parts["target"].dtype == object:
                parts["target"] = np.stack(list(parts["target"]))
            yield parts, group, slice_
            start += length


def structures(kept: NDArray[Any]) -> NDArray[Any]:
    """Return targets that were kept as texts of JSON."""
    return np.fromiter(map(json.loads, kept), object, len(kept))


def _mapped(path: Path) -> NDArray[Any]:
    mapped: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return mapped


def _ragged(flat: NDArray[Any], shapes: Sequence[Sequence[int]]) -> NDArray[Any]:
    """Return one array per shape, cut from a flat one, in an array of objects."""
    cut = np.empty(len(shapes), dtype=object)
    start = 0
    for index, shape in enumerate(shapes):
        stop = start + math.prod(shape)
        cut[index] = np.asarray(flat[start:stop]).reshape(shape)
        start = stop
    return cut


def save_target(target: NDArray[Any], folder: Path) -> None:
    """Write targets as ``Dataset.kept_target`` has them."""
    if target.dtype == object:
        (folder / TARGET_SHAPES).write_text(json.dumps([list(each.shape) for each in target]))
        target = np.concatenate([each.reshape(-1) for each in target])
    np.save(folder / tensor_file("target"), np.ascontiguousarray(target), allow_pickle=False)


def write_dataset(
    samples: Iterable[Sample],
    folder: Path,
    *,
    specs: tuple[TensorSpec, ...],
    stateful: bool,
    source: str,
    task: Task,
    check: Callable[[], None],
    digest: SamplesDigest | None = None,
) -> Dataset:
    """Write samples into ``folder`` one at a time, checking each against the model's inputs; ``digest`` takes them in.

    Raises ``DataError`` naming ``source``, the sample and the input for a wrong shape, dtype, a NaN or an infinity, a
    missing or unknown input, an empty set, or samples of which only some are labelled; ``ModelError`` for an input
    whose name can't be a file's.
    """
    _refuse_names(specs)
    writers: dict[str, GrowingFile] = {}
    lengths: list[int] = []
    groups: list[str | None] = []
    slices: list[str | None] = []
    structures = 0
    try:
        for index, (sample, frames) in enumerate(checked_samples(samples, specs, stateful, source, check)):
            _append(writers, folder, frames, f"{source}: sample {index}")
            lengths.append(len(next(iter(frames.values()))))
            groups.append(sample.group)
            slices.append(sample.slice)
            structures += is_structure(sample.target)
            if structures not in (0, len(lengths)):
                raise DataError(f"{source}: sample {index}: only some samples have a structure as their target.")
            if digest is not None:
                digest.add(frames, sample.group, sample.slice)
            task.advance()
    finally:
        for writer in writers.values():
            writer.close()
    if not lengths:
        raise DataError(f"{source} yields no samples.", hint="The callable must return at least one edgebuild.Sample.")
    (folder / "groups.json").write_text(json.dumps(groups))
    (folder / "slices.json").write_text(json.dumps(slices))
    facts = {
        "inputs": [spec.name for spec in specs],
        "labelled": "target" in writers,
        **({"structured": True} if structures else {}),
    }
    _write_sizes(folder, lengths, facts)
    return Dataset.open(folder)


def _write_sizes(folder: Path, lengths: list[int], facts: dict[str, Any]) -> None:
    """Write how long each sample is, and how many there are next to what else is known of them."""
    np.save(folder / "lengths.npy", np.array(lengths, dtype=np.int64), allow_pickle=False)
    counts = {"samples": len(lengths), "frames": sum(lengths)}
    (folder / "data.json").write_text(json.dumps({**counts, **facts}, sort_keys=True))


def digest_samples(
    samples: Iterable[Sample],
    *,
    specs: tuple[TensorSpec, ...],
    stateful: bool,
    source: str,
    task: Task,
    check: Callable[[], None],
    most: int | None = None,
) -> str:
    """Return the digest that ``write_dataset`` would find of the first ``most`` samples, by default of all.

    Writes nothing. Raises ``DataError`` as it does.
    """
    digest = SamplesDigest()
    for sample, frames in islice(checked_samples(samples, specs, stateful, source, check), most):
        digest.add(frames, sample.group, sample.slice)
        task.advance()
    return digest.value


def _refuse_names(specs: tuple[TensorSpec, ...]) -> None:
    for spec in specs:
        if spec.name in RESERVED or len(tensor_file(spec.name).encode()) > MAX_FILE_NAME_BYTES or "\0" in spec.name:
            raise ModelError(
                f"The model's input {spec.name[:80]!r} can't be called so: a file of that name would hold its samples.",
                hint="Rename it when exporting; edgebuild keeps 'target' and 'lengths' for itself.",
            )


def _append(writers: dict[str, GrowingFile], folder: Path, frames: Mapping[str, NDArray[Any]], where: str) -> None:
    if writers and set(writers) != set(frames):
        raise DataError(f"{where}: only some samples have a target.", hint="Give every sample a target, or none.")
    for name, array in frames.items():
        writer = writers.get(name)
        if writer is None:
            writer = writers[name] = GrowingFile(folder / tensor_file(name), array.shape[1:], array.dtype)
        if array.shape[1:] != writer.tail and writer.shapes is None:
            if name != "target":
                raise DataError(
                    f"{where}: {name} has shape {list(array.shape[1:])}, earlier samples have {list(writer.tail)}.",
                    hint="Pad or crop the samples to one shape.",
                )
            writer.flatten()
        if array.dtype.kind == writer.dtype.kind in "SU" and array.dtype.itemsize > writer.dtype.itemsize:
            writer.widen(array.dtype)
        if not np.can_cast(array.dtype, writer.dtype):
            raise DataError(
                f"{where}: {name} is {array.dtype}, which earlier samples' {writer.dtype} can't hold.",
                hint="Give every target the same dtype.",
            )
        writer.append(array.astype(writer.dtype, copy=False))
