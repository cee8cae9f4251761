"""What a build on an emulated device says and refuses to say. This machine computes; that it emulates is its word only.

The kernels are this machine's, so that no QEMU is needed: how emulated results are treated is what is tested, not what
they are.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edgebuild.benching.bench import BenchRequest, run_bench
from edgebuild.building import splits, targets
from edgebuild.building.context import Options
from edgebuild.catalogue.project import load_project
from edgebuild.core.capabilities import EMULATED
from edgebuild.core.measurement import Measurements
from edgebuild.core.objective import OBJECTIVES
from edgebuild.core.steps import NoProgress, never_stop
from edgebuild.core.verdict import Outcome, Verdict
from edgebuild.devices.local import LocalDevice
from edgebuild.errors import ConfigError, EnvironmentGap, UsageError
from edgebuild.fleet.inventory import DeviceEntry, load_inventory, save_entry
from edgebuild.fleet.provider import InventoryProvider
from edgebuild.judging.outcomes import standing
from edgebuild.pipeline import build, plan
from edgebuild.reporting.html import render
from edgebuild.reporting.sentences import evidence, not_proven, verdict_sentence
from tests.cli.example import write_project
from tests.golden import assert_golden

if TYPE_CHECKING:
    from edgebuild.core.record import BuildRecord
    from edgebuild.devices.transport import Device


class Pretending(LocalDevice):
    """This machine, saying that it is emulated."""

    capabilities = EMULATED


def entry(**fields: object) -> DeviceEntry:
    return DeviceEntry.model_validate(
        {"name": "pretending", "target": "quick", "kind": "emulator", "core": "max", **fields}
    )


@pytest.fixture
def devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An inventory with one emulator."""
    monkeypatch.setenv("EDGEBUILD_DEVICES", str(tmp_path / "devices.toml"))
    save_entry(entry())
    return tmp_path / "devices.toml"


class Here(InventoryProvider):
    """The devices of the inventory, each of which is this machine."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def connect(self, entry: DeviceEntry) -> Device:
        return Pretending(self._folder / "device", name=entry.name)


def built(folder: Path, tables: dict[str, str]) -> BuildRecord:
    project = load_project(write_project(folder, tables))
    (record,) = build(project, Options(), devices=Here(folder))
    return record


@pytest.fixture
def few_frames(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(splits, "sample_frames", lambda _: 300)
    return 300


def test_accuracy_stands_as_emulated_and_speed_stays_open(devices: Path, tmp_path: Path, few_frames: int) -> None:
    record = built(tmp_path / "project", {"limits": "latency_p50_ms = 100.0"})
    assert record.outcome == "inconclusive"
    assert record.chosen is None
    assert "300 of 400 validation frames and 300 of 401 test frames" in emulated_text(record)
    (candidate,) = record.candidates
    for verdict in (candidate.validation, candidate.test):
        assert verdict is not None
        assert verdict.emulated
        assert verdict.drop is not None
        assert verdict.drop.samples == few_frames
        assert verdict.reasons[0].startswith("emulated: ")
    assert candidate.validation is not None
    assert candidate.validation.outcome is Outcome.ACCEPTED
    assert candidate.test is not None
    assert [check.measured for check in candidate.test.limits] == [None]
    assert EMULATED.why in candidate.reason
    assert candidate.measured.latency is None
    assert candidate.screened == Measurements()
    assert candidate.measured.energy is None
    assert candidate.measured.memory is not None
    assert candidate.measured.memory.emulated
    assert candidate.measured.emulation is not None
    assert candidate.measured.emulation.parity is not None
    assert candidate.measured.emulation.parity < 1e-5
    assert candidate.measured.emulation.not_counted
    assert not (tmp_path / "project" / ".edgebuild" / "measurements").exists()
    assert_marked(record)
    # What was emulated names this machine's CPU here.
    assert_golden(record.model_dump(mode="json"), "emulated", without=("emulated",))


def emulated_text(record: BuildRecord) -> str:
    return record.emulated.text if record.emulated else ""


def assert_marked(record: BuildRecord) -> None:
    from rich.console import Console

    from edgebuild.reporting.terminal import comparison_table, explain, summary

    for shown in (summary(record), explain(record, record.candidates[0].id), comparison_table([record])):
        console = Console(width=200, record=True, file=Path("/dev/null").open("w"))  # noqa: SIM115
        console.print(shown)
        assert "emulated" in console.export_text().lower()
        console.file.close()
    page = render(record, {})
    assert "(emulated)" in page
    assert verdict_sentence(record).startswith("Emulated (")
    assert "board" in not_proven(record)[0]
    drop = record.candidates[0].test.drop if record.candidates[0].test else None
    assert drop is not None
    assert "emulated test samples" in evidence(drop, record)


def test_a_size_can_be_chosen_since_it_needs_no_board(devices: Path, tmp_path: Path, few_frames: int) -> None:
    record = built(tmp_path / "project", {"build": 'targets = ["quick"]\nthreads = 1\nobjective = "size"'})
    assert record.outcome == "ok"
    assert record.chosen == "quick/fp32"
    assert_marked(record)


def test_the_keys_of_what_ran_on_it_say_that_it_was_emulated(devices: Path, tmp_path: Path, few_frames: int) -> None:
    built(tmp_path / "project", {})
    entries = (tmp_path / "project" / ".edgebuild" / "store" / "entries").iterdir()
    parts = [text for text in (path.read_text() for path in entries) if '"emulated"' in text]
    kinds = {
        kind for kind in ("evaluate-artifact", "onnxruntime-optimize", "profile-emulated") for p in parts if kind in p
    }
    assert kinds == {"evaluate-artifact", "onnxruntime-optimize", "profile-emulated"}


def test_a_plan_says_how_much_is_looked_at_and_times_nothing(devices: Path, tmp_path: Path, few_frames: int) -> None:
    save_entry(entry(facts={"arch": "x86_64", "emulated": "yes"}))
    (planned,) = plan(load_project(write_project(tmp_path / "project")))
    assert any("emulated" in note and "300 frames" in note for note in planned.notes)
    assert {cost.seconds for cost in planned.costs if cost.stage in ("screen", "certify")} == {0.0}


def test_nothing_is_benched_on_it(devices: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = write_project(tmp_path / "project") / "model.onnx"
    request = BenchRequest(model=model, device="pretending")
    with pytest.raises(EnvironmentGap, match="emulated"):
        run_bench(request, progress=NoProgress(), check=never_stop, devices=Here(tmp_path))


def test_a_board_of_the_target_goes_before_its_emulator(devices: Path, tmp_path: Path) -> None:
    project = load_project(write_project(tmp_path / "project"))
    assert _device(project) == "pretending"
    save_entry(DeviceEntry(name="board", target="quick", address="pi@board", host_keys=("ssh-ed25519 AAAA",)))
    assert _device(project) == "board"
    save_entry(entry(name="second"))
    assert _device(project) == "board"


def test_of_two_emulators_one_must_be_named(devices: Path, tmp_path: Path) -> None:
    project = load_project(write_project(tmp_path / "project"))
    save_entry(entry(name="second"))
    with pytest.raises(UsageError, match="pretending, second"):
        _device(project)


def _device(project: object) -> str:
    from edgebuild.catalogue.project import Project

    assert isinstance(project, Project)
    found = targets.device_of("quick", project, Options(), {}, InventoryProvider())
    assert found is not None
    return found.name


@pytest.mark.parametrize("text", ['kind = "emulator"', 'kind = "ssh"\ncore = "max"\naddress = "a@b"', 'core = "max"'])
def test_an_entry_is_a_board_or_an_emulator(text: str, devices: Path) -> None:
    devices.write_text(f'[devices.x]\ntarget = "quick"\n{text}\n')
    with pytest.raises(ConfigError):
        load_inventory()


def test_an_emulator_is_written_as_it_is_read(devices: Path) -> None:
    assert load_inventory()["pretending"] == entry()
    assert json.dumps("emulator") in devices.read_text()


def test_a_refusal_stands_and_an_acceptance_waits_for_a_board() -> None:
    refused = Verdict(outcome=Outcome.REFUSED, reasons=("beyond the budget",))
    accepted = Verdict(outcome=Outcome.ACCEPTED, reasons=("inside",))
    assert standing(refused, OBJECTIVES["latency"], EMULATED) == refused
    assert standing(accepted, OBJECTIVES["size"], EMULATED) == accepted
    for objective in OBJECTIVES.values():
        if objective.in_files:
            continue
        assert standing(accepted, objective, EMULATED).outcome is Outcome.INCONCLUSIVE


def test_a_larger_model_is_looked_at_on_fewer_frames() -> None:
    few, many = splits.sample_frames(2_000_000_000), splits.sample_frames(1_000_000)
    assert splits.LEAST_FRAMES == few < many
