"""The emulator itself: real aarch64 Python and ONNX Runtime under QEMU. Set up once into the user's cache."""

from __future__ import annotations

import os
import shutil
import signal
from typing import TYPE_CHECKING

import pytest

from edgebuild.backends.table import TABLE
from edgebuild.building.record import load_record
from edgebuild.core.files import cache_home
from edgebuild.devices.client import RunnerClient
from edgebuild.devices.emulator import recipe
from edgebuild.devices.emulator.device import EmulatedDevice
from edgebuild.devices.emulator.setup import Emulator, read_host, set_up
from edgebuild.devices.probe import read_probe
from edgebuild.errors import EnvironmentGap
from edgebuild.testing.devices import check_device
from tests.cli.example import newest, run, write_project
from tests.devices.test_client import gone
from tests.devices.test_pausing import WAIT_S, is_still, keeper_of, started

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FILES: Mapping[str, Path] = {backend.name: backend.device_file for backend in TABLE}
#: An Arm target with one int8 scheme: a build of few steps, each of which starts Python under QEMU.
TARGET = """\
title = "An Arm core, for tests"
profiles = ["quick"]
[facts.arch]
value = "aarch64"
source = "a test"
date = "2026-11-25"
verified = "believed"
[facts.known_as]
value = "A board with a name"
source = "a test"
date = "2026-11-25"
verified = "believed"
[facts.emulator_core]
value = "cortex-a72"
source = "a test"
date = "2026-11-25"
verified = "believed"
"""
PROFILE = """\
title = "ONNX Runtime, two precisions"
backend = "onnxruntime"
requires_arch = ["aarch64"]
precisions = ["fp32", "int8"]
quantisers = ["onnxruntime"]

[[int8]]
schemes = [{ activations = "int8", weights = "int8" }]
source = "a test"
date = "2026-11-25"
verified = "believed"

[[settings]]
threads = "all"
spinning = true
arena = true
"""


@pytest.fixture(scope="session")
def emulator() -> Emulator:
    """The emulator, or a skip with the reason: another system, or no packages to be had."""
    try:
        return set_up(cache_home())
    except EnvironmentGap as error:
        pytest.skip(error.message)


@pytest.fixture
def device(emulator: Emulator, tmp_path: Path) -> EmulatedDevice:
    return EmulatedDevice("pi", emulator, "cortex-a76", tmp_path / "device")


@pytest.mark.proof
def test_keeps_the_contract(device: EmulatedDevice, tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    check_device(device, tmp_path / "scratch")


def test_says_what_it_emulates_and_nothing_of_the_host(device: EmulatedDevice) -> None:
    assert not device.capabilities.times
    assert "emulated cortex-a76" in device.id
    probe = read_probe(RunnerClient(device, FILES))
    assert probe["emulated"] == "yes"
    assert probe["arch"] == "aarch64"
    assert {"asimddp", "asimdhp"} <= set(probe["isa"].split())
    assert "avx2" not in probe["isa"]
    assert "emulated" in probe["cpu"]
    assert probe["cores"] == "1"
    assert probe["memory_bytes"] == "unknown"
    assert probe["runtime.onnxruntime"] == (read_host().runtime or probe["runtime.onnxruntime"])


def test_a_runner_stands_still_between_its_turns(device: EmulatedDevice) -> None:
    for channel in started(device):
        assert is_still(channel.pid)
        channel.send("burst")
        assert channel.receive(WAIT_S) == '{"event": "burst"}'
        assert is_still(channel.pid)
        os.kill(keeper_of(channel.pid), signal.SIGKILL)
        assert gone(channel.pid)


def test_a_second_set_up_only_opens_it(emulator: Emulator) -> None:
    before = (emulator.folder / "emulator.json").stat()
    assert set_up(cache_home()) == emulator
    assert (emulator.folder / "emulator.json").stat().st_mtime_ns == before.st_mtime_ns


def test_the_system_is_left_as_it_was(emulator: Emulator) -> None:
    assert emulator.folder.is_relative_to(cache_home())
    assert emulator.qemu == (shutil.which("qemu-aarch64") or str(emulator.folder / "qemu/usr/bin/qemu-aarch64"))
    assert emulator.folder.name == read_host().key
    assert recipe.VERSION == 1


@pytest.mark.proof
def test_a_tiny_build_is_marked_and_undecided(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEBUILD_DEVICES", str(tmp_path / "devices.toml"))
    folder = write_project(tmp_path / "project")
    for kind, text in (("targets", TARGET), ("profiles", PROFILE)):
        (folder / kind / "quick.toml").write_text(text)
    added = run("device", "add", "pi", "--target", "quick", "--emulator", "--project", str(folder), cwd=folder)
    assert added.code == 0, added
    assert "emulated quick (Cortex-A72" in added.out
    ended = run("build", cwd=folder)
    assert ended.code == 4, ended
    assert "INCONCLUSIVE (EMULATED)" in ended.out
    assert "says nothing about a board's speed" in " ".join(ended.out.split())
    record = load_record(newest(folder))
    emulated = record.emulated.text if record.emulated else ""
    assert "Cortex-A72" in emulated
    assert "all 400 validation frames and all 401 test frames" in emulated
    plain, int8 = record.candidates
    assert plain.measured.emulation is not None
    assert plain.measured.emulation.parity is not None
    assert plain.measured.emulation.parity < 1e-5
    for candidate in (plain, int8):
        assert candidate.measured.latency is None
        assert candidate.validation is not None
        assert candidate.validation.emulated
        assert candidate.measured.memory is not None
        assert candidate.measured.memory.emulated
        assert 0 < (candidate.measured.memory.emulator_bytes or 0) < candidate.measured.memory.peak_bytes
        assert candidate.measured.emulation is not None
        if not emulator.why_no_counts:
            assert candidate.measured.emulation.total > 10_000
    if not emulator.why_no_counts:
        assert dict(plain.measured.emulation.instructions)["fma_f32"] > 0
        assert int8.measured.emulation is not None
        assert dict(int8.measured.emulation.instructions)["int8_dot"] == 0  # a Cortex-A72 has no dot product
    assert not (folder / ".edgebuild" / "measurements").exists()
    refused = run("bench", str(folder / "model.onnx"), "--device", "pi", cwd=folder)
    assert refused.code == 6
    assert "emulated" in refused.err
