"""An emulated Arm device among a farm's: a build there says what it says where the device is the user's own."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

import pytest

from edgebuild.building.context import Options
from edgebuild.catalogue.project import load_project
from edgebuild.core.files import cache_home
from edgebuild.devices.emulator.setup import set_up
from edgebuild.errors import EnvironmentGap
from edgebuild.farm import shelf
from edgebuild.farm.blobs import Blobs
from edgebuild.farm.server.farm import Farm
from edgebuild.farm.values import BEAT_S
from edgebuild.fleet.inventory import load_inventory
from edgebuild.pipeline import build
from tests.cli.example import run, write_project
from tests.devices.test_emulator import PROFILE, TARGET
from tests.farm.relays import HOST, stock
from tests.farm.serving import served
from tests.farm.test_farm_builds import Hosted, told_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from edgebuild.farm.database import Database


def write_arm_project(folder: Path) -> Path:
    project = write_project(folder)
    for kind, text in (("targets", TARGET), ("profiles", PROFILE)):
        (project / kind / "quick.toml").write_text(text)
    return project


@contextlib.contextmanager
def beating(farm: Farm) -> Iterator[None]:
    """Say for the host that it is there, as its agent does: an emulated build outlasts its silence."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(BEAT_S):
            farm.do(lambda db, now: shelf.seen(db, HOST, now))

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.proof
def test_an_emulated_arm_device_of_a_farm_says_what_it_says_without_one(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        set_up(cache_home())
    except EnvironmentGap as error:
        pytest.skip(error.message)
    monkeypatch.setenv("EDGEBUILD_DEVICES", str(tmp_path / "devices.toml"))
    near, far = write_arm_project(tmp_path / "near"), write_arm_project(tmp_path / "far")
    added = run("device", "add", "farms-arm", "--target", "quick", "--emulator", "--project", str(near), cwd=near)
    assert added.code == 0, added
    entry = load_inventory()["farms-arm"]
    farm = Farm(database, Blobs(tmp_path / "blobs"))
    with served(farm) as url:
        provider = Hosted(stock(farm, url, [entry]), entry)
        with beating(farm), provider.stack, contextlib.closing(provider):
            (through_farm,) = build(load_project(far), Options(), devices=provider)
    (directly,) = build(load_project(near), Options())
    for record in (through_farm, directly):
        assert record.emulated is not None
        assert "Cortex-A72" in record.emulated.text
        assert record.outcome == "inconclusive"
        assert all(candidate.measured.latency is None for candidate in record.candidates)
    assert through_farm.device.startswith("farm-")
    assert told_of(through_farm) == told_of(directly)
