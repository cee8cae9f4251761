"""What a Jetson says of itself in files. No board was seen: the files are written after what is named beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgebuild.devices.probe import CONFIGURATION_WHERE_KNOWN, configuration_of
from edgebuild.devices.runner import facts, jetson
from edgebuild.devices.runner.machine import Machine

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

#: By path. Transcribed: the CPU's clocks from `jetson_clocks --show` of an Orin NX,
#: https://github.com/open-rdc/orne-box/issues/121; the GPU's folder, https://github.com/rbonghi/jetson_stats/pull/867.
#: The release file, nvpmodel's files and dpkg's are written in the form that they are believed to have.
ORIN_NX = {
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: …\n",
    "var/lib/nvpmodel/status": "pmode:0002\n",
    "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=2 NAME=15W >\nCPU_ONLINE CORE_0 1\n",
    "var/lib/dpkg/status": (
        "Package: nvidia-jetpack-runtime\nStatus: install ok installed\nVersion: 0\n\n"
        "Package: nvidia-jetpack\nStatus: install ok installed\nVersion: 6.2+b77\n\n"
    ),
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_min_freq": "729600\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq": "1984000\n",
    "sys/class/devfreq/17000000.gpu/governor": "nvhost_podgov\n",
    "sys/class/devfreq/17000000.gpu/min_freq": "306000000\n",
    "sys/class/devfreq/17000000.gpu/max_freq": "918000000\n",
}


def board(root: Path, **changes: str) -> Machine:
    for name, text in {**ORIN_NX, **changes}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return Machine(str(root))


def test_release_power_mode_and_clocks_are_read(tmp_path: Path) -> None:
    found = facts.describe(board(tmp_path))
    assert found["l4t"] == "36.4.3"
    assert found["jetpack"] == "6.2+b77"
    assert found["power_mode"] == "pmode:0002 (15W)"
    assert found["clocks"] == "stock"
    assert found["gpu_clocks"] == "nvhost_podgov 306000000-918000000"


def test_pinned_clocks_are_another_configuration(tmp_path: Path) -> None:
    before = configuration_of(flat(facts.describe(board(tmp_path))))
    pinned = {
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_min_freq": "1984000",
        "sys/class/devfreq/17000000.gpu/min_freq": "918000000",
    }
    after = configuration_of(flat(facts.describe(board(tmp_path, **pinned))))
    assert {fact.name for fact in set(before) ^ set(after)} == {"clocks", "gpu_clocks"}


def test_thor_keeps_its_gpu_clock_elsewhere(tmp_path: Path) -> None:
    for name, text in (("governor", "nvhost_podgov"), ("min_freq", "315000000"), ("max_freq", "1575000000")):
        path = tmp_path / "sys/class/devfreq/gpu-gpc-0" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert jetson.gpu_clocks(Machine(str(tmp_path))) == "nvhost_podgov 315000000-1575000000"


def test_what_a_runtime_says_is_configuration_too() -> None:
    probe = {
        "gpu_architecture": "8.7",
        "cuda": "12.6",
        "cuda_driver": "12.6",
        "driver": "540.4.0",
        "accelerators": "dla",
    }
    assert {fact.name: fact.value for fact in configuration_of(probe)} == probe


def test_what_a_machine_does_not_have_leaves_its_configuration_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in facts.KERNEL_SWITCHES:
        monkeypatch.delenv(name, raising=False)
    found = flat(facts.describe(Machine(str(tmp_path))))
    without = {name: value for name, value in found.items() if name not in CONFIGURATION_WHERE_KNOWN}
    assert len(without) < len(found)
    assert configuration_of(found) == configuration_of(without)


def flat(found: dict[str, object]) -> dict[str, str]:
    return {name: str(value) for name, value in found.items()}
