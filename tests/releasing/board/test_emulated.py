"""The emulated Arm board checks, installs and rolls back a release by itself, and refuses one for another board."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edgebuild.core.files import cache_home
from edgebuild.devices.emulator.setup import read_host, set_up
from edgebuild.errors import EnvironmentGap

from .bundles import HERE, Maker, make_key, release
from .script import verify

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@pytest.fixture(scope="module")
def arm() -> str:
    """The Python of an emulated Cortex-A76, or a skip with the reason."""
    try:
        return str(set_up(cache_home()).python("cortex-a76"))
    except EnvironmentGap as error:
        pytest.skip(error.message)


@pytest.mark.proof
def test_an_arm_board_verifies_installs_and_rolls_back(arm: str, tmp_path: Path, real: Mapping[str, bytes]) -> None:
    key = make_key(tmp_path, "team")
    needs = {**HERE, "architecture": "aarch64", "isa": ["asimd", "asimddp"], "runtime_version": read_host().runtime}
    words = ("--root", tmp_path / "root", "--key", key.public, "--python", arm)
    for version in ("1.0", "1.1"):
        maker = Maker({"pi": (real, release(version=version, requires=needs))}, by=(key,))
        ended = verify(tmp_path, "install", maker.make(tmp_path / version), *words, python=arm)
        assert (ended.code, ended.report.get("version")) == (0, version), ended
    ended = verify(tmp_path, "roll-back", "--root", tmp_path / "root", "--python", arm, python=arm)
    assert (ended.code, ended.report["version"]) == (0, "1.0")
    assert verify(tmp_path, "status", "--root", tmp_path / "root", python=arm).code == 0
    far = Maker({"pi": (real, release(version="2.0", requires={**needs, "isa": ["sve9"]}))}, by=(key,))
    ended = verify(tmp_path, "install", far.make(tmp_path / "far"), *words, python=arm)
    assert (ended.code, ended.message) == (7, "Target pi is for another device: the CPU lacks sve9.")
