"""The context a build runs in: the project, its store and executor, the device, and what they were found to be."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgebuild.building.decisions import Decisions
from edgebuild.building.runs import Runs, asked_for, resumed
from edgebuild.building.timebox import Limits, TimeBox, box_of, wait_until
from edgebuild.core.capabilities import BOARD
from edgebuild.core.files import expanded, resolved
from edgebuild.core.objective import OBJECTIVES
from edgebuild.core.record import Note
from edgebuild.core.steps import NoProgress, never_stop
from edgebuild.devices.probe import configuration_of
from edgebuild.errors import ConfigError, ModelError
from edgebuild.execution.turns import HostTurn
from edgebuild.fleet.provider import InventoryProvider
from edgebuild.measuring.protocols import CERTIFY, LAYERS, SCREEN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from edgebuild.backends.protocol import Backend
    from edgebuild.catalogue.project import Project
    from edgebuild.core.artifact import TensorSpec
    from edgebuild.core.budget import Budget
    from edgebuild.core.capabilities import Capabilities
    from edgebuild.core.measurement import Fact
    from edgebuild.core.objective import Objective
    from edgebuild.core.record import Topic
    from edgebuild.core.steps import Progress, ProjectCode, Step
    from edgebuild.devices.client import RunnerClient
    from edgebuild.execution.executor import Executor, Input, StepResult
    from edgebuild.execution.faults import Guard
    from edgebuild.execution.store import Store
    from edgebuild.fleet.provider import Attached, DeviceProvider
    from edgebuild.measuring.protocols import Protocol
    from edgebuild.planning.inputs import UnitCosts

#: Where a project keeps its store, measurements, builds and seal, next to edgebuild.toml.
HOME = ".edgebuild"
#: Where in it the tracebacks of unforeseen errors lie.
BUGS = "bugs"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a user can ask for in addition to the project. Tests and benchmarks give shorter protocols."""

    targets: tuple[str, ...] = ()
    budget: str | None = None
    recipes: tuple[str, ...] = ()
    time_s: float | None = None
    remeasure: bool = False
    reread: bool = False
    device: str | None = None
    no_measure: bool = False
    command: str = ""
    screen: Protocol = SCREEN
    certify: Protocol = CERTIFY
    layers: Protocol = LAYERS


@dataclass(frozen=True, kw_only=True)
class BuildContext:
    """Everything effects go through. Made by ``open_build`` for this machine, by ``open_targets`` for each target.

    ``can`` says what the target's device can be asked; nothing where the target has none in this build.
    ``here`` is what this machine's own probe says, whatever the target is. ``pin_clocks`` says that the user asked for
    pinned clocks while measuring. ``data`` holds what this build read of the user's data, ``model_digest`` of the
    model's tensors, ``said`` what it reported meanwhile, and ``turn`` is the host's: all targets share them.
    ``candidate`` or ``recipe`` names whose work is done (see ``concerning``). ``box`` is the time box, if one was
    asked for; ``limits`` is the ``check`` by which work in it can be stopped, ``decisions`` what it decided. ``runs``
    is what it took so far, earlier runs of the same build included.
    """

    project: Project
    options: Options
    home: Path
    executor: Executor
    client: RunnerClient
    backends: Mapping[str, Backend]
    probe: Mapping[str, str]
    code: ProjectCode
    budget: Budget
    devices: DeviceProvider = field(default_factory=InventoryProvider)
    target: str = ""
    device_name: str = "none"
    here: Mapping[str, str] = field(default_factory=dict)
    can: Capabilities = BOARD
    pin_clocks: bool = False
    progress: Progress = field(default_factory=NoProgress)
    check: Callable[[], None] = never_stop
    started: float = field(default_factory=time.monotonic)
    data: dict[str, StepResult] = field(default_factory=dict)
    model_digest: list[str] = field(default_factory=list)
    said: list[Note] = field(default_factory=list)
    candidate: str = ""
    recipe: str = ""
    turn: HostTurn = field(default_factory=HostTurn)
    box: TimeBox | None = None
    limits: Limits = field(default_factory=Limits)
    decisions: Decisions = field(default_factory=Decisions)
    runs: Runs = field(default_factory=Runs)

    @property
    def measure_until_s(self) -> float:
        """The moment (of ``time.monotonic``) by which measuring must have ended; infinite without a time box."""
        return float("inf") if self.box is None else self.box.until_s

    def no_time(self, what: str, seconds: Callable[[UnitCosts], float]) -> str | None:
        """Return why a piece of work doesn't fit the time box, None where it does; ``seconds`` is what it takes."""
        box = self.box
        return self.decisions.once(what, lambda: None if box is None else box.why_not(seconds(box.unit)))

    @property
    def objective(self) -> Objective:
        """What the build is after."""
        return OBJECTIVES[self.project.build.objective]

    @property
    def configuration(self) -> tuple[Fact, ...]:
        """The device's platform configuration: part of the keys of device steps and of measurements."""
        return configuration_of(self.probe)

    @property
    def guard(self) -> Guard:
        """What turns the failure of one candidate, recipe or piece of evidence into a value."""
        from edgebuild.devices.probe import require_alive
        from edgebuild.execution.faults import Guard

        def alive() -> None:
            with self.turn.lent():  # a farm's device may have to be waited for, which nobody else has to wait for
                require_alive(self.client)

        return Guard(
            alive=alive,
            reports=self.home / BUGS,
            project=self.project.folder,
            command=self.options.command,
        )

    def run(
        self, step: Step, inputs: Mapping[str, StepResult | Path], *, label: str, made: Path | None = None
    ) -> StepResult:
        """Run a step through the executor on results of other steps and on the user's files."""
        self.runs.keep()
        return self.executor.run(
            step, _ready(inputs), label=label, candidate=self.candidate, recipe=self.recipe, made=made
        )

    def concerning(self, *, candidate: str = "", recipe: str = "") -> BuildContext:
        """Return the context for one candidate's or recipe's own work: its steps are on record as theirs."""
        return replace(self, candidate=candidate, recipe=recipe)

    def stored(self, step: Step, inputs: Mapping[str, StepResult | Path]) -> bool:
        """Whether what a step makes is in the store."""
        return self.executor.stored(step, _ready(inputs))

    def say(self, topic: Topic, text: str) -> None:
        """Tell the user something now, and keep it for the record."""
        note = Note(topic=topic, text=text)
        if note not in self.said:
            self.said.append(note)
            self.progress.say(text)

    def load(self, reference: str) -> Callable[..., Any]:
        """Return a callable of the project's; its module (and torch with it) is imported when it is first called."""
        return self.code.load(reference)

    def check_inputs(
        self, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], unranked: tuple[str, ...]
    ) -> None:
        """Raise ``ModelError`` where edgebuild.toml and the ONNX file disagree about inputs, outputs or states.

        Of ``unranked`` inputs the file says no shape.
        """
        problems = list(_input_problems(self.project, inputs, outputs, unranked))
        if problems:
            raise ModelError(
                f"edgebuild.toml and the ONNX model disagree: {'; '.join(problems)}.",
                hint="`edgebuild init MODEL.onnx` writes [[inputs]] as the file has them.",
            )


def _ready(inputs: Mapping[str, StepResult | Path]) -> dict[str, Input]:
    from edgebuild.execution.executor import external_input

    return {name: external_input(value) if isinstance(value, Path) else value.entry for name, value in inputs.items()}


def _input_problems(
    project: Project, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], unranked: tuple[str, ...]
) -> Iterator[str]:
    given = {spec.name: spec for spec in project.inputs}
    found = {spec.name: spec for spec in inputs}
    for name in sorted(set(found) - set(given)):
        yield f"the model's input {name!r} is missing from [[inputs]]"
    for name in sorted(set(given) - set(found)):
        yield f"[[inputs]] names {name!r}, the model's inputs are {', '.join(sorted(found))}"
    for name in sorted(set(given) & set(found)):
        if given[name].dtype != found[name].dtype:
            yield f"input {name!r} is {given[name].dtype} in edgebuild.toml and {found[name].dtype} in the model"
        if name not in unranked and (
            len(given[name].shape) != len(found[name].shape)
            or any(
                isinstance(a, int) and isinstance(b, int) and a != b
                for a, b in zip(given[name].shape, found[name].shape, strict=False)
            )
        ):
            ours, theirs = list(given[name].shape), list(found[name].shape)
            yield f"input {name!r} is {ours} in edgebuild.toml and {theirs} in the model"
    known = {spec.name for spec in outputs}
    for into, out in project.model.state.items():
        if out not in known:
            yield f"[model.state] feeds {into!r} from {out!r}, the model's outputs are {', '.join(sorted(known))}"


@contextlib.contextmanager
def open_build(
    project: Project,
    options: Options,
    *,
    progress: Progress,
    check: Callable[[], None] = never_stop,
    devices: DeviceProvider | None = None,
) -> Iterator[BuildContext]:
    """Lock the project, open its store, start talking to the device, and look at both.

    Raises ``StoreError`` when another build holds the project, ``DeviceError`` when the device doesn't answer.
    """
    from edgebuild.backends.table import backends
    from edgebuild.catalogue.callables import project_code
    from edgebuild.devices.local import local_device
    from edgebuild.execution.lock import BuildLock
    from edgebuild.fleet.provider import attached

    started, home = time.monotonic(), project.folder / HOME
    table, native = backends(), project.custom_ops_path is not None
    with (
        BuildLock(home / "lock"),
        store_of(project) as store,
        attached(local_device(home), table, native_libraries=native) as here,
    ):
        runs = resumed(home, asked_for(project, options), started)
        client, code, turn, limits = here.client, project_code(project.folder), HostTurn(), Limits(check)
        box = box_of(options.time_s, started)
        given: dict[str, Any] = {"progress": progress, "check": limits, "code": code, "turn": turn}
        context = BuildContext(
            **given,
            project=project,
            options=options,
            home=home,
            executor=_executor(project, store, here, box, **given),
            client=client,
            backends=table,
            probe=here.probe,
            here=here.probe,
            device_name=client.device.id,
            devices=devices or InventoryProvider(),
            can=client.device.capabilities,
            budget=budget_of(project, options),
            started=started,
            box=box,
            limits=limits,
            runs=runs,
        )
        with runs.counted():
            yield context


def _executor(project: Project, store: Store, here: Attached, box: TimeBox | None, **given: Any) -> Executor:
    """Return what runs steps on this machine."""
    from edgebuild.devices.hold import holding
    from edgebuild.devices.probe import kernels_of, platform_of
    from edgebuild.execution.executor import Executor

    return Executor(
        store=store,
        seed=project.build.seed,
        isa=kernels_of(here.probe),
        device_configuration=platform_of(here.client, here.probe),
        device=here.client,
        hold=holding(here.client, given["progress"], given["check"], until=partial(wait_until, box)),
        project=project.name,
        **given,
    )


def store_of(project: Project) -> Store:
    """Open the project's store: where [store].url says, a folder seen from the project's, else in its own folder."""
    from edgebuild.execution.remote import is_url
    from edgebuild.execution.store import Store

    quota = project.store.quota_gb
    where: str | Path = project.store.url or f"{HOME}/store"
    if not is_url(where):
        where = resolved(project.folder / expanded(where))
    return Store.open(where, quota_bytes=int(quota * 1e9) if quota else None)


def targets_of(project: Project, options: Options) -> tuple[str, ...]:
    """Return the targets to build for: those asked for, else the project's."""
    names = options.targets or project.build.targets
    doubles = {name for name in names if names.count(name) > 1}
    if doubles:
        raise ConfigError("--target", (f"{sorted(doubles)[0]} is given twice",))
    return names


def budget_of(project: Project, options: Options) -> Budget:
    """Return the budget asked for, else the project's."""
    from edgebuild.core.budget import Budget
    from edgebuild.judging.budget import parse_budget

    if options.budget is not None:
        return parse_budget(options.budget)
    given = project.budget
    return Budget(
        points=given.points,
        relative=given.relative,
        floor=given.floor,
        agreement=given.agreement,
        per_slice_points=given.per_slice_points,
    )
