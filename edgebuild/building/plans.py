"""Planning's shell: gathers its inputs inside a build, or for a plan alone, which leaves no trace."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from edgebuild.building import probe
from edgebuild.building.candidates import quantised
from edgebuild.building.compress import planned_recipes
from edgebuild.building.context import budget_of, targets_of
from edgebuild.building.costs import START_S, unit_costs
from edgebuild.building.data import materialise, sample_specs
from edgebuild.building.decisions import FOLDER, Decisions, recalled
from edgebuild.building.early import peek, unfit, warnings
from edgebuild.building.inspect import ModelFacts, inspect_model, plan_inputs
from edgebuild.building.prepare import check_output
from edgebuild.building.runs import asked_for
from edgebuild.building.targets import KnownDevice, known_device
from edgebuild.core.artifact import Contract
from edgebuild.core.values import digest_json
from edgebuild.devices.probe import read_probe
from edgebuild.devices.transport import Shared
from edgebuild.errors import DataError, EdgebuildError
from edgebuild.execution.keys import tool_version
from edgebuild.fleet.provider import probe_here
from edgebuild.judging.intervals import level_for_opening
from edgebuild.planning.plan import make_plan, plan_digest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgebuild.building.context import BuildContext, Options
    from edgebuild.building.early import Peeked
    from edgebuild.building.prepare import ModelInputs
    from edgebuild.catalogue.project import Project
    from edgebuild.execution.executor import StepResult
    from edgebuild.fleet.provider import DeviceProvider
    from edgebuild.planning.inputs import PlanInputs, UnitCosts
    from edgebuild.planning.plan import Plan

#: Said of a model that can't be timed by itself, and of a device whose speed isn't known yet.
ASSUMED = "the model could not be timed here{why}: times are assumed"
ELSEWHERE = "times of the device are taken from this machine"
#: What a plan feeds to a model to time it is no larger.
MOST_BATCH_BYTES = 256 * 2**20


def plan_target(context: BuildContext, prepared: ModelInputs) -> tuple[Plan, BuildContext]:
    """Plan the target of a context, and return the context to carry the plan out in. Says how long it will take.

    The model is known exactly by now, and timed. A finished build that is asked for again, with the same time box or
    without one, is what it was: its plan is carried out once more, nothing is timed, and no clock decides.
    """
    from edgebuild.models.onnx_files import custom_domains, load_onnx, read_facts

    facts = read_facts(load_onnx(prepared.frozen.path / "model.onnx"))
    model = ModelFacts(
        quantisable_ops=facts.quantisable,
        macs=facts.macs,
        domains=custom_domains(facts),
        notes=facts.notes,
        dense_bytes=facts.dense_bytes,
        weight_bytes=facts.weight_bytes,
    )
    found = {"calibration": prepared.calibration, "validation": prepared.validation, **context.data}
    frames: dict[str, int] = {
        split: _frames(found[split]) for split in ("calibration", "validation", "test") if split in found
    }
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
    path = context.home / FOLDER / f"{_identity(inputs, prepared, context)[:32]}.json"
    before = None if context.options.remeasure else recalled(path, context.home / "measurements")
    if before is None:
        plan = _planned(inputs, prepared, context, facts.macs, frames)
        return plan, replace(context, decisions=Decisions(path=path))
    plan, decisions = before
    context.progress.say(f"{_counted(plan)} for {plan.target}, as in the build that is finished already")
    return plan, replace(context, decisions=decisions, box=None)


def _planned(
    inputs: PlanInputs, prepared: ModelInputs, context: BuildContext, macs: int | None, frames: Mapping[str, int]
) -> Plan:
    costs, said = _timed_costs(context, prepared, macs, frames)
    box = context.box
    now = time.monotonic() if box is None else max(box.clock(), box.begins_s)
    inputs = inputs.model_copy(update={"notes": (*inputs.notes, *said)})
    costs = costs.model_copy(
        update={
            "prepare_s": now - context.started,
            "ready": quantised(make_plan(inputs).candidates, prepared, context),
        }
    )
    time_s = None if box is None else box.deadline_s - context.started
    plan = make_plan(inputs.model_copy(update={"costs": costs, "time_s": time_s}))
    context.progress.say(f"{_counted(plan)} for {plan.target}, about {minutes(plan.seconds)} in all")
    if time_s is not None and box is not None and plan.seconds > time_s:
        context.progress.say(f"that is the least, and more than the {minutes(box.asked_s)} asked for")
    return plan


def _counted(plan: Plan) -> str:
    return f"{len(plan.candidates)} candidate{'s' * (len(plan.candidates) != 1)}"


def _identity(inputs: PlanInputs, prepared: ModelInputs, context: BuildContext) -> str:
    """Return what stands for a build: what is asked for, of which model and data, on which device."""
    data = {**context.data, "frozen": prepared.frozen, "reference": prepared.reference}
    return digest_json(
        {
            "asked": asked_for(context.project, context.options),
            "time_s": context.options.time_s,
            "protocols": [each.to_json() for each in (context.options.screen, context.options.certify)],
            "inputs": inputs.to_json(),
            # Another version of edgebuild may plan otherwise, in a time box too, where the plan alone doesn't tell.
            "version": tool_version("edgebuild"),
            "plan": plan_digest(make_plan(inputs)),
            "found": {name: result.entry.digest for name, result in data.items()},
            "device": context.client.device.id,
            "runner": context.client.runner_digest,
            "configuration": [fact.to_json() for fact in context.configuration],
        }
    )


def _timed_costs(
    context: BuildContext, prepared: ModelInputs, macs: int | None, frames: Mapping[str, int]
) -> tuple[UnitCosts, tuple[str, ...]]:
    """Return what work costs: the frozen model is called here, and a runner started on the device."""
    times = probe.time_frozen(prepared, context.project.custom_ops_path)
    if isinstance(context.client.device, Shared):
        context.client.device.regain()  # a wait for it is no time that a runner takes to start
    start_s = probe.timed(lambda: read_probe(context.client, light=True))[0] if context.can.times else START_S
    return unit_costs(
        context.project,
        context.options,
        times or probe.assumed(macs),
        frames,
        context.can,
        macs=macs,
        batch=prepared.contract.batch,
        reference_s=float(prepared.reference.entry.meta.get("seconds", 0.0)),
        start_s=start_s,
    )


def minutes(seconds: float) -> str:
    """Return a duration as people say it."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _frames(data: StepResult) -> int:
    count: int = json.loads((data.path / "data.json").read_bytes())["frames"]
    return count


def plan_only(project: Project, options: Options, devices: DeviceProvider) -> tuple[Plan, ...]:
    """Plan every target without writing anything into the project. The first samples of its data are read.

    The model is called on the first of them, to be timed. A device is taken for what it was when enrolled, and a target
    without one for what its facts say.
    """
    from edgebuild.backends.table import backends

    table = backends()
    model = inspect_model(project)
    here = probe_here(table)
    found = peek(project)
    budget = budget_of(project, options)
    if budget.agreement is None:
        check_output(project.metric, model.outputs)
    times, untimed = _timed(project, found)
    known = (
        *found.unread,
        *warnings(project, budget, found.described, test_level=level_for_opening(1)),
        *unfit(project, budget, found, times.outputs if times else {}),
    )
    plans = []
    for target in targets_of(project, options):
        at = known_device(target, project, options, here, devices)
        costs, said = unit_costs(
            project, options, times or probe.assumed(model.macs), found.frames, at.can, macs=model.macs
        )
        inputs = plan_inputs(
            project,
            target,
            model=model,
            at=at,
            backends=table,
            budget=budget,
            options=options,
            frames=found.frames,
            costs=costs,
            time_s=options.time_s,
            notes=(*untimed, *(ELSEWHERE,) * (not at.here), *said),
        )
        plans.append(make_plan(inputs.model_copy(update={"notes": (*known, *at.notes, *inputs.notes)})))
    return tuple(plans)


def _timed(project: Project, found: Peeked) -> tuple[probe.ModelTimes | None, tuple[str, ...]]:
    """Time the model as given on the first sample, where it has one; or say why that can't be done."""
    why = ""
    try:
        times = _times(project, found)
    except EdgebuildError as error:
        times, why = None, f" ({error.message.removesuffix('.')})"
    except MemoryError:
        times, why = None, " (there is too little memory for it)"
    return times, () if times is not None else (ASSUMED.format(why=why),)


def _times(project: Project, found: Peeked) -> probe.ModelTimes | None:
    import numpy as np

    first = found.first
    if first is None:
        return None
    if project.model.factory is not None:
        return probe.time_torch(project, first)
    if project.onnx_path is None:
        return None
    contract = Contract(
        inputs=sample_specs(project),
        outputs=(),
        constants=project.constants,
        state=project.state_links,
        state_specs=tuple(spec for spec in project.input_specs if spec.name in project.model.state),
    )
    # A batch that the file or the project fixes is fed whole: other batches are refused by the file.
    size = contract.inputs[0].shape[0] if contract.inputs and contract.inputs[0].shape else 1
    batch = size if isinstance(size, int) else project.freeze.get(size, 1)
    if batch * sum(array.nbytes for array in first.values()) > MOST_BATCH_BYTES:
        raise DataError(f"a batch of {batch:,} samples is too large to try")
    feeds = {name: np.repeat(array, batch, axis=0) for name, array in first.items()} if batch > 1 else first
    times = probe.time_onnx(project.onnx_path, feeds, contract, project.custom_ops_path)
    return times and replace(times, call_s=times.call_s / batch, plain_s=times.plain_s / batch)
