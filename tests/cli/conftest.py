from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .example import copy, run, write_project

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def built_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny project, built. Only to be copied."""
    folder = write_project(tmp_path_factory.mktemp("tiny") / "project")
    ended = run("build", cwd=folder)
    assert ended.code == 0, ended
    return folder


@pytest.fixture
def built(built_once: Path, tmp_path: Path) -> Path:
    """The tiny project, built, for one test alone."""
    return copy(built_once, tmp_path / "project")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The tiny project, never built."""
    return write_project(tmp_path / "project")
