"""``verify.py`` is one file of the standard library, made the same way every time, that an old Python runs."""

from __future__ import annotations

import ast
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from edgebuild.releasing.board_script import MODULES, board_script
from tests import needs

from .bundles import tiny
from .script import command, verify

if TYPE_CHECKING:
    from pathlib import Path


def test_it_imports_nothing_but_the_standard_library() -> None:
    imported = set()
    for node in ast.walk(ast.parse(board_script())):
        if isinstance(node, ast.Import):
            imported |= {each.name.partition(".")[0] for each in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add(str(node.module).partition(".")[0])
    assert imported <= sys.stdlib_module_names


def test_no_two_modules_have_a_name_in_common() -> None:
    names = []
    for node in ast.parse(board_script()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.append(node.name)
        elif isinstance(node, ast.Assign):
            targets = [each for target in node.targets for each in ast.walk(target)]
            names += [each.id for each in targets if isinstance(each, ast.Name)]
    assert len(names) > 100
    assert sorted(names) == sorted(set(names))


def test_it_is_the_same_every_time_and_says_what_it_is() -> None:
    text = board_script().decode()
    assert text.encode() == board_script()
    assert text.startswith('#!/usr/bin/env python3\n"""Checks a release on the device')
    assert all(f"\n# {name}.py\n" in text for name in MODULES)
    assert "from ." not in text


def test_it_compiles_on_python_38(tmp_path: Path) -> None:
    needs.skip_without(needs.python_need("3.8"))
    ended = subprocess.run(
        [*command(tmp_path, "check", "--help"), "--json"][:-3], capture_output=True, text=True, check=True
    )
    assert "--no-run" in ended.stdout


@pytest.mark.parametrize(
    "words",
    [
        ["fly"],
        [],
        ["check"],
        ["install", "bundle"],
        ["check", "bundle", "--key", "a", "--policy", "b"],
        ["install", "bundle", "--root", "r", "--keep", "0"],
    ],
)
def test_a_command_that_makes_no_sense(tmp_path: Path, words: list[str]) -> None:
    script = command(tmp_path, "status")[:4]
    ended = subprocess.run([*script, *words], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "usage: verify.py" in ended.stderr


def test_what_is_no_bundle_is_a_sentence(tmp_path: Path) -> None:
    assert verify(tmp_path, "check", tmp_path / "nothing").code == 7
    ended = verify(tmp_path, "check", tmp_path)
    assert (ended.code, ended.report["hint"]) == (7, "Remove it.")
    told = subprocess.run(command(tmp_path, "check", tmp_path), capture_output=True, text=True, check=False)
    assert told.returncode == 7
    assert told.stderr.splitlines()[-1] == "  how to fix it: Remove it."


def test_without_running_anything_it_says_what_is_open(tmp_path: Path) -> None:
    ended = verify(tmp_path, "check", tiny(tmp_path / "bundle"), "--no-run")
    assert ended.code == 0
    assert ended.report["warnings"] == [
        "nobody vouches for this bundle: it is not signed",
        "nothing was run: whether it fits this device and answers right is open",
    ]
