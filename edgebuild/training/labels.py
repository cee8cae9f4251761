"""Teacher predictions, made once and kept on disk: `.npy` files that are mapped, never loaded.

Layout of an entry (a folder named by its key): ``output-<i>.npy`` (views, samples, …), ``labels.json`` (the key's
parts), written last: an entry is whole or isn't there.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from edgebuild.core.chunks import chunks, let_go
from edgebuild.core.steps import NoProgress, never_stop
from edgebuild.core.values import canonical_json, digest_json
from edgebuild.errors import ModelError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from edgebuild.core.steps import Progress
    from edgebuild.core.values import Json
    from edgebuild.training.batches import ArrayLoader, Batch
    from edgebuild.training.losses import Teacher


@dataclass(frozen=True, kw_only=True)
class CachedTeacher:
    """Gives a batch's rows of stored predictions; equal to asking the teacher on the very same view.

    A ``Teacher`` for batches of the loader (or one over the same arrays with the same seed and augmentation) that the
    predictions were made with.
    """

    folder: Path
    outputs: tuple[NDArray[Any], ...]
    loader: ArrayLoader

    def __call__(self, batch: Batch) -> tuple[torch.Tensor, ...]:
        """See ``losses.Teacher``."""
        if batch.index is None:
            raise UsageError(
                "Stored teacher predictions need to know which samples a batch holds, and this loader doesn't say.",
                hint="Use ArrayLoader, or yield Batch(..., index=...); or ask the teacher live.",
            )
        view = self.loader.view_of(batch.epoch)
        index = batch.index.cpu().numpy()
        if view >= len(self.outputs[0]):
            raise UsageError(
                f"Teacher predictions are stored for {len(self.outputs[0])} epochs, and this is epoch {view + 1}.",
                hint="Store them for as many epochs as the plan has, or give the loader a number of views.",
            )
        device = batch.index.device
        rows = tuple(torch.from_numpy(array[view, index]).to(device) for array in self.outputs)
        for array in self.outputs:
            let_go(array)
        return rows

    def deviation(self, output: int = 0) -> torch.Tensor:
        """Return the standard deviation of each entry of an output over all stored predictions, in bounded memory."""
        array = self.outputs[output]
        rows = array.reshape(-1, *array.shape[2:])
        total, squares = 0.0, 0.0
        for some in chunks(rows):
            part = np.asarray(rows[some], dtype=np.float64)
            total, squares = total + part.sum(0), squares + (part**2).sum(0)
        mean = total / len(rows)
        return torch.from_numpy(np.sqrt(np.maximum(squares / len(rows) - mean**2, 0.0))).float()


def cached_teacher(
    teacher: Teacher,
    loader: ArrayLoader,
    folder: Path,
    *,
    epochs: int,
    teacher_digest: str,
    data_digest: str,
    augmentation: str = "",
    progress: Progress | None = None,
    check: Callable[[], None] = never_stop,
) -> CachedTeacher:
    """Return stored predictions for ``epochs`` epochs of ``loader``; asks the teacher only where there are none.

    Keyed with the digests of teacher and data, and the augmentation's identity (``augmentation``: the digest of its
    code), seed and number of views. Without augmentation one view serves all epochs.
    """
    views = 1 + max(loader.view_of(epoch) for epoch in range(epochs))
    if loader.augment is not None and not augmentation:
        raise UsageError("Predictions on augmented data are stored under the augmentation's digest, and none is given.")
    key: dict[str, Json] = {
        "teacher": teacher_digest,
        "data": data_digest,
        "samples": loader.samples,
        "views": views,
        "augmentation": [augmentation, loader.seed] if loader.augment is not None else None,
    }
    entry = folder / digest_json(key)[:32]
    if not _is_whole(entry, key):
        _store(teacher, loader, entry, key, views, progress or NoProgress(), check)
    count = json.loads((entry / "labels.json").read_text())["outputs"]
    arrays = tuple(np.load(entry / f"output-{i}.npy", mmap_mode="r", allow_pickle=False) for i in range(count))
    return CachedTeacher(folder=entry, outputs=arrays, loader=loader)


def _is_whole(entry: Path, key: dict[str, Json]) -> bool:
    try:
        return bool(json.loads((entry / "labels.json").read_text())["key"] == key)
    except (OSError, ValueError, KeyError):
        return False


def _store(
    teacher: Teacher,
    loader: ArrayLoader,
    entry: Path,
    key: dict[str, Json],
    views: int,
    progress: Progress,
    check: Callable[[], None],
) -> None:
    entry.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".labels-", dir=entry.parent))
    try:
        arrays: list[Any] = []
        with progress.task("Asking the teacher", float(views * loader.samples)) as task:
            for view in range(views):
                for start in range(0, loader.samples, loader.batch_size):
                    check()
                    index = np.arange(start, min(start + loader.batch_size, loader.samples))
                    results = teacher(loader.rows(index, view))
                    arrays = arrays or _open(results, scratch, views, loader.samples)
                    for array, result in zip(arrays, results, strict=True):
                        _fill(array, view, index, result)
                        let_go(array)
                    task.advance(len(index))
        for array in arrays:
            array.flush()
        (scratch / "labels.json").write_text(canonical_json({"key": key, "outputs": len(arrays)}))
        shutil.rmtree(entry, ignore_errors=True)
        os.rename(scratch, entry)  # noqa: PTH104 - a folder
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _open(results: tuple[torch.Tensor, ...], folder: Path, views: int, samples: int) -> list[Any]:
    return [
        np.lib.format.open_memmap(
            folder / f"output-{number}.npy",
            mode="w+",
            dtype=np.dtype(str(result.dtype).removeprefix("torch.")),
            shape=(views, samples, *result.shape[1:]),
        )
        for number, result in enumerate(results)
    ]


def _fill(array: Any, view: int, index: NDArray[np.int64], result: torch.Tensor) -> None:
    if result.shape != (len(index), *array.shape[2:]):
        raise ModelError(
            f"The teacher gave shape {list(result.shape)} for {len(index)} samples, not {list(array.shape[2:])} each.",
            hint="Predictions can be stored only where every sample's have the same shape.",
        )
    array[view, index[0] : index[-1] + 1] = result.cpu().numpy()
