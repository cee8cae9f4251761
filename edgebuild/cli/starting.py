"""`init`."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgebuild.catalogue.callables import load_callable
from edgebuild.catalogue.project import PROJECT_FILE
from edgebuild.catalogue.starter import (
    PICKLED_SUFFIXES,
    conversion_advice,
    named_axes,
    starter_from_factory,
    starter_from_onnx,
)
from edgebuild.catalogue.tables import is_reference, toml_text
from edgebuild.cli.answering import Answer
from edgebuild.cli.output import say
from edgebuild.core.values import Value
from edgebuild.errors import EdgebuildError, StoreError, UsageError
from edgebuild.models.steps import call_for_samples

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_FACTORY = "model:build"
DEFAULT_DATA = "data:calibration"
DEFAULT_WEIGHTS = "weights.safetensors"


class Started(Value):
    """What `init` wrote: None for a pickled checkpoint, where ``notes`` say how to convert it."""

    path: str | None
    notes: tuple[str, ...]


def write_starter(model: str | None, project: Path) -> Answer:
    """Write edgebuild.toml into the project's folder; never overwrites one, never loads a pickled file."""
    if model is not None and model.endswith(PICKLED_SUFFIXES):
        advice = conversion_advice(Path(model))
        return Answer(value=Started(path=None, notes=(advice,)), text=lambda: say(advice))
    path = project / PROJECT_FILE if project.is_dir() or not project.suffix else project
    if path.exists():
        raise UsageError(f"{path} exists already.", hint="Remove it first, or name another folder with --project.")
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.resolve().parent.name).strip("-._") or "project"
    text, notes = _starter(model, name, path.resolve().parent)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StoreError(f"{path} can't be written: {error.strerror}.", hint="Name another folder with -p.") from error

    def told() -> None:
        say(f"Wrote {path}. Fill in what is marked, then run `edgebuild plan`.")
        for note in notes:
            say(f"Note: {note}.")

    return Answer(value=Started(path=str(path.absolute()), notes=notes), text=told)


def _starter(model: str | None, name: str, folder: Path) -> tuple[str, tuple[str, ...]]:
    """Return the file's text, and what is to be said beside it."""
    if model is None or is_reference(model):
        return _of_factory(model or DEFAULT_FACTORY, name, folder)
    if model.endswith(".safetensors"):
        raise UsageError(
            f"{model!r} holds weights only: the model is what a factory of yours returns.",
            hint=f"Give package.module:function, and name the file in edgebuild.toml: weights = {toml_text(model)}.",
        )
    if not model.endswith(".onnx"):
        raise UsageError(
            f"{model!r} is neither an .onnx file, nor a factory, nor a checkpoint.",
            hint="Give FILE.onnx, or package.module:function.",
        )
    import numpy as np

    from edgebuild.models.onnx_files import load_onnx, read_facts
    from edgebuild.models.onnx_torch.source import why_unreadable

    facts = read_facts(load_onnx(Path(model)))
    inputs = named_axes(facts.inputs)
    # Sizes that are still to be filled in may be what decides; `plan` tries it with them.
    settled = not facts.unranked and all(isinstance(axis, int) for spec in inputs for axis in spec.shape[1:])
    unreadable = why_unreadable(Path(model), inputs) if settled else ""
    # Not resolved: a link into a cache of blobs has the model's name, and its data next to it.
    where = os.path.relpath(model, folder)
    sample, notes = _first_sample(folder)
    missing = [spec.name for spec in inputs if spec.name not in sample] if sample else []
    if missing:
        notes.append(f"the model takes {', '.join(missing)}, and a sample of {DEFAULT_DATA} has {', '.join(sample)}")
    text = starter_from_onnx(
        name,
        where,
        facts.inputs,
        facts.outputs,
        unranked=facts.unranked,
        unreadable=unreadable,
        sample={key: np.shape(value) for key, value in sample.items()},
    )
    return text, (*facts.notes, *notes)


def _of_factory(factory: str, name: str, folder: Path) -> tuple[str, tuple[str, ...]]:
    """Look at what a factory makes, where that can be done already."""
    from edgebuild.models.torch_models import make_module
    from edgebuild.models.trial import try_module

    found = sorted(path.name for path in folder.glob("*.safetensors"))
    weights = found[0] if len(found) == 1 else DEFAULT_WEIGHTS
    try:
        module = make_module(load_callable(factory, folder), factory, None)
    except EdgebuildError as error:
        return starter_from_factory(name, factory, weights=weights), (f"the model wasn't looked at: {error.message}",)
    sample, notes = _first_sample(folder)
    tried = try_module(module, sample)
    if tried.problem:
        notes.append(tried.problem)
    text = starter_from_factory(name, factory, tried.inputs, tried.outputs, guessed=tried.guessed, weights=weights)
    return text, tuple(notes)


def _first_sample(folder: Path) -> tuple[Mapping[str, Any], list[str]]:
    """Return the inputs of the project's first sample, where it has a ``data.py``, and what went wrong."""
    if not (folder / "data.py").is_file():
        return {}, []
    try:
        return next(iter(call_for_samples(load_callable(DEFAULT_DATA, folder), DEFAULT_DATA))).inputs, []
    except Exception as error:  # noqa: BLE001 - the user's own code, which is only looked at here
        return {}, [f"{DEFAULT_DATA} gave no sample: {error}"]
