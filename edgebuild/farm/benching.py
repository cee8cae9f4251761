"""A bench from the user's side: models are sent, a job is queued, and its log is followed until it ended."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from edgebuild.core.artifact import path_problem
from edgebuild.core.artifact_files import MANIFEST, plain_paths
from edgebuild.errors import EdgebuildError, ModelError, UsageError
from edgebuild.farm.arguments import BenchArguments, ModelFile, SentModel
from edgebuild.farm.client import FarmAway
from edgebuild.farm.values import Ask, Job, JobSpec, JobState, Lease, LogLine

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from edgebuild.farm.client import FarmClient

#: How often the farm is asked how far a job is; each time says too that somebody still waits for it.
POLL_S = 1.0
LINES = 1000
LONGEST_NAME = 200


def send_model(farm: FarmClient, path: Path) -> SentModel:
    """Send a model's files, those that the farm hasn't, and return how a job names them.

    Raises ``UsageError`` for what is no model, ``ModelError`` for one whose files lie elsewhere.
    """
    entry, files = _files(path)
    sent = tuple(ModelFile(path=name, sha256=farm.send(file)) for name, file in sorted(files.items()))
    return SentModel(name=str(path)[-LONGEST_NAME:], entry=entry, files=sent)


def _files(path: Path) -> tuple[str, Mapping[str, Path]]:
    if (path / MANIFEST).is_file():
        return "", {name: path / name for name in plain_paths(path)}
    if path.suffix == ".xml":
        weights = path.with_suffix(".bin")
        return path.name, {file.name: file for file in (path, weights) if file.is_file()}
    if path.suffix != ".onnx":
        raise UsageError(
            f"{path} is neither an .onnx file, nor an OpenVINO .xml, nor a folder with an artifact.json.",
            hint="Name one of these; a finished build's lies in .edgebuild/builds/…/artifact.",
        )
    from edgebuild.models.onnx_files import import_inputs

    found = {}
    for file in import_inputs(path).values():
        name = os.path.relpath(file, path.parent)
        if problem := path_problem(name):
            raise ModelError(f"{path} reads data from {name!r}: {problem}.", hint="Put them into one folder.")
        found[name] = file
    return path.name, found


def submit(
    farm: FarmClient, arguments: BenchArguments, *, target: str | None, device: str | None, attended: bool = True
) -> Job:
    """Queue a bench; screening gives way to what is more urgent.

    An ``attended`` one ends when nobody waits for it any more.
    """
    ask = Ask(target=target or "", device=device or "", preemptible=arguments.quick, purpose="bench")
    given = arguments.model_dump(mode="json", exclude_defaults=True)
    spec = JobSpec(kind="bench", ask=ask, arguments=given, name=arguments.model.name, attended=attended)
    return farm.ask("POST", "/api/jobs", Job, spec)


def follow(farm: FarmClient, job: Job, say: Callable[[str], None], check: Callable[[], None]) -> Job:
    """Return a job once it ended, saying what it says, and why it waits. A farm that is away is waited for.

    Whatever ends this otherwise, such as ``check``, cancels the job, so that its device is free at once.
    """
    try:
        return _followed(farm, job, say, check)
    except BaseException:
        _cancel(farm, job)
        raise


def _followed(farm: FarmClient, job: Job, say: Callable[[str], None], check: Callable[[], None]) -> Job:
    after, waits, away = 0, "", False
    while True:
        check()
        try:
            found = farm.ask("POST", f"/api/jobs/{job.id}/attend", Job)
            lines = farm.ask("GET", f"/api/jobs/{job.id}/log?after={after}&most={LINES}", tuple[LogLine, ...])
            why = _why(farm, found)
        except FarmAway as error:
            if not away:
                say(f"{error.message} Waiting for it.")
            away = True
            time.sleep(POLL_S)
            continue
        away = False
        for line in lines:
            say(line.text)
        after = lines[-1].number if lines else after
        if why != waits and why:
            say(f"waiting: {why}")
        waits = why
        if len(lines) == LINES:
            continue
        if found.state is JobState.ENDED:
            return found
        time.sleep(POLL_S)


def _why(farm: FarmClient, job: Job) -> str:
    if job.state is not JobState.QUEUED or not job.attempts:
        return ""
    return farm.ask("GET", f"/api/leases/{job.attempts[-1].lease}", Lease).why


def _cancel(farm: FarmClient, job: Job) -> None:
    try:
        farm.ask("POST", f"/api/jobs/{job.id}/cancel", Job)
    except EdgebuildError:
        return  # it ends by itself, since nobody attends to it
