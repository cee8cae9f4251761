from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from edgebuild.building.record import find_build, load_record
from edgebuild.catalogue.project import load_project
from edgebuild.pipeline import build
from edgebuild.releasing.creating import create
from edgebuild.releasing.values import BuildFolder
from tests.cli.example import QUICK_PROFILE, write_project, write_quick
from tests.releasing.board.script import verify
from tests.releasing.test_bundle import QUICK

from .loader import RUNTIMES, build_example

if TYPE_CHECKING:
    from pathlib import Path

OPENVINO_PROFILE = """\
title = "OpenVINO, one candidate"
backend = "openvino"
requires_arch = ["x86_64", "aarch64"]
precisions = ["fp32"]

[[settings]]
hint = "latency"
threads = 1
"""
PROFILES = {"onnxruntime": QUICK_PROFILE, "openvino": OPENVINO_PROFILE}


@pytest.fixture(scope="session")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example program, with both runtimes and, where the compiler has them, sanitizers."""
    return build_example(tmp_path_factory.mktemp("cpp"))


@pytest.fixture(scope="session", params=RUNTIMES)
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release of the tiny project for a runtime."""
    project = write_project(tmp_path_factory.mktemp("built") / "project")
    write_quick(project, profile=PROFILES[request.param])
    (record,) = build(load_project(project), QUICK)
    found = BuildFolder(home=project / ".edgebuild", folder=find_build(project / ".edgebuild"), record=record)
    assert load_record(found.folder) == record
    return create([found], tmp_path_factory.mktemp("bundles") / "tiny-1.0", version="1.0").layout.folder


@pytest.fixture(scope="session")
def installed(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that it was installed in by ``verify.py``. Only to be copied."""
    folder = tmp_path_factory.mktemp("installed")
    ended = verify(folder, "install", bundle, "--root", folder / "root")
    assert ended.code == 0, ended
    return folder / "root"


@pytest.fixture
def root(installed: Path, tmp_path: Path) -> Path:
    return shutil.copytree(installed, tmp_path / "root", symlinks=True)


@pytest.fixture
def slot(installed: Path, tmp_path: Path) -> Path:
    """The files of a release where no manifest of a slot lies next to them, so that a test can change what they say."""
    return shutil.copytree((installed / "current").resolve(), tmp_path / "slot")
