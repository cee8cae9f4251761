"""How rows run the product's own steps on arrays: data folders, a model from a function, one technique, its answers."""

from __future__ import annotations

import importlib
import shutil
from typing import TYPE_CHECKING, Any

import torch

from edgebuild.core.artifact import Contract, TensorSpec
from edgebuild.core.data import Sample
from edgebuild.core.steps import NoProgress, ProjectCode, StepContext, never_stop
from edgebuild.models import compressed_model
from edgebuild.models.compressed_model import CodeNames, UserCode
from edgebuild.models.dataset import Dataset, write_dataset
from edgebuild.models.edits import CompressedModel
from edgebuild.techniques.report import read_report

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt
    from torch import nn

    from edgebuild.techniques.report import TechniqueReport
    from edgebuild.techniques.technique import Technique

BATCH = 250


def specs_of(side: int) -> tuple[TensorSpec, ...]:
    """The one input of all rows: grey images."""
    return (TensorSpec(name="image", shape=("batch", 1, side, side), dtype="float32"),)


def load(reference: str) -> Any:
    """Return what ``module:function`` names."""
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)


def write_data(folder: Path, images: npt.NDArray[Any], labels: npt.NDArray[Any] | None) -> Path:
    """Write a data folder, once; without labels nobody can look at them."""
    if (folder / "data.json").is_file():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    targets = labels if labels is not None else [None] * len(images)
    write_dataset(
        (Sample(inputs={"image": image}, target=target) for image, target in zip(images, targets, strict=True)),
        folder,
        specs=specs_of(images.shape[-1]),
        stateful=False,
        source="the row",
        task=NoProgress(),
        check=never_stop,
    )
    return folder


def write_fresh(folder: Path, factory: str, seed: int, weights: Mapping[str, Any] | None = None) -> Path:
    """Write the untrained model of a factory, its weights by the seed, or with the weights given."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    module = load(factory)()
    if weights is not None:
        module.load_state_dict(weights)
    compressed_model.write_model(module.eval(), CompressedModel(factory=factory), folder)
    return folder


def run(
    technique: type[Technique],
    folder: Path,
    seed: int,
    *,
    model: Path,
    train: Path,
    calibration: Path | None = None,
    labels: Path | None = None,
    parameters: Mapping[str, Any],
) -> tuple[nn.Module, TechniqueReport]:
    """Run one step into ``folder`` and return its model and report; what is there already is only read.

    The model is its own teacher. ``labels`` is where a teacher's answers are kept for several steps.
    """
    p = technique.Parameters(**parameters)
    code = UserCode(
        factory=compressed_model.read_model(model).factory, load=load, modules=technique.needs(p).references
    )
    if not (folder / "done").is_file():
        shutil.rmtree(folder / "out", ignore_errors=True)
        (folder / "out").mkdir(parents=True)
        (folder / "scratch").mkdir(exist_ok=True)
        if labels is not None and not (folder / "scratch" / "labels").exists():
            labels.mkdir(parents=True, exist_ok=True)
            (folder / "scratch" / "labels").symlink_to(labels.resolve(), target_is_directory=True)
        specs = specs_of(Dataset.open(train).array("image").shape[-1])
        outputs = (TensorSpec(name="out", shape=("batch",), dtype="float32"),)
        contract = Contract(inputs=specs, outputs=outputs)
        names = CodeNames(factory=code.factory, modules=code.modules)
        step = technique(parameters=p, code=names, specs=specs, contract=contract)
        inputs = {"model": model, "train": train, "calibration": calibration or train, "teacher": model}
        context = StepContext(
            progress=NoProgress(),
            check=never_stop,
            seed=seed,
            scratch=folder / "scratch",
            code=ProjectCode(load=load, digest=""),
        )
        step.run(inputs, folder / "out", context)
        (folder / "done").touch()
    return compressed_model.load_model(folder / "out", code)[0], read_report(folder / "out")


def answers(module: nn.Module, images: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return the likeliest class of each image (of each pixel, where the model gives maps)."""
    with torch.no_grad():
        starts = range(0, len(images), BATCH)
        parts = [module(torch.from_numpy(images[start : start + BATCH])).argmax(1) for start in starts]
    found: npt.NDArray[np.int64] = torch.cat(parts).numpy()
    return found


def right(module: nn.Module, images: npt.NDArray[Any], labels: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Return which images are answered rightly."""
    result: npt.NDArray[np.bool_] = answers(module, images) == labels
    return result


def points(hits: npt.NDArray[np.bool_]) -> float:
    """Return the share of right answers, in points."""
    return float(100 * hits.mean())
