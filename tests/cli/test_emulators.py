"""`edgebuild device add --emulator`: what is refused before anything is fetched."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.cli.example import refused

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def inventory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEBUILD_DEVICES", str(tmp_path / "devices.toml"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "devices.toml"


@pytest.mark.parametrize("how", [(), ("--ssh", "pi@board", "--emulator"), ("--local", "--emulator")])
def test_a_device_is_behind_ssh_or_emulated(how: tuple[str, ...], inventory: Path, tmp_path: Path) -> None:
    refused(
        tmp_path,
        *("device", "add", "pi", "--target", "raspberry-pi-5", *how),
        code=2,
        message="A device is either behind --ssh user@host, or an --emulator, or --local.",
        hint="Give one of the three.",
    )
    assert not inventory.exists()


def test_a_target_without_a_core_cant_be_emulated(inventory: Path, tmp_path: Path) -> None:
    refused(
        tmp_path,
        *("device", "add", "nano", "--target", "jetson-orin-nano-8gb", "--emulator"),
        code=2,
        message="jetson-orin-nano-8gb can't be emulated: its facts name no emulator_core.",
        hint="These can be: generic-aarch64, generic-aarch64-dotprod, raspberry-pi-4, raspberry-pi-5.",
    )
    assert not (tmp_path / "cache" / "edgebuild" / "emulator").exists()
