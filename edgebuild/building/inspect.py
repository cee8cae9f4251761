"""Reads what planning needs to know: the model, the target on this device, what is installed, what work costs here."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from edgebuild.building.compress import planned_recipes
from edgebuild.building.costs import ASSUMED_FRAMES, ASSUMED_TRAIN_FRAMES
from edgebuild.building.prepare import model_specs
from edgebuild.catalogue.profiles import load_profiles
from edgebuild.catalogue.resolve import resolve
from edgebuild.catalogue.shipped import pick
from edgebuild.catalogue.tables import unknown
from edgebuild.catalogue.targets import load_targets
from edgebuild.core.artifact import BATCH_AXIS
from edgebuild.core.candidate import CandidateSpec
from edgebuild.core.measurement import UNKNOWN
from edgebuild.errors import EnvironmentGap
from edgebuild.execution.keys import NOT_INSTALLED, tool_version
from edgebuild.measuring.protocols import MAX_FINALISTS
from edgebuild.models.onnx_torch.source import why_unreadable
from edgebuild.planning.inputs import PlanInputs, UnitCosts
from edgebuild.planning.recipes import ModelTraits, check_named

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from edgebuild.backends.protocol import Backend
    from edgebuild.building.context import Options
    from edgebuild.building.targets import KnownDevice
    from edgebuild.catalogue.project import Project
    from edgebuild.catalogue.resolve import ResolvedTarget
    from edgebuild.core.artifact import TensorSpec
    from edgebuild.core.budget import Budget
    from edgebuild.planning.recipes import Recipe

#: torch modules whose matrices no int8 kernel multiplies by.
NO_PRODUCTS = frozenset({"Embedding", "EmbeddingBag", "RNN", "GRU", "LSTM", "RNNCell", "GRUCell", "LSTMCell"})
#: Those that dynamic int8 leaves float too.
NOT_DYNAMIC = frozenset({"RNN", "GRU", "RNNCell", "GRUCell"})
#: Quantisers and the distribution each one needs.
QUANTISER_MODULES = {"nncf": "nncf", "onnxruntime": "onnxruntime", "edgebuild": "onnxruntime"}


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What inspection found in the model."""

    quantisable_ops: int
    macs: int | None
    domains: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    dense_bytes: int | None = None
    weight_bytes: int | None = None


def inspect_model(project: Project) -> ModelFacts:
    """Return the facts of the user's model; imports it, runs nothing.

    Raises ``ModelError`` or ``ConfigError`` when it can't be read or made.
    """
    if project.model.factory is None:
        from edgebuild.models.onnx_files import custom_domains, load_onnx, read_facts

        path = project.onnx_path
        facts = read_facts(load_onnx(path or project.folder))
        return ModelFacts(
            quantisable_ops=facts.quantisable,
            macs=facts.macs,
            domains=custom_domains(facts),
            outputs=tuple(spec.name for spec in facts.outputs if spec.name not in project.model.state.values()),
            notes=facts.notes,
            dense_bytes=facts.dense_bytes,
            weight_bytes=facts.weight_bytes,
        )
    from edgebuild.catalogue.callables import load_callable
    from edgebuild.models.torch_models import make_module

    factory = project.model.factory
    module = make_module(load_callable(factory, project.folder), factory, project.weights_path)
    layers = (layer for layer in module.modules() if type(layer).__name__ not in NOT_DYNAMIC)
    return ModelFacts(
        quantisable_ops=_matrices(module),
        macs=None,
        outputs=project.model.outputs,
        dense_bytes=sum(p.nbytes for layer in layers for p in layer.parameters(recurse=False) if p.dim() == 2),
        weight_bytes=sum(p.nbytes for p in module.parameters()),
    )


def _matrices(module: Any) -> int:
    """Count what int8 kernels may take, whoever multiplies by it: a layer of torch's, or ``forward()`` itself."""
    return sum(
        parameter.dim() >= 2
        for layer in module.modules()
        if type(layer).__name__ not in NO_PRODUCTS
        for parameter in layer.parameters(recurse=False)
    )


def plan_inputs(
    project: Project,
    target_name: str,
    *,
    model: ModelFacts,
    at: KnownDevice,
    backends: Mapping[str, Backend],
    budget: Budget,
    options: Options,
    frames: Mapping[str, int],
    costs: UnitCosts | None = None,
    time_s: float | None = None,
    notes: tuple[str, ...] = (),
) -> PlanInputs:
    """Put together what planning is pure over. ``frames`` holds the size of each split that was read already."""
    resolved = _resolved(project, target_name, at.probe)
    recipes = planned_recipes(project, options, frames.get("train", ASSUMED_TRAIN_FRAMES))
    return PlanInputs(
        target=resolved,
        objective=project.build.objective,
        budget=budget.text,
        quantisable_ops=model.quantisable_ops,
        missing={
            **_missing_backends(backends, at),
            **_missing_quantisers(),
            **_missing_modules(recipes),
        },
        backend_refusals={**_unknown_backends(resolved, backends), **_refusals(project, model, backends)},
        precision_refusals=_precision_refusals(resolved, at.probe, backends),
        dense_bytes=model.dense_bytes,
        weight_bytes=model.weight_bytes,
        size_limited=project.limits.file_size_mb is not None,
        time_s=time_s,
        max_finalists=MAX_FINALISTS,
        costs=costs or UnitCosts(),
        recipes=recipes,
        recipes_named=bool(options.recipes),
        ground=_ground(project),
        notes=(*model.notes, *_assumptions(project, recipes, frames), *notes),
    )


def _resolved(project: Project, name: str, probe: Mapping[str, str]) -> ResolvedTarget:
    target = pick("targets", name, load_targets(project.folder))
    resolved = resolve(target, load_profiles(project.folder), probe, threads=project.build.threads)
    if not resolved.profiles:
        reasons = "; ".join(f"{name} {reason}" for name, reason in resolved.refused)
        raise EnvironmentGap(
            f"Nothing can be built for {name} on this device: {reasons}.",
            hint="`edgebuild targets` lists what can be built for; `edgebuild doctor` says what this machine is.",
        )
    return resolved


def _assumptions(project: Project, recipes: Iterable[Recipe], frames: Mapping[str, int]) -> Iterator[str]:
    trains = any(step.needs.train for recipe in recipes for step in recipe.steps)
    unknown_sizes = [split for split in ("validation", "test") if split not in frames]
    if unknown_sizes:
        more = f", and {ASSUMED_TRAIN_FRAMES} to train on" if trains and "train" not in frames else ""
        yield f"times assume {ASSUMED_FRAMES} frames of {' and '.join(unknown_sizes)} data{more}"
    if trains and project.training.loader is not None and project.training.data_version is None:
        yield f"{project.training.loader} has no [training].data_version: what is trained on it isn't reused"


def check_recipes(project: Project, options: Options) -> None:
    """Raise, before any work, for a recipe that was asked for by name and can't be carried out (``check_named``)."""
    if options.recipes:
        recipes = planned_recipes(project, options, 0)
        check_named(recipes, _ground(project), _missing_modules(recipes))


def _ground(project: Project) -> ModelTraits:
    return ModelTraits(
        unreadable=_unreadable(project),
        stateful=project.stateful,
        train=project.data.train is not None or project.training.loader is not None,
        labels=project.metric is not None,
        one_by_one=project.freeze.get(BATCH_AXIS, 1) == 1 and BATCH_AXIS not in project.build.keep_dynamic,
    )


def _unreadable(project: Project) -> str:
    """Return why the project's ONNX file can't be read as a torch module."""
    path = project.onnx_path
    if path is None or not project.recipes:
        return ""
    return _reading(path, path.stat().st_mtime_ns, model_specs(project))


@cache
def _reading(path: Path, changed: int, specs: tuple[TensorSpec, ...]) -> str:
    """Plans for several targets read a file once."""
    del changed
    return why_unreadable(path, specs)


def _missing_backends(backends: Mapping[str, Backend], at: KnownDevice) -> dict[str, str]:
    if at.here:
        return {name: backend.install_hint for name, backend in backends.items() if backend.installed() is None}
    elsewhere = "not for the device's Python: `edgebuild device provision` puts it there"
    return {name: elsewhere for name in backends if at.probe.get(f"runtime.{name}") == UNKNOWN}


def _missing_quantisers() -> dict[str, str]:
    return {
        name: f"pip install {module}"
        for name, module in QUANTISER_MODULES.items()
        if importlib.util.find_spec(module) is None
    }


def _missing_modules(recipes: Iterable[Recipe]) -> dict[str, str]:
    names = {module for recipe in recipes for step in recipe.steps for module in step.needs.modules}
    return {name: "pip install 'edgebuild[compress]'" for name in sorted(names) if tool_version(name) == NOT_INSTALLED}


def _unknown_backends(target: ResolvedTarget, backends: Mapping[str, Backend]) -> dict[str, str]:
    """A profile may come from a project whose author has a plug-in that isn't installed here, or be misspelt."""
    names = {profile.backend for profile in target.profiles} - set(backends)
    return {name: unknown("backend", name, backends) for name in sorted(names)}


def _refusals(project: Project, model: ModelFacts, backends: Mapping[str, Any]) -> dict[str, str]:
    if not model.domains:
        return {}
    named = ", ".join(model.domains)
    if project.model.custom_ops is None:
        reason = f"the model has custom operators ({named}); name their library as [model].custom_ops"
        return dict.fromkeys(backends, reason)
    return {name: f"custom operators ({named}) run in onnxruntime only" for name in backends if name != "onnxruntime"}


def _precision_refusals(
    target: ResolvedTarget, probe: Mapping[str, str], backends: Mapping[str, Backend]
) -> dict[str, str]:
    """Return what each profile's backend says of its precisions on the device that ``probe`` describes."""
    reasons = {
        CandidateSpec(profile=profile.name, backend=profile.backend, precision=precision).id: backends[
            profile.backend
        ].refuse(precision, probe)
        for profile in target.profiles
        if profile.backend in backends
        for precision in profile.precisions
    }
    return {candidate: reason for candidate, reason in reasons.items() if reason is not None}
