"""Planning's shell: gathers its inputs inside a build, or for a plan alone, which leaves no trace."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from edgebuild.building.compress import planned_recipes
from edgebuild.building.context import budget_of, targets_of
from edgebuild.building.data import materialise
from edgebuild.building.early import peek, warnings
from edgebuild.building.inspect import ModelFacts, inspect_model, plan_inputs
from edgebuild.building.prepare import check_output
from edgebuild.building.targets import KnownDevice, known_device
from edgebuild.fleet.provider import probe_here
from edgebuild.judging.intervals import level_for_opening
from edgebuild.planning.plan import make_plan

if TYPE_CHECKING:
    from edgebuild.building.context import BuildContext, Options
    from edgebuild.building.prepare import ModelInputs
    from edgebuild.catalogue.project import Project
    from edgebuild.execution.executor import StepResult
    from edgebuild.fleet.provider import DeviceProvider
    from edgebuild.planning.plan import Plan

#: What a plan says of a target that is neither this machine nor one of the inventory.


def plan_target(context: BuildContext, prepared: ModelInputs) -> Plan:
    """Plan the target of a context; the model is known exactly by now."""
    from edgebuild.models.onnx_files import custom_domains, load_onnx, read_facts

    facts = read_facts(load_onnx(prepared.frozen.path / "model.onnx"))
    model = ModelFacts(
        quantisable_ops=facts.quantisable,
        macs=facts.macs,
        domains=custom_domains(facts),
        notes=facts.notes,
    )
    frames = {"validation": _frames(prepared.validation)}
    recipes = planned_recipes(context.project, context.options, 0)
    if context.project.data.train is not None and any(step.needs.train for r in recipes for step in r.steps):
        frames["train"] = _frames(materialise(context, "train"))
    inputs = plan_inputs(
        context.project,
        context.target,
        model=model,
        at=KnownDevice(probe=context.probe, can=context.can, here=context.probe is context.here),
        backends=context.backends,
        budget=context.budget,
        options=context.options,
        frames=frames,
    )
    return make_plan(inputs)


def _frames(data: StepResult) -> int:
    count: int = json.loads((data.path / "data.json").read_bytes())["frames"]
    return count


def plan_only(project: Project, options: Options, devices: DeviceProvider) -> tuple[Plan, ...]:
    """Plan every target without writing anything into the project. The first samples of its data are read.

    A device is taken for what it was when enrolled, and a target without one for what its facts say.
    """
    from edgebuild.backends.table import backends

    table = backends()
    model = inspect_model(project)
    here = probe_here(table)
    found, unread = peek(project)
    budget = budget_of(project, options)
    if budget.agreement is None:
        check_output(project.metric, model.outputs)
    known = (*unread, *warnings(project, budget, found, test_level=level_for_opening(1)))
    plans = []
    for target in targets_of(project, options):
        at = known_device(target, project, options, here, devices)
        inputs = plan_inputs(
            project,
            target,
            model=model,
            at=at,
            backends=table,
            budget=budget,
            options=options,
            frames={split: data.frames for split, data in found.items() if data.whole},
        )
        plans.append(make_plan(inputs.model_copy(update={"notes": (*known, *at.notes, *inputs.notes)})))
    return tuple(plans)
