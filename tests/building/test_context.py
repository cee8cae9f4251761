"""Variables that change which kernels run are part of keys and of measurements; where none is set, nothing changes."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import pytest

from edgebuild.building.context import Options, open_build
from edgebuild.catalogue.project import load_project
from edgebuild.core.steps import NoProgress, RunsOn, Step
from edgebuild.devices.client import RunnerClient
from edgebuild.devices.hold import hold_device
from edgebuild.devices.local import LocalDevice
from edgebuild.devices.lock import measurement_lock
from edgebuild.devices.probe import configuration_of, kernels_of, platform_of
from edgebuild.devices.runner.facts import KERNEL_SWITCHES
from edgebuild.errors import Interrupted
from edgebuild.execution.keys import key_of, key_parts
from tests.cli.example import write_project

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from edgebuild.core.steps import StepContext


class Nothing(Step):
    """A step that only runs somewhere."""

    version: ClassVar[int] = 1

    def run(self, inputs: Mapping[str, Path], out_dir: Path, ctx: StepContext) -> None:
        del inputs, ctx
        (out_dir / "nothing").write_text("")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in KERNEL_SWITCHES:
        monkeypatch.delenv(name, raising=False)
    return write_project(tmp_path / "project")


def nothing(place: RunsOn) -> Step:
    """One step of each sort."""
    named: type[Nothing] = type(f"Nothing{place.name}", (Nothing,), {"kind": f"nothing-{place}", "runs_on": place})
    return named()


def reused(project: Path) -> dict[RunsOn, bool]:
    """Run one step of each kind, and say which was there already."""
    with open_build(load_project(project), Options(), progress=NoProgress()) as context:
        return {place: context.run(nothing(place), {}, label=place.value).reused for place in RunsOn}


def test_a_switch_is_part_of_the_keys_of_what_executes_kernels(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not any(reused(project).values())
    assert all(reused(project).values())
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert reused(project) == {RunsOn.HOST: True, RunsOn.HOST_KERNELS: False, RunsOn.DEVICE: False}
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")
    assert all(reused(project).values())


def test_what_is_set_is_told_and_what_is_not_set_leaves_no_trace(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_build(load_project(project), Options(), progress=NoProgress()) as context:
        plain = context.probe
    assert plain["kernel_switches"] == "unknown"
    assert "kernel_switches" not in {fact.name for fact in configuration_of(plain)}
    assert kernels_of(plain) == plain["isa"]
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    monkeypatch.setenv("DNNL_MAX_CPU_ISA", "AVX2")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "")
    with open_build(load_project(project), Options(), progress=NoProgress()) as context:
        told = {fact.name: fact.value for fact in context.configuration}["kernel_switches"]
    assert told == "DNNL_MAX_CPU_ISA=AVX2 OPENBLAS_CORETYPE=Haswell"


def test_what_runs_on_a_device_is_part_of_the_keys_of_its_steps(project: Path, tmp_path: Path) -> None:
    with open_build(load_project(project), Options(), progress=NoProgress()) as context:
        code = tmp_path / "device.py"
        code.write_text(context.backends["onnxruntime"].device_file.read_text() + "\nVERIFY_TOLERANCE = 1.0\n")
        other = RunnerClient(LocalDevice(tmp_path / "device"), {"onnxruntime": code})
        there = platform_of(other, context.probe)
        keys = {
            place: [
                key_of(key_parts(nothing(place), {}, seed=0, isa="", device_configuration=configuration))
                for configuration in (context.executor.configuration, there)
            ]
            for place in RunsOn
        }
    assert {place for place, (before, after) in keys.items() if before != after} == {RunsOn.DEVICE}
    assert context.executor.configuration["runner"] == context.client.runner_digest


def test_a_step_on_a_device_waits_for_what_is_measured_there_and_others_do_not(project: Path) -> None:
    waits = 0

    def check() -> None:
        nonlocal waits
        waits += measuring
        if measuring and waits > 5:
            raise Interrupted("it waits")

    measuring = False
    with open_build(load_project(project), Options(), progress=NoProgress(), check=check) as context:
        with measurement_lock("another build"):
            measuring = True
            context.run(nothing(RunsOn.HOST), {}, label="host")
            context.run(nothing(RunsOn.HOST_KERNELS), {}, label="kernels")
            with pytest.raises(Interrupted, match="it waits"):
                context.run(nothing(RunsOn.DEVICE), {}, label="device")
            measuring = False
        with hold_device(context.client, "this build"):
            assert not context.run(nothing(RunsOn.DEVICE), {}, label="device").reused
        with measurement_lock("another build"):
            assert context.run(nothing(RunsOn.DEVICE), {}, label="device").reused, "what is stored needs no device"
    assert context.client.held == "not"
