"""One package brings a technique, a quantiser, a metric, a backend and a kind of device; edgebuild knows none."""

from __future__ import annotations

import ast
import importlib
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from edgebuild.backends.table import backends
from edgebuild.fleet.connect import connect
from edgebuild.fleet.inventory import DeviceEntry, save_entry
from edgebuild.judging.metrics import named_metric
from edgebuild.quantisers.registry import quantiser
from edgebuild.techniques.registry import techniques_by_name
from edgebuild.testing.devices import check_device
from edgebuild.testing.techniques import check_technique
from tests.cli.example import newest, record, run, write_project

if TYPE_CHECKING:
    from types import ModuleType

PACKAGE = Path(__file__).parent / "everything"
ENTRY_POINTS = """\
[edgebuild.techniques]
halve = everything:Halve
[edgebuild.quantisers]
copying = everything:copying
[edgebuild.metrics]
sure_accuracy = everything:sure_accuracy
[edgebuild.backends]
plain = everything:Plain
[edgebuild.devices]
shelf = everything:shelf
"""
PROFILE = """\
title = "Plain"
backend = "plain"
requires_arch = ["x86_64", "aarch64"]
precisions = ["fp32", "int8"]
quantisers = ["copying"]

[[int8]]
schemes = [{ activations = "uint8", weights = "int8" }]
source = "a test"
date = "2026-11-30"
verified = "believed"

[[settings]]
threads = 1
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Lay out what installing the package lays out."""
    info = tmp_path / "site" / "everything-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: everything\nVersion: 1\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    (tmp_path / "site" / "everything").symlink_to(PACKAGE)
    return tmp_path / "site"


@pytest.fixture
def everything(site: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(site))
    for name in [name for name in sys.modules if name.partition(".")[0] == "everything"]:
        monkeypatch.delitem(sys.modules, name)
    return importlib.import_module("everything")


def test_it_imports_one_module_of_edgebuild() -> None:
    for path in PACKAGE.glob("*.py"):
        nodes = ast.walk(ast.parse(path.read_text("utf-8")))
        found = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
        assert {name for name in found if name.startswith("edgebuild")} <= {"edgebuild.plugins"}


def test_each_is_found_by_its_name(everything: Any, tmp_path: Path) -> None:
    assert techniques_by_name()["halve"] is everything.Halve
    assert quantiser("copying") is everything.copying
    assert named_metric("sure_accuracy").scale == (0.0, 1.0)
    assert isinstance(backends()["plain"], everything.Plain)
    entry = DeviceEntry(name="mine", target="t", kind="shelf", address=str(tmp_path / "shelf"))
    assert connect(entry).id == "shelf mine"


def test_technique_and_device_keep_their_contracts(everything: Any, tmp_path: Path) -> None:
    check_technique(everything.Halve, tmp_path / "net", layer="7", next="9")
    device = everything.shelf(DeviceEntry(name="m", target="t", kind="shelf", address=str(tmp_path / "shelf")))
    check_device(device, tmp_path)


@pytest.mark.proof
def test_a_build_with_all_of_them(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device of that kind, compiled by that backend, quantised by that quantiser, judged by that metric."""
    project = write_project(tmp_path / "project", {"metric": 'name = "sure_accuracy"'})
    (project / "profiles" / "plain.toml").write_text(PROFILE)
    (project / "targets" / "quick.toml").write_text('title = "Shelf"\nprofiles = ["plain"]\n')
    monkeypatch.setenv("EDGEBUILD_DEVICES", str(tmp_path / "devices.toml"))
    save_entry(DeviceEntry(name="mine", target="quick", kind="shelf", address=str(tmp_path / "shelf")))
    paths = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {"PYTHONPATH": paths, "EDGEBUILD_DEVICES": str(tmp_path / "devices.toml")}
    ended = run("build", cwd=project, env=env)
    assert ended.code == 0, ended
    found = record(project)
    assert found["device"] == "shelf mine"
    assert {candidate["spec"]["backend"] for candidate in found["candidates"]} == {"plain"}
    labels = {candidate["spec"]["precision"]["quantiser"] for candidate in found["candidates"]}
    assert labels == {None, "copying"}
    assert {candidate["validation"]["drop"]["metric"] for candidate in found["candidates"]} == {"sure_accuracy"}
    assert json.loads((newest(project) / "artifact" / "artifact.json").read_bytes())["backend"] == "plain"
    ended = run("device", "provision", "mine", cwd=project, env=env)
    assert "mine is a device of kind shelf" in ended.err
    ended = run("device", "remove", "mine", "--files", cwd=project, env=env)
    assert "What edgebuild put on mine stays" in ended.err
