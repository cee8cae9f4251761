"""What a farm's bench ends with: an exit code, words, and what a CI system shows, from the job alone."""

from __future__ import annotations

import math
from typing import Any

import pytest

from edgebuild.cli.farm_benching import annotation, verdict
from edgebuild.core.measurement import LatencySummary, Memory
from edgebuild.farm.results import BenchResult
from edgebuild.farm.values import Ask, Job, JobEnd, JobSpec, JobState


def job(end: JobEnd, reason: str = "") -> Job:
    spec = JobSpec(kind="bench", ask=Ask(target="raspberry-pi-5"))
    return Job(id="j" + "0" * 15, spec=spec, owner="ci", state=JobState.ENDED, end=end, reason=reason, submitted_at=0.0)


def result(outcome: str | None, *models: str) -> BenchResult:
    summary = LatencySummary(
        launches=2, invalid_launches=0, point_ms=1.5, throughput_per_s=600.0, load_ms=1.0, first_inference_ms=2.0
    )
    arm: dict[str, Any] = {
        "artifact": "0" * 64,
        "backend": "onnxruntime",
        "size_bytes": 1,
        "summary": summary,
        "memory": Memory(baseline_bytes=1, load_peak_bytes=1, inference_peak_bytes=1),
    }
    effect = math.log(1.25)
    comparison = {"outcome": outcome, "effect": effect, "low": effect - 0.1, "high": effect + 0.1, "pairs": 6}
    return BenchResult.model_validate(
        {
            "session": "s",
            "protocol": "certify",
            "device": "pi-1",
            "target": "raspberry-pi-5",
            "comparison": None if outcome is None else comparison,
            "arms": [{"model": model, **arm} for model in models],
            "evidence": "0" * 64,
        }
    )


@pytest.mark.parametrize(
    ("outcome", "code", "words", "shown"),
    [
        ("better", 0, "new.onnx is faster than old.onnx: 1.250x", "::notice"),
        ("equivalent", 0, "new.onnx is as fast as old.onnx", "::notice"),
        ("worse", 3, "new.onnx is slower than old.onnx: 1.250x", "::error"),
        ("inconclusive", 4, "new.onnx is statistically tied with old.onnx", "::warning"),
        (None, 4, "Too few launches count", "::warning"),
    ],
)
def test_a_comparison_is_an_exit_code_and_an_annotation(outcome: str | None, code: int, words: str, shown: str) -> None:
    found, said = verdict(job(JobEnd.SUCCEEDED), result(outcome, "new.onnx", "old.onnx"))
    assert (found, words in said) == (code, True), said
    assert annotation(found, said).startswith(f"{shown} title=edgebuild bench::{said[:8]}")


def test_what_was_measured_alone_is_no_verdict() -> None:
    assert verdict(job(JobEnd.SUCCEEDED), result(None, "new.onnx")) == (0, "new.onnx takes 1.5 ms on pi-1.")


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (JobEnd.FAILED, 2),
        (JobEnd.TIMED_OUT, 5),
        (JobEnd.DEVICE_LOST, 5),
        (JobEnd.INCONCLUSIVE, 4),
        (JobEnd.CANCELLED, 130),
    ],
)
def test_a_job_without_a_result_ends_as_it_ended(end: JobEnd, code: int) -> None:
    assert verdict(job(end, "the reason"), None) == (code, f"{end}: the reason")


def test_a_verdict_of_many_lines_is_one_command_of_github() -> None:
    assert annotation(3, "50 %\nslower") == "::error title=edgebuild bench::50 %25%0Aslower"
