"""The examples for CI systems: their steps are run here in a shell, against a farm with one board."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import yaml

from tests.devices.sshd import board, needs_sshd
from tests.farm.hosting import TARGET
from tests.farm.test_bench import Ground, ground

__all__ = ["board", "ground"]

EXAMPLES = Path(__file__).parents[2] / "examples" / "ci"
INSTALL = "python3 -m pip install 'edgebuild[farm]'"


def read(name: str) -> Any:
    return yaml.safe_load((EXAMPLES / name).read_text(encoding="utf-8"))


def run(ground: Ground, step: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a step as CI systems do. Certifying takes minutes: what is run here screens."""
    command = step.replace("raspberry-pi-5", f"{TARGET} --quick")
    env = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "EDGEBUILD_FARM": ground.url,
        "EDGEBUILD_FARM_TOKEN": ground.token,
        **variables,
    }
    bash = ["bash", "-e", "-o", "pipefail", "-c", command]
    return subprocess.run(bash, cwd=ground.folder, env=env, text=True, capture_output=True, timeout=240, check=False)


def place(ground: Ground, model: str, baseline: str) -> None:
    for name, source in (("model.onnx", model), ("baseline.onnx", baseline)):
        (ground.folder / name).write_bytes((ground.folder / source).read_bytes())


@needs_sshd
def test_a_slower_model_fails_the_github_job_with_an_annotation(ground: Ground) -> None:
    ground.good()
    place(ground, "large.onnx", "small.onnx")
    job = read("github-actions.yml")["jobs"]["bench"]
    install, trust, bench = (step["run"] for step in job["steps"] if "run" in step)
    assert install == INSTALL
    authority = ground.folder / "farm-ca.pem"
    assert run(ground, trust, FARM_CA="-----BEGIN\nPEM", EDGEBUILD_FARM_CA=str(authority)).returncode == 0
    assert authority.read_text(encoding="utf-8") == "-----BEGIN\nPEM\n"
    done = run(ground, bench, GITHUB_ACTIONS="true")
    # A busy machine tells nothing apart; what the example shows then is a warning.
    assert done.returncode in {3, 4}, done.stderr + ground.host.log()
    assert ("::error" if done.returncode == 3 else "::warning") in done.stderr + done.stdout
    failures = ET.parse(ground.folder / "bench.xml").getroot()[0].get("failures")  # noqa: S314  our own text
    assert failures == ("1" if done.returncode == 3 else "0")
    assert job["steps"][-1]["with"]["path"] == "bench.xml"


@needs_sshd
def test_a_faster_model_passes_the_gitlab_job(ground: Ground) -> None:
    ground.good()
    place(ground, "small.onnx", "large.onnx")
    job = read("gitlab-ci.yml")["board"]
    assert job["before_script"] == [INSTALL]
    (script,) = job["script"]
    done = run(ground, script, GITLAB_CI="true")
    assert done.returncode in {0, 4}, done.stderr + ground.host.log()
    assert ET.parse(ground.folder / "bench.xml").getroot()[0].get("failures") == "0"  # noqa: S314  our own text
    assert job["artifacts"]["reports"]["junit"] == "bench.xml"


def test_the_examples_hold_no_secret_and_end_what_a_newer_push_replaces() -> None:
    github, gitlab = read("github-actions.yml"), read("gitlab-ci.yml")["board"]
    assert github["jobs"]["bench"]["env"]["EDGEBUILD_FARM_TOKEN"] == "${{ secrets.EDGEBUILD_FARM_TOKEN }}"  # noqa: S105
    assert github["concurrency"]["cancel-in-progress"]
    assert gitlab["interruptible"]
    assert "EDGEBUILD_FARM_TOKEN" not in gitlab.get("variables", {})
