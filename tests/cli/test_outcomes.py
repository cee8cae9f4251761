"""A missed budget and data that can't certify are results: exit codes 3 and 4, with the nearest artifact kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .example import assert_as_before, newest, record, run, sessions, stored, toml

if TYPE_CHECKING:
    from pathlib import Path


def words(text: str) -> str:
    return " ".join(text.split())


def test_an_unreachable_budget_says_how_close_it_came_and_keeps_the_best(built: Path) -> None:
    before, measured = stored(built / ".edgebuild" / "store"), sessions(built)
    ended = run("build", "--budget", "floor 0.999", cwd=built)
    assert ended.code == 3, ended
    found = record(built)
    assert [note["text"].partition(" samples: ")[0] for note in found["notes"]] == [
        "too few validation data: 400",
        "too few test data: 401",
    ]
    *said, estimate = ended.err.splitlines()
    assert said == [f"  note: {note['text']}" for note in found["notes"]]
    assert estimate.startswith("  note: 1 candidate for quick, about ")
    assert found["outcome"] == "missed"
    assert found["chosen"] is None
    assert found["summary"].startswith("No candidate stays inside the budget; the nearest is quick/fp32: accuracy ")
    assert found["summary"].endswith("misses the floor 0.999")
    assert "BUDGET MISSED" in ended.out
    assert "the nearest is quick/fp32" in words(ended.out)
    assert f"The nearest artifact, kept: .edgebuild/builds/{found['build_id']}/artifact" in ended.out
    assert (newest(built) / "artifact" / "artifact.json").is_file()
    assert (newest(built) / "report.html").is_file()
    assert sessions(built) == measured
    assert_as_before(before, built / ".edgebuild" / "store")


def test_a_limit_out_of_reach_is_missed_too(built: Path) -> None:
    (built / "edgebuild.toml").write_text(toml({"limits": "file_size_mb = 0.001\nlatency_p50_ms = 0.000001"}))
    ended = run("build", cwd=built)
    assert ended.code == 3, ended
    found = record(built)
    assert found["outcome"] == "missed"
    (candidate,) = found["candidates"]
    assert candidate["status"] == "refused"
    assert "beyond the limit of 0.001 MB" in found["summary"]
    assert "beyond the limit of 1e-06 ms" in found["summary"]


def test_data_too_few_to_certify_anything(built: Path) -> None:
    before = stored(built / ".edgebuild" / "store")
    data = (built / "data.py").read_text()
    (built / "data.py").write_text(data.replace('return read("test")', 'return list(read("test"))[:6]'))
    ended = run("build", cwd=built)
    assert ended.code == 4, ended
    found = record(built)
    assert found["outcome"] == "inconclusive"
    assert found["summary"].startswith("No candidate could be certified; the nearest is quick/fp32: accuracy ")
    assert found["summary"].endswith("only 6 samples, at least 10 are needed to certify anything")
    assert "only 6 samples, at least 10 are needed to certify anything" in words(ended.out)
    assert found["test_set"]["number"] == 1  # another set than the one that was opened before
    assert_as_before(before, built / ".edgebuild" / "store")


def test_a_budget_that_needs_more_samples_says_how_many(built: Path) -> None:
    ended = run("build", "--budget", "0.1 points", cwd=built)
    assert ended.code == 4, ended
    (candidate,) = record(built)["candidates"]
    needed = candidate["test"]["drop"]["needed_samples"]
    assert needed > 401
    assert f"about {needed:,} more samples needed" in words(ended.out)


def test_a_time_box_that_is_too_short_is_said_and_fp32_is_measured_all_the_same(built: Path) -> None:
    ended = run("build", "--time", "1s", cwd=built)
    assert ended.code == 0, ended
    assert "that is the least, and more than the 1 s asked for" in ended.err
    found = record(built)
    assert [each["id"] for each in found["candidates"]] == ["quick/fp32"]
    assert found["candidates"][0]["measured"]["latency"] is not None
