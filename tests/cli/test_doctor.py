"""`doctor`: what it advises fits the machine that it runs on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edgebuild.backends.table import backends
from edgebuild.cli.doctor import GAP, NOTE, _backends, _machine, _tools, _unfit

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

X86 = {"arch": "x86_64", "isa": "avx2 avx512_vnni"}
PI = {"arch": "aarch64", "isa": "asimd asimddp"}


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for backend in backends().values():
        monkeypatch.setattr(type(backend), "installed", lambda _: None)


@pytest.mark.usefixtures("nothing_installed")
@pytest.mark.parametrize(
    ("probe", "fits"),
    [
        (X86, {"onnxruntime", "openvino"}),
        ({**X86, "isa": "sse4_2"}, set()),
        (PI, {"onnxruntime", "tensorrt"}),
        ({}, {"onnxruntime", "openvino", "tensorrt"}),
    ],
)
def test_only_runtimes_that_a_profile_uses_on_this_cpu_are_gaps(probe: Mapping[str, str], fits: set[str]) -> None:
    rows = list(_backends(backends(), _unfit(probe)))
    assert {what.removeprefix("backend ") for state, what, _, _ in rows if state == GAP} == fits
    assert all(advice.startswith("nothing: it ") for state, _, _, advice in rows if state == NOTE)


def test_what_quantises_for_a_runtime_is_no_gap_where_that_has_no_use(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import metadata

    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    assert "nncf" in {what for _, what, _, _ in _tools(_unfit(X86))}
    assert "nncf" not in {what for _, what, _, _ in _tools(_unfit(PI))}


def advice(probe: Mapping[str, str], sysfs: Path) -> dict[str, str]:
    return {what: advice for _, what, _, advice in _machine(probe, sysfs)}


def test_clocks_are_to_be_set_only_where_they_can_be(tmp_path: Path) -> None:
    assert "virtual machine" in advice({"virtualised": "yes"}, tmp_path)["clock governor"]
    assert advice({"governor": "powersave"}, tmp_path)["clock governor"].startswith("nothing")
    clocks = tmp_path / "devices/system/cpu/cpu0/cpufreq"
    clocks.mkdir(parents=True)
    (clocks / "scaling_available_governors").write_text("performance powersave\n")
    assert "tee" in advice({"governor": "powersave"}, tmp_path)["clock governor"]
    assert advice({"governor": "performance"}, tmp_path)["clock governor"] == ""


def test_a_sensor_is_to_be_made_readable_only_where_there_is_one(tmp_path: Path) -> None:
    assert advice(X86, tmp_path)["energy sensor"].startswith("nothing")
    counter = tmp_path / "class/powercap/intel-rapl:0/energy_uj"
    counter.parent.mkdir(parents=True)
    counter.write_text("1")
    assert "chmod" in advice(X86, tmp_path)["energy sensor"]
    assert advice({**X86, "power_sensor": "powercap package-0"}, tmp_path)["energy sensor"] == ""


def test_weights_of_seven_bits_are_told_where_products_saturate(tmp_path: Path) -> None:
    assert "7 bits" in advice({"arch": "x86_64", "isa": "avx2"}, tmp_path)["int8 dot product"]
    assert "7 bits" not in advice({"arch": "aarch64", "isa": "asimd"}, tmp_path)["int8 dot product"]
    assert advice(PI, tmp_path)["int8 dot product"] == ""
