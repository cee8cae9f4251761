"""The examples for CI systems: their steps are run here in a shell, against a farm with one board."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import yaml

from edgebuild.cli.farm_benching import EXIT_CODES, annotation, verdict
from edgebuild.farm.results import BenchResult
from edgebuild.farm.values import Job
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


def require_verdict(ground: Ground, done: subprocess.CompletedProcess[str], outcome: str, *, annotated: bool) -> None:
    """Require that a step ended as the farm's own record of its job says: ``outcome``, or that nothing could be told.

    How well a busy machine tells two models apart is no matter of the examples.
    """
    jobs = ground.client.ask("GET", "/api/jobs?state=ended", tuple[Job, ...])
    job = next(each for each in jobs if each.spec.kind == "bench")
    result = None if job.result is None else BenchResult.model_validate(job.result)
    found = result.comparison.outcome if result is not None and result.comparison is not None else "inconclusive"
    assert found in {outcome, "inconclusive"}, done.stderr + ground.host.log()
    code, words = verdict(job, result)
    assert done.returncode == code, done.stderr + ground.host.log()
    assert (annotation(code, words) in done.stderr) == annotated
    suite = ET.parse(ground.folder / "bench.xml").getroot()[0]  # noqa: S314  our own text
    assert suite.get("failures") == ("1" if code == EXIT_CODES["worse"] else "0")


@pytest.mark.proof
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
    require_verdict(ground, done, "worse", annotated=True)
    assert job["steps"][-1]["with"]["path"] == "bench.xml"


@needs_sshd
def test_a_faster_model_passes_the_gitlab_job(ground: Ground) -> None:
    ground.good()
    place(ground, "small.onnx", "large.onnx")
    job = read("gitlab-ci.yml")["board"]
    assert job["before_script"] == [INSTALL]
    (script,) = job["script"]
    done = run(ground, script, GITLAB_CI="true")
    require_verdict(ground, done, "better", annotated=False)
    assert job["artifacts"]["reports"]["junit"] == "bench.xml"


def test_the_examples_hold_no_secret_and_end_what_a_newer_push_replaces() -> None:
    github, gitlab = read("github-actions.yml"), read("gitlab-ci.yml")["board"]
    assert github["jobs"]["bench"]["env"]["EDGEBUILD_FARM_TOKEN"] == "${{ secrets.EDGEBUILD_FARM_TOKEN }}"  # noqa: S105
    assert github["concurrency"]["cancel-in-progress"]
    assert gitlab["interruptible"]
    assert "EDGEBUILD_FARM_TOKEN" not in gitlab.get("variables", {})
