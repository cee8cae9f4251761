"""From a recipe's step to what the target said of its layers, through the store, the compiler and the real runner."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from edgebuild.backends.table import backends
from edgebuild.building.context import BuildContext, Options
from edgebuild.building.layer_times import time_layers, timing_candidate, why_untimed
from edgebuild.core.artifact import Fp16Meaning, Int8Scheme, Precision
from edgebuild.core.capabilities import COMPILE_ONLY, EMULATED
from edgebuild.core.steps import NoProgress, never_stop
from edgebuild.devices.client import RunnerClient
from edgebuild.devices.local import LocalDevice
from edgebuild.errors import ModelError
from edgebuild.execution.executor import Executor
from edgebuild.execution.store import Store
from edgebuild.planning.plan import PlannedCandidate
from edgebuild.techniques.factorising.factorise import Factorise
from edgebuild.techniques.pruning.structured import PruneStructured
from edgebuild.techniques.report import read_report
from edgebuild.techniques.timing.layer_times import PAIRS, read_pairs, read_times
from tests.measuring.test_layer_times import LAYERS
from tests.techniques import zoo

if TYPE_CHECKING:
    from pathlib import Path

    from edgebuild.backends.protocol import CompileRequest

INT8 = Precision(kind="int8", scheme=Int8Scheme(activations="uint8"), quantiser="edgebuild")
FP16 = Precision(kind="fp16", fp16=Fp16Meaning.COMPUTE)
FP32 = Precision(kind="fp32")


def planned(precision: Precision = FP32, recipe: str = "thin") -> PlannedCandidate:
    return PlannedCandidate(
        profile="p",
        backend="onnxruntime",
        precision=precision,
        settings=((("threads", 1), ("spinning", False)), (("threads", 2),)),
        raced=True,
        recipe=recipe,
    )


def world_in(folder: Path, objective: str = "latency", **more: Any) -> Any:
    """A build's context, with a device of its own and no project but its objective."""
    table = backends()
    client = RunnerClient(LocalDevice(folder / "device"), {name: each.device_file for name, each in table.items()})
    executor = Executor(
        store=Store.open(folder / "store"),
        progress=NoProgress(),
        check=never_stop,
        seed=0,
        isa="",
        device_configuration={"cpu": "this"},
        device=client,
        code=zoo.CODE,
    )
    given = {
        "project": SimpleNamespace(build=SimpleNamespace(objective=objective), custom_ops_path=None, folder=folder),
        "options": Options(layers=LAYERS),
        "home": folder,
        "executor": executor,
        "client": client,
        "backends": table,
        "probe": {},
        "code": zoo.CODE,
        "budget": None,
    }
    return BuildContext(**{**given, **more})


def test_what_was_timed_decides_and_is_found_again(tmp_path: Path) -> None:
    context, animal = world_in(tmp_path), zoo.ZOO["residual"]
    inputs = zoo.write_inputs(animal, tmp_path / "zoo")
    skip = ("stem.*", "one.*", "two.*", "head", "short")
    step = zoo.step_of(Factorise, animal, **{**zoo.SMALL["factorise"], "skip": skip})
    told, notes = time_layers(step, inputs, planned(), 1, context)
    assert notes == ()
    assert set(told) == {PAIRS, "time-000"}
    paths: dict[str, Any] = {name: getattr(each, "path", each) for name, each in told.items()}
    assert read_pairs(paths[PAIRS]).layers == (("down.0", 0),)
    times = read_times(paths)
    assert times is not None
    faster = [layer for layer, time in times.known.items() if time.comparison.outcome == "better"]
    if faster:
        made = context.run(step, {**inputs, **told}, label="factorise")
        assert [said.layer for said in read_report(made.path).layers if not said.reason] == faster
    else:
        with pytest.raises(ModelError, match=r"down\.0: it gets no faster on the target"):
            context.run(step, {**inputs, **told}, label="factorise")
    ran = len(context.executor.records)
    again, _ = time_layers(step, inputs, planned(), 1, context)
    assert all(record.reused for record in context.executor.records[ran:])
    assert {name: each.path for name, each in again.items()} == paths  # type: ignore[union-attr]


def test_a_pair_that_cannot_be_compiled_has_no_time_and_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[CompileRequest] = []

    def refuse(request: CompileRequest) -> Any:
        asked.append(request)
        raise ModelError("the runtime has no such kernel")

    context, animal = world_in(tmp_path), zoo.ZOO["residual"]
    monkeypatch.setitem(context.backends, "onnxruntime", SimpleNamespace(compile_step=refuse))
    skip = ("stem.*", "down.*", "head", "short")
    step = zoo.step_of(Factorise, animal, **{**zoo.SMALL["factorise"], "skip": skip})
    candidate = planned().model_copy(update={"accelerator": "npu", "features": ("2:4",)})
    told, notes = time_layers(step, zoo.write_inputs(animal, tmp_path / "zoo"), candidate, 1, context)
    assert set(told) == {PAIRS}
    assert {(each.precision, each.accelerator, each.features) for each in asked} == {(FP32, "npu", ("2:4",))}
    assert notes == ("factorise: one.0, two.0 could not be timed: the runtime has no such kernel",)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"objective": "size"}, "the build's objective is size, not time"),
        ({"objective": "memory"}, "the build's objective is memory, not time"),
        (
            {"can": COMPILE_ONLY},
            COMPILE_ONLY.why,
        ),
    ],
)
def test_where_nothing_can_be_timed_operations_decide_and_it_is_said(
    more: dict[str, Any], why: str, tmp_path: Path
) -> None:
    step = zoo.step_of(Factorise, zoo.ZOO["residual"])
    told, notes = time_layers(step, {}, planned(), 1, world_in(tmp_path, **more))
    assert (told, notes) == ({}, (f"factorise: no layer was timed on the target: {why}",))


def test_other_reasons_to_time_nothing(tmp_path: Path) -> None:
    context = world_in(tmp_path)
    assert why_untimed(context, None) == "the profile builds nothing but int8"
    assert why_untimed(context, planned()) == ""
    assert why_untimed(replace(context, can=COMPILE_ONLY), planned()) == COMPILE_ONLY.why
    assert why_untimed(replace(context, can=EMULATED), planned()) == EMULATED.why
    assert time_layers(zoo.step_of(PruneStructured, zoo.ZOO["residual"]), {}, planned(), 1, context) == ({}, ())


def test_layers_are_timed_in_fp32_where_the_profile_has_it() -> None:
    def chosen(*precisions: Precision) -> PlannedCandidate | None:
        plan: Any = SimpleNamespace(
            candidates=[planned(recipe="other"), *(planned(precision) for precision in precisions)]
        )
        return timing_candidate(plan, "thin", "p")

    assert chosen(INT8, FP16, FP32) == planned(FP32)
    assert chosen(INT8, FP16) == planned(FP16)
    assert chosen(INT8) is None
