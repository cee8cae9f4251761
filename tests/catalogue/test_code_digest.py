from __future__ import annotations

import importlib.metadata
import shutil
from typing import TYPE_CHECKING

import pytest

from edgebuild.catalogue.code_digest import project_code_digest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "project"
    made.mkdir()
    (made / "data.py").write_text("import hypothesis\nimport helper\n")
    (made / "helper.py").write_text("import json\n")
    return made


def test_it_is_the_code_and_not_the_place_or_other_files(folder: Path, tmp_path: Path) -> None:
    before = project_code_digest(folder)
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "notes.txt").write_text("not code")
    assert project_code_digest(tmp_path / "copy") == before


@pytest.mark.parametrize("name", [".venv", "__pycache__", "data"])
def test_folders_that_are_no_packages_do_not_count(folder: Path, name: str) -> None:
    before = project_code_digest(folder)
    (folder / name / "deeper").mkdir(parents=True)
    (folder / name / "x.py").write_text("1")
    (folder / name / "deeper" / "__init__.py").write_text("1")
    assert project_code_digest(folder) == before


def test_every_change_of_code_counts(folder: Path) -> None:
    digests = {project_code_digest(folder)}
    (folder / "helper.py").write_text("import json\nx = 1\n")
    digests.add(project_code_digest(folder))
    (folder / "sub").mkdir()
    (folder / "sub" / "__init__.py").touch()
    digests.add(project_code_digest(folder))
    (folder / "sub" / "more.py").write_text("def broken(:\n")
    digests.add(project_code_digest(folder))
    (folder / "sub" / "more.py").rename(folder / "sub" / "other.py")
    digests.add(project_code_digest(folder))
    assert len(digests) == 5


def test_the_version_of_what_is_imported_counts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = project_code_digest(folder)
    real = importlib.metadata.version
    asked: list[str] = []

    def version(name: str) -> str:
        asked.append(name)
        return "999" if name == "hypothesis" else real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert project_code_digest(folder) != before
    assert asked == ["hypothesis"], "neither the standard library nor the project's own modules are distributions"


def test_a_module_that_no_distribution_provides_is_missing(folder: Path) -> None:
    before = project_code_digest(folder)
    (folder / "helper.py").write_text("import tiny_not_installed\n")
    assert project_code_digest(folder) != before
