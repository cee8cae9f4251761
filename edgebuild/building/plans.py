"""Planning's shell: gathers its inputs inside a build, or for a plan alone, which leaves no trace."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from edgebuild.building.inspect import ModelFacts, inspect_model, plan_inputs
from edgebuild.building.places import device_of
from edgebuild.building.world import budget_of, targets_of
from edgebuild.devices.local import LocalDevice
from edgebuild.devices.probe import read_probe
from edgebuild.planning.plan import make_plan

if TYPE_CHECKING:
    from edgebuild.building.prepare import Prepared
    from edgebuild.building.world import Options, World
    from edgebuild.catalogue.project import Project
    from edgebuild.planning.plan import Plan


def plan_target(world: World, prepared: Prepared) -> Plan:
    """Plan the target of a world; the model is known exactly by now."""
    from edgebuild.building.inspect import QUANTISABLE
    from edgebuild.models.onnx_files import custom_domains, load_onnx, read_facts

    facts = read_facts(load_onnx(prepared.frozen.path / "model.onnx"))
    model = ModelFacts(
        quantisable_ops=sum(count for op, count in facts.ops if op in QUANTISABLE),
        macs=facts.macs,
        domains=custom_domains(facts),
    )
    frames = json.loads((prepared.validation.path / "data.json").read_bytes())["frames"]
    inputs = plan_inputs(
        world.project,
        world.target,
        model=model,
        probe=world.probe,
        backends=world.backends,
        budget=world.budget,
        options=world.options,
        frames={"validation": frames},
        here=world.measured and isinstance(world.client.device, LocalDevice),
    )
    return make_plan(inputs)


def plan_only(project: Project, options: Options) -> tuple[Plan, ...]:
    """Plan every target without writing anything into the project; a device is taken for what it was when enrolled."""
    from edgebuild.backends.table import backends
    from edgebuild.devices.client import RunnerClient

    table = backends()
    model = inspect_model(project)
    with tempfile.TemporaryDirectory(prefix="edgebuild-plan-") as scratch:
        device = LocalDevice(Path(scratch))
        probe = read_probe(RunnerClient(device, {name: backend.device_file for name, backend in table.items()}))
    plans = []
    for target in targets_of(project, options):
        entry = device_of(target, project, options, probe)
        inputs = plan_inputs(
            project,
            target,
            model=model,
            probe=probe if entry is None else entry.facts,
            backends=table,
            budget=budget_of(project, options),
            options=options,
            frames={},
            here=entry is None,
        )
        plans.append(make_plan(inputs))
    return tuple(plans)
