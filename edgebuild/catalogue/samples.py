"""Open a split of a project's data: a callable's samples, or those of an ``.npz`` file, in one form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from edgebuild.catalogue.callables import load_callable
from edgebuild.catalogue.project_checks import RESERVED_ARRAYS
from edgebuild.core.data import Sample
from edgebuild.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from edgebuild.catalogue.project import Project

Split: TypeAlias = Literal["train", "calibration", "validation", "test"]


def open_split(project: Project, split: Split) -> Callable[[], Iterable[Sample]] | None:
    """Return what yields the samples of a split again at every call; ``None`` where the project has no such split.

    Raises ``ConfigError`` for a callable that can't be imported. A file is read when the samples are asked for, and
    raises ``DataError`` naming the file where it can't be used.
    """
    source = getattr(project.data, split)
    if source is None:
        return None
    if source.endswith(".npz"):
        return NpzSamples(path=project.folder / source, inputs=tuple(spec.name for spec in project.sample_specs))
    return load_callable(source, project.folder)


@dataclass(frozen=True, kw_only=True)
class NpzSamples:
    """The samples of an ``.npz`` file: one array per input, axis 0 over samples; ``target``, ``group``, ``slice``."""

    path: Path
    inputs: tuple[str, ...]

    def __call__(self) -> Iterator[Sample]:
        """Yield the samples, one after another."""
        arrays = self._arrays()
        targets, groups, slices = (arrays.get(name) for name in RESERVED_ARRAYS)
        for index in range(len(arrays[self.inputs[0]])):
            yield Sample(
                inputs={name: arrays[name][index] for name in self.inputs},
                target=None if targets is None else targets[index],
                group=None if groups is None else str(groups[index]),
                slice=None if slices is None else str(slices[index]),
            )

    def _arrays(self) -> Mapping[str, Any]:
        import zipfile

        import numpy as np

        try:
            # Opened here, because numpy leaves a file open that turns out not to be an archive.
            with self.path.open("rb") as stream, zipfile.ZipFile(stream), np.load(stream, allow_pickle=False) as file:
                every = {name: file[name] for name in file.files}
        except Exception as error:
            # zipfile, its decompressors and numpy's header parser raise what they like on a file that isn't right.
            said = str(error) if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: {error}"
            raise DataError(
                f"{self.path} can't be read: {said}", hint="It must be written by numpy.savez, without objects."
            ) from error
        # What isn't an array in there comes as bytes.
        arrays = {name: array for name, array in every.items() if isinstance(array, np.ndarray)}
        missing = [name for name in self.inputs if name not in arrays]
        if missing:
            raise DataError(
                f"{self.path} has no array {missing[0]!r}.",
                hint=f"It needs one array per input ({', '.join(self.inputs)}); it has {', '.join(sorted(arrays))}.",
            )
        used = [*self.inputs, *(name for name in RESERVED_ARRAYS if name in arrays)]
        lengths = {name: len(arrays[name]) if arrays[name].ndim else 0 for name in used}
        count = lengths[self.inputs[0]]
        for name, length in lengths.items():
            if length != count:
                raise DataError(
                    f"{self.path}: {name!r} has {length} entries, {self.inputs[0]!r} has {count}.",
                    hint="Axis 0 of every array runs over the samples.",
                )
        return arrays
