"""Runs ``verify.py`` as a board does: one file, an old Python where there is one, nothing but the standard library."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgebuild.releasing.board_script import board_script
from tests import needs

if TYPE_CHECKING:
    from pathlib import Path

#: What runs verify.py; the runner needs numpy and the runtime, so it runs in this one.
PYTHON = needs.python("3.8") or sys.executable


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, its report, and what it printed."""

    code: int
    report: dict[str, Any]
    out: str
    err: str

    @property
    def message(self) -> str:
        return str(self.report.get("message", ""))


#: One of these says whether the bundle's own runner may be run.
SAID = {"--key", "--policy", "--no-run", "--trust-unsigned"}


def command(folder: Path, *words: object, python: str = PYTHON, trusting: bool = True) -> list[str]:
    """Return the words of a command that may run what is in the bundle: ``trusting``, also without a key."""
    script = folder / "verify.py"
    if not script.exists():
        script.write_bytes(board_script())
    runs = [] if words[0] == "status" or "--python" in words else ["--python", sys.executable]
    if trusting and words[0] in ("check", "install") and not SAID & set(map(str, words)):
        runs = ["--trust-unsigned", *runs]
    return [python, "-S", "-B", str(script), *map(str, words), *runs]


def verify(folder: Path, *words: object, python: str = PYTHON, trusting: bool = True) -> Ended:
    """Run a command with a report in JSON; the script lies in ``folder``."""
    line = [*command(folder, *words, python=python, trusting=trusting), "--json"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=600, check=False)
    report = json.loads(done.stdout) if done.stdout.startswith("{") else {}
    assert "Traceback" not in done.stderr, done.stderr
    assert report.get("exit_code", 2) == done.returncode, done
    return Ended(done.returncode, report, done.stdout, done.stderr)
