"""What tests need besides what `make setup` brings, and the one command that brings what a run lacked.

A test that lacks a package is skipped with a reason of one form: ``needs WHAT (TOOL: PACKAGE), …``. The end of a run
sums these up. What no package brings (root, a CPU's instructions, a network) is an ordinary skip.
"""

from __future__ import annotations

import functools
import importlib.util
import re
import shutil
import subprocess
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Where Debian has what only root runs: not on everybody's PATH.
ROOTS_PROGRAMS = "/usr/sbin:/sbin"
COMMANDS = {
    "apt": "apt-get update && apt-get install -y {}",
    "pip": ".venv/bin/python -m pip install {}",
    "pyenv": "pyenv install --skip-existing {}",
    "git": "git clone --depth 1 {} && export ONNXRUNTIME_INCLUDE_DIR=$PWD/onnxruntime/include/onnxruntime/core/session",
}


@dataclass(frozen=True)
class Need:
    """Something that is lacking, and the package that brings it; ``tool`` is a key of ``COMMANDS``."""

    what: str
    tool: str
    package: str

    def __str__(self) -> str:
        return f"{self.what} ({self.tool}: {self.package})"


def where(program: str) -> str | None:
    """Return the path of a program, root's included, or None."""
    return shutil.which(program) or shutil.which(program, path=ROOTS_PROGRAMS)


def program(name: str, package: str) -> Need | None:
    """Return the need of a program of a Debian package, or None where it is there."""
    return None if where(name) else Need(name, "apt", package)


def module(name: str, requirement: str) -> Need | None:
    """Return the need of a Python package that pip brings, or None where it is there. Imports nothing."""
    top = name.partition(".")[0]
    return None if importlib.util.find_spec(top) else Need(top, "pip", requirement)


def python(version: str) -> str | None:
    """Return a real Python of that version, or None. Pyenv's shims aren't: they fail where it isn't chosen."""
    found = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    for path in [*map(str, found), shutil.which(f"python{version}")]:
        if path and subprocess.run([path, "--version"], capture_output=True, check=False).returncode == 0:
            return path
    return None


def python_need(version: str) -> Need | None:
    """Return the need of a Python of that version, or None where it is there."""
    return None if python(version) else Need(f"Python {version}", "pyenv", version)


def reason(*lacking: Need | None) -> str:
    """Return the reason of a skip for want of these, or nothing where nothing is lacking."""
    found = [str(need) for need in lacking if need is not None]
    return f"needs {', '.join(found)}" if found else ""


def marked(*lacking: Need | None) -> pytest.MarkDecorator:
    """Return the mark of tests that are skipped where one of these is lacking."""
    why = reason(*lacking)
    return pytest.mark.skipif(bool(why), reason=why or "nothing is lacking")


def skip_without(*lacking: Need | None) -> None:
    """Skip the test, or the module, where one of these is lacking."""
    if why := reason(*lacking):
        pytest.skip(why, allow_module_level=True)


@functools.cache
def no_namespaces() -> str:
    """Return why there can be no mount namespace of a test's own on this machine, or nothing."""
    if why := reason(program("unshare", "util-linux")):
        return why
    done = subprocess.run(["unshare", "-rm", "true"], check=False, capture_output=True)
    return "" if done.returncode == 0 else "this machine allows no mount namespaces"


def summary(reasons: Iterable[str]) -> str:
    """Return the line that says what such skips lacked and what brings it; nothing where no package would."""
    lacked: dict[str, set[str]] = defaultdict(set)
    whats: dict[str, None] = {}
    skips = 0
    for each in reasons:
        _, starts, listed = each.partition("needs ")
        found = re.findall(r"([^(),]+) \((\w+): ([^)]+)\)(?:, )?", listed) if starts else []
        skips += bool(found)
        for what, tool, package in found:
            whats[what] = None
            lacked[tool].update(package.split())
    if not skips:
        return ""
    commands = [text.format(" ".join(sorted(lacked[tool]))) for tool, text in COMMANDS.items() if lacked[tool]]
    return f"{skips} skipped for want of {', '.join(whats)}. This brings what they need: {' && '.join(commands)}"
