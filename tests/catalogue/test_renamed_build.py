"""A renamed copy of a target is the same target: a whole build for it makes nothing that wasn't there.

These are proofs; ``test_another_name_for_the_same_facts_changes_nothing`` of tests/integration is their short form.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from edgebuild.catalogue.shipped import shipped_folder
from tests.cli.example import record, run, sessions, stored, write_project

if TYPE_CHECKING:
    from pathlib import Path


def assert_same_build(project: Path, one: str, two: str) -> None:
    """Builds for both; the second finds every key, and so every artifact byte, of the first."""
    first = run("build", "--target", one, cwd=project)
    assert first.code in {0, 4}, first.err  # a noisy machine may leave the speed open
    assert record(project)["target"] == one
    store, measured = stored(project / ".edgebuild" / "store"), sessions(project)
    assert store
    second = run("build", "--target", two, cwd=project)
    assert second.code == first.code, second.err
    assert record(project)["target"] == two
    assert stored(project / ".edgebuild" / "store") == store
    assert sessions(project) == measured


@pytest.mark.proof
def test_a_renamed_copy_of_a_small_target(tmp_path: Path) -> None:
    project = write_project(tmp_path / "project")
    shutil.copy(project / "targets" / "quick.toml", project / "targets" / "zz-mine.toml")
    assert_same_build(project, "quick", "zz-mine")


@pytest.mark.proof
def test_a_renamed_copy_of_this_machine(tmp_path: Path) -> None:
    project = write_project(tmp_path / "project")
    shutil.copy(shipped_folder("targets") / "this-machine.toml", project / "targets" / "zz-mine.toml")
    assert_same_build(project, "this-machine", "zz-mine")
