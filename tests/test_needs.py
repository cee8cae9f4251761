"""What a run lacked is said in its last lines, with the one command that brings it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from . import needs

ROOT = Path(__file__).resolve().parents[1]
#: A machine whose PATH has no sshd, neither for users nor for root.
HIDDEN = """
import sys
import pytest
from tests import needs
needs.ROOTS_PROGRAMS = ""
sys.exit(pytest.main(["-p", "no:cacheprovider", "tests/devices/test_ssh.py", "tests/devices/test_hold.py"]))
"""


def test_a_hidden_sshd_is_one_line_with_its_command() -> None:
    folders = [folder for folder in os.environ["PATH"].split(os.pathsep) if not (Path(folder) / "sshd").exists()]
    done = subprocess.run(
        [sys.executable, "-c", HIDDEN],
        cwd=ROOT,
        env={**os.environ, "PATH": os.pathsep.join(folders)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "for want of" in line]
    assert " skipped for want of sshd" in line
    assert "apt-get install -y openssh-server" in line


def test_several_needs_are_one_line_and_one_command() -> None:
    sshd, ip = needs.Need("sshd", "apt", "openssh-server"), needs.Need("ip", "apt", "iproute2")
    rtx, sounds = needs.Need("tensorrt_rtx", "pip", "tensorrt-rtx-cu13"), needs.Need("the sounds", "apt", "a b")
    reasons = [needs.reason(sshd, None, ip), needs.reason(sshd), needs.reason(rtx), needs.reason(sounds)]
    found = needs.summary([*(f"Skipped: {each}" for each in reasons), "Skipped: the runner would ask sudo (root: no)"])
    assert found.startswith("4 skipped for want of sshd, ip, tensorrt_rtx, the sounds. ")
    assert found.endswith(
        ": apt-get update && apt-get install -y a b iproute2 openssh-server "
        "&& .venv/bin/python -m pip install tensorrt-rtx-cu13"
    )


def test_nothing_is_said_where_no_package_would_help() -> None:
    assert needs.reason(None, None) == ""
    assert needs.summary(["Skipped: boards are network namespaces, which need Linux and root", "Skipped: "]) == ""


def test_there_is_one_way_to_lack_a_package() -> None:
    """What pytest says of a module that is lacking tells the last line nothing."""
    for path in (ROOT / "tests").rglob("*.py"):
        assert path == Path(__file__) or "importorskip" not in path.read_text(), path
