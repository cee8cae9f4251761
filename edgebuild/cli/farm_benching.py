"""`bench --target T`: the measuring is done by a farm; the verdict is the exit code, and what CI systems show."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING

from edgebuild.cli.answering import Answer
from edgebuild.cli.benching import comparison_words, require_models, show_results, sizes_of
from edgebuild.cli.console import interrupt, stop_if_interrupted
from edgebuild.cli.farm_running import installed
from edgebuild.cli.junit import Case, Suite, report_text, write_report
from edgebuild.cli.output import plain, say

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from edgebuild.benching.bench import BenchResult as Measured
    from edgebuild.cli.junit import Outcome
    from edgebuild.farm.client import FarmClient
    from edgebuild.farm.results import BenchResult, MeasuredArm
    from edgebuild.farm.values import Job

#: What the command ends with; without ``--against`` there is no verdict, and what was measured is 0.
EXIT_CODES: Mapping[str, int] = {"better": 0, "equivalent": 0, "worse": 3, "inconclusive": 4}
#: The same for a job that has no result.
ENDS: Mapping[str, int] = {"failed": 2, "timed out": 5, "device lost": 5, "cancelled": 130, "inconclusive": 4}
_CASES: Mapping[int, Outcome] = {0: "passed", 3: "failed", 4: "open"}
_ANNOTATIONS: Mapping[int, str] = {0: "notice", 4: "warning"}


def run_farm_bench(
    model: Path,
    against: Path | None,
    *,
    backend: str | None,
    shape: tuple[str, ...],
    threads: int | None,
    quick: bool,
    native: bool,
    farm: str | None,
    target: str | None,
    device: str | None,
    junit: Path | None,
) -> Answer:
    """Let a farm measure, publish the verdict, and return the job, with the verdict's exit code."""
    with installed():
        from edgebuild.farm import benching
        from edgebuild.farm.arguments import BenchArguments
        from edgebuild.farm.client import FarmClient
        from edgebuild.farm.endpoint import address_of

    require_models(model, against)
    sizes = sizes_of(shape)
    make_ready(junit)
    with contextlib.closing(FarmClient(address_of(farm))) as client:
        arguments = BenchArguments(
            model=benching.send_model(client, model),
            against=None if against is None else benching.send_model(client, against),
            backend=backend,
            shape=sizes,
            threads=threads,
            quick=quick,
            native_libraries=native,
        )
        job = benching.submit(client, arguments, target=target, device=device)
        job = followed(client, job)
    return _conclude(job, junit)


def make_ready(junit: Path | None) -> None:
    """Let what ends a CI job end this too, and see to it that the report can be written."""
    # CI systems end jobs with SIGTERM: it frees the device as Ctrl-C does.
    signal.signal(signal.SIGTERM, interrupt)
    if junit is not None:
        write_report(junit, "", mode="a")  # before minutes of measuring: whether it can be written at all


def followed(farm: FarmClient, job: Job) -> Job:
    """Return a job once it ended, printing what it says meanwhile."""
    from edgebuild.farm import benching

    say(f"job {job.id}: Ctrl-C cancels it", error=True)
    return benching.follow(farm, job, lambda line: say(plain(line), error=True), stop_if_interrupted)


def _conclude(job: Job, junit: Path | None) -> Answer:
    from edgebuild.farm.results import BenchResult

    result = None if job.result is None else BenchResult.model_validate(job.result)
    code, words = verdict(job, result)
    if result is None:
        say(words, error=True)
    publish(code, words, "latency", job.spec.ask.target or job.spec.ask.device, junit)
    return Answer(value=job, text=lambda: None if result is None else _show(result), code=code)


def _show(result: BenchResult) -> None:
    show_results([_measured(arm) for arm in result.arms], result.comparison, result.protocol)
    say(f"\nDevice {result.device}, session {result.session}; raw samples are the farm's file {result.evidence}")


def publish(code: int, words: str, name: str, where: str, junit: Path | None) -> None:
    """Show a verdict where CI systems look for it."""
    if junit is not None:
        case = Case(name=name, outcome=_CASES.get(code, "error"), said=words)
        write_report(junit, report_text([Suite(name=f"bench on {where}", classname=where, cases=(case,))]))
    if os.environ.get("GITHUB_ACTIONS") == "true":
        say(annotation(code, words), error=True)


def verdict(job: Job, result: BenchResult | None) -> tuple[int, str]:
    """Return the exit code of an ended job, and its verdict or what kept it from one in words."""
    if result is None:
        return ENDS.get(job.end or "", 1), f"{job.end}: {plain(job.reason)}"
    names = [plain(arm.model) for arm in result.arms]
    if result.comparison is None:
        if len(result.arms) > 1:
            return EXIT_CODES["inconclusive"], "Too few launches count to compare the two."
        summary = result.arms[0].summary
        return 0, f"{names[0]} takes {summary.point_ms:.4g} ms on {result.device}."
    return EXIT_CODES[result.comparison.outcome], comparison_words(result.comparison, *names)


def annotation(code: int, words: str) -> str:
    """Return a workflow command of GitHub Actions, which shows the verdict with the run.

    https://docs.github.com/actions/reference/workflow-commands-for-github-actions says what is escaped.
    """
    text = words.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return f"::{_ANNOTATIONS.get(code, 'error')} title=edgebuild bench::{text}"


def _measured(arm: MeasuredArm) -> Measured:
    from edgebuild.benching.bench import BenchResult

    return BenchResult(
        model=plain(arm.model),
        artifact_digest=arm.artifact,
        backend=arm.backend,
        settings=tuple(arm.settings.items()),
        size_bytes=arm.size_bytes,
        summary=arm.summary,
        memory=arm.memory,
        energy=arm.energy,
        layers=arm.layers,
    )
