"""A small real project from `init` to `store gc`: every stage runs through the command line as a user runs it."""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import helper

from edgebuild.building.context import Options
from edgebuild.building.record import load_record, sealed_text
from edgebuild.catalogue.project import load_project
from edgebuild.catalogue.shipped import shipped_folder
from edgebuild.pipeline import plan
from edgebuild.planning.plan import plan_digest
from tests.cli.example import (
    QUICK_PROFILE,
    Ended,
    assert_as_before,
    copy,
    model_of,
    record,
    run,
    sessions,
    stored,
    toml,
    write_project,
)
from tests.golden import assert_golden

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

Built = tuple["Path", Ended]


def records(project: Path) -> dict[str, dict[str, Any]]:
    """Return the newest record of each target."""
    latest = json.loads((project / ".edgebuild" / "builds" / "latest.json").read_bytes())
    return {
        target: json.loads((project / ".edgebuild" / "builds" / build / "build.json").read_bytes())
        for target, build in latest.items()
    }


def artifact_of(project: Path, found: dict[str, Any]) -> Path:
    return project / ".edgebuild" / "builds" / str(found["build_id"]) / "artifact"


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


@pytest.fixture
def mine(built: Built, tmp_path: Path) -> Path:
    """The built project, for one test alone."""
    return copy(built[0], tmp_path / "project")


def test_init_writes_a_file_that_loads_and_plan_writes_nothing(tmp_path: Path) -> None:
    write_project(tmp_path)
    (tmp_path / "edgebuild.toml").unlink()
    ended = run("init", "model.onnx", cwd=tmp_path)
    assert ended.code == 0, ended
    assert ended.out == "Wrote edgebuild.toml. Fill in what is marked, then run `edgebuild plan`.\n"
    before = listing(tmp_path)
    ended = run("plan", "--target", "quick", cwd=tmp_path)
    assert ended.code == 0, ended
    assert "quick/fp32 (baseline)" in ended.out
    assert listing(tmp_path) == before


def test_a_build_ends_with_a_certified_verdict(built: Built) -> None:
    project, ended = built
    assert ended.code == 0, ended
    found = records(project)
    assert set(found) == {"quick", "renamed"}
    for each in found.values():
        assert each["outcome"] == "ok"
        chosen = next(c for c in each["candidates"] if c["id"] == each["chosen"])
        # The objective is the size, which the baseline can't win.
        accepted = [c for c in each["candidates"] if c["test"] and c["test"]["outcome"] == "accepted"]
        assert chosen["size_bytes"] == min(c["size_bytes"] for c in accepted)
        assert chosen["id"] != each["baseline"] == "quick/fp32"
        assert chosen["test"]["outcome"] == "accepted"
        assert chosen["test"]["drop"]["samples"] == 401
        assert chosen["validation"]["drop"]["samples"] == 400
        assert chosen["measured"]["latency"]["launches"] + chosen["measured"]["latency"]["invalid_launches"] == 2
        assert chosen["measured"]["memory"]["inference_peak_bytes"] > 0
        assert chosen["measured"]["layers"]
        assert all(candidate["reason"] for candidate in each["candidates"])
        assert len(each["candidates"]) == 4
        assert all(candidate["status"] != "failed" for candidate in each["candidates"])


def test_golden_records_of_several_targets(built: Built) -> None:
    for name, each in records(built[0]).items():
        assert_golden(each, f"several-targets-{name}")


def test_the_shipped_artifact_is_what_was_evaluated(built: Built) -> None:
    import onnxruntime

    project, _ = built
    found = records(project)["quick"]
    folder = artifact_of(project, found)
    manifest = json.loads((folder / "artifact.json").read_bytes())
    for file in manifest["files"]:
        assert hashlib.sha256((folder / file["path"]).read_bytes()).hexdigest() == file["sha256"]
    assert dict(manifest["settings"]) == {"arena": True, "spinning": False, "threads": 1}
    assert manifest["contract"]["inputs"] == [{"name": "image", "shape": [1, 1, 8, 8], "dtype": "float32"}]

    with np.load(project / "test_arrays") as arrays:
        images: NDArray[np.float32] = arrays["image"]
    session = onnxruntime.InferenceSession(str(folder / manifest["entry"]), providers=["CPUExecutionProvider"])
    answers = np.concatenate([session.run(["logits"], {"image": image[np.newaxis]})[0] for image in images])
    np.testing.assert_allclose(answers, evaluated(project, f"evaluate {found['chosen']} on test"), rtol=1e-5, atol=1e-5)


def evaluated(project: Path, label: str) -> NDArray[np.float32]:
    """Return the outputs that a step stored."""
    root = project / ".edgebuild" / "store"
    manifests = [json.loads(path.read_bytes())["manifest"] for path in (root / "entries").iterdir()]
    (files,) = [m["files"] for m in manifests if m["meta"]["label"] == label]
    sha256 = next(file["sha256"] for file in files if file["path"] == "logits.npy")
    outputs: NDArray[np.float32] = np.load(root / "blobs" / sha256[:2] / sha256)
    return outputs


def test_the_report_needs_no_network(built: Built) -> None:
    project, ended = built
    for each in records(project).values():
        report = artifact_of(project, each).with_name("report.html")
        assert str(report.relative_to(project)) in ended.out
        html = report.read_text()
        assert str(each["chosen"]) in html
        assert not re.search(r"<(script|link|iframe|img|base|object|embed)\b", html, re.IGNORECASE)
        assert not re.search(r"(src|href|action)\s*=\s*[\"'](?!#)", html, re.IGNORECASE)
        assert not re.search(r"@import|url\(", html)


def test_two_targets_share_all_work_and_open_the_test_set_once(built: Built) -> None:
    project, _ = built
    quick, renamed = records(project).values()
    assert quick["test_set"] == renamed["test_set"]
    assert quick["test_set"]["number"] == 1
    assert len((project / ".edgebuild" / "seal.jsonl").read_text().splitlines()) == 1
    assert [name.split("-")[0] for name in sessions(project)] == ["certify", "screen"]
    labels = [step["label"] for step in renamed["steps"] if not step["reused"]]
    assert len(labels) == len(set(labels))


def test_another_name_for_the_same_facts_changes_nothing(built: Built, tmp_path: Path) -> None:
    project, _ = built
    quick, renamed = records(project).values()
    left, right = artifact_of(project, quick), artifact_of(project, renamed)
    files = sorted(path.relative_to(left) for path in left.rglob("*"))
    assert files == sorted(path.relative_to(right) for path in right.rglob("*"))
    assert all((left / name).read_bytes() == (right / name).read_bytes() for name in files)

    folder = write_project(tmp_path)
    shipped = shipped_folder("targets") / "this-machine.toml"
    (folder / "targets" / "bench-7.toml").write_bytes(shipped.read_bytes())
    here, there = plan(load_project(folder), Options(targets=("this-machine", "bench-7")))
    assert (here.target, there.target) == ("this-machine", "bench-7")
    assert plan_digest(here) == plan_digest(there)
    assert len(here.candidates) > 1


def test_what_a_build_can_be_asked_afterwards(mine: Path) -> None:
    found = records(mine)["quick"]
    ended = run("explain", "int8", "--build", found["build_id"], cwd=mine)
    assert ended.code == 0, ended
    checked = [c["crosscheck"] for c in found["candidates"] if c["spec"]["precision"]["kind"] == "int8"]
    assert [check["cause"] in ("agrees", "rounding") for check in checked] == [True]
    assert all(c["crosscheck"] is None for c in found["candidates"] if c["spec"]["precision"]["kind"] != "int8")
    for words in (
        "Accuracy",
        "signal to noise",
        "cross-check",
        "Time",
        "settings: arena=true",
        "int8",
        "Steps",
        "ran: first",
    ):
        assert words in ended.out
    ended = run("explain", "fp32", "--build", found["build_id"], cwd=mine)
    assert ended.code == 2
    assert "'fp32' fits 2 candidates" in ended.err

    ended = run("report", "--build", found["build_id"], "--output", "mine.html", cwd=mine)
    assert ended.code == 0, ended
    assert (mine / "mine.html").read_bytes() == artifact_of(mine, found).with_name("report.html").read_bytes()

    ended = run("doctor", "--against", found["build_id"], cwd=mine)
    assert (ended.code, ended.out) == (0, f"Nothing differs from build {found['build_id']}.\n")
    folder = artifact_of(mine, found).parent
    versions = tuple({**dict(found["versions"]), "numpy": "1.0.0"}.items())
    changed = load_record(folder).model_copy(update={"versions": versions})
    (folder / "build.json").write_text(sealed_text(changed))
    ended = run("doctor", "--against", found["build_id"], cwd=mine)
    assert ended.code == 6
    assert f"version of numpy: 1.0.0 in build {found['build_id']}, {np.__version__} now" in ended.out


def test_store_du_and_gc(mine: Path) -> None:
    root = mine / ".edgebuild" / "store"
    entries = len(list((root / "entries").iterdir()))
    ended = run("store", "du", cwd=mine)
    assert ended.code == 0, ended
    assert re.fullmatch(rf"{root}: [\d.]+ [kM]B in {entries} results", ended.out.splitlines()[0])
    before = stored(root)
    ended = run("store", "gc", cwd=mine)
    assert ended.code == 0, ended
    assert "removed 0 results, 0 B" in ended.out
    assert stored(root) == before
    ended = run("store", "gc", "--quota-gb", "0", cwd=mine)
    assert ended.code == 0, ended
    assert f"removed {entries} results" in ended.out
    assert stored(root) == {}


def test_a_second_build_reuses_everything_and_remeasure_measures_anew(mine: Path) -> None:
    before, measured, first = stored(mine / ".edgebuild" / "store"), sessions(mine), records(mine)["quick"]
    ended = run("build", cwd=mine)
    assert ended.code == 0, ended
    again = records(mine)["quick"]
    assert again["build_id"] != first["build_id"]
    assert all(step["reused"] for step in again["steps"])
    assert again["test_set"] == first["test_set"]
    assert [c["measured"] for c in again["candidates"]] == [c["measured"] for c in first["candidates"]]
    assert sessions(mine) == measured
    assert stored(mine / ".edgebuild" / "store") == before

    # One candidate is enough to see it; its artifact was scored on the test set before.
    (mine / "targets" / "one.toml").write_text('title = "One candidate"\nprofiles = ["openvino-quick"]\n')
    ended = run("build", "--target", "one", "--remeasure", cwd=mine)
    assert ended.code == 0, ended
    found = record(mine)
    assert set(measured) < set(sessions(mine))
    assert len(sessions(mine)) == len(measured) + 1, "one alone is certified without being screened"
    assert all(step["reused"] for step in found["steps"])
    assert found["test_set"] == first["test_set"]


@pytest.mark.proof
def test_scoring_another_artifact_is_another_opening(mine: Path) -> None:
    (mine / "targets" / "other.toml").write_text('title = "Another setting"\nprofiles = ["other"]\n')
    (mine / "profiles" / "other.toml").write_text(QUICK_PROFILE.replace("arena = true", "arena = false"))
    ended = run("build", "--target", "other", cwd=mine)
    assert ended.code == 0, ended
    found = record(mine)
    assert found["test_set"]["number"] == 2
    assert found["candidates"][0]["test"]["drop"]["level"] == pytest.approx(0.975)
    assert found["candidates"][0]["validation"]["drop"]["level"] == pytest.approx(0.95)
    assert "97.5 % interval" in " ".join(ended.out.split())

    # The record of openings is chained: one that was edited keeps the test set shut.
    before = stored(mine / ".edgebuild" / "store")
    seal = mine / ".edgebuild" / "seal.jsonl"
    seal.write_text(seal.read_text().replace('"opening":1', '"opening":7'))
    ended = run("build", "--target", "other", cwd=mine)
    assert ended.err.endswith(
        f"edgebuild: The record of test-set openings {seal} was changed or damaged in line 1.\n"
        "  how to fix it: Restore it from version control or a backup; it is what makes later results honest.\n"
    )
    assert ended.code == 6
    assert_as_before(before, mine / ".edgebuild" / "store")


UNLABELLED = """\
import numpy as np
from edgebuild import Sample

def read(seed):
    generator = np.random.default_rng(seed)
    for _ in range(300):
        yield Sample(inputs={"image": generator.standard_normal((1, 8, 8)).astype(np.float32)})

def calibration():
    return read(1)

def validation():
    return read(2)

def test():
    return read(3)
"""


@pytest.mark.proof
def test_without_labels_the_budget_is_agreement_with_the_original(tmp_path: Path) -> None:
    project = write_project(tmp_path / "project", {"metric": None, "budget": "agreement = 0.95"})
    (project / "data.py").write_text(UNLABELLED)
    ended = run("build", cwd=project)
    assert ended.code == 0, ended
    found = record(project)
    assert found["budget"]["agreement"] == 0.95
    (candidate,) = found["candidates"]
    assert candidate["test"]["drop"]["metric"] == "agreement (same class)"
    assert candidate["test"]["drop"]["artifact"] == 1.0


STATEFUL_DATA = """\
import numpy as np
from edgebuild import Sample

STEPS = 6

def read(seed, recordings):
    generator = np.random.default_rng(seed)
    for i in range(recordings * 2):
        x = generator.standard_normal((STEPS, 4)).astype(np.float32)
        # The label follows from all steps so far: a state that isn't carried on gives it away.
        target = (np.cumsum(x.sum(axis=1)) > 0).astype(np.int64)
        yield Sample(inputs={"x": x}, target=target, group=f"recording {i // 2}")

def calibration():
    return read(1, 8)

def validation():
    return read(2, 30)

def test():
    return read(3, 31)
"""
HITS = """\
def hits(outputs, targets):
    return float(((outputs["y"][:, 0] > 0) == (targets > 0)).mean())
"""


def accumulator() -> onnx.ModelProto:
    """Adds up its inputs over the calls: ``total`` goes into the next one as ``state``."""
    nodes = [
        helper.make_node("MatMul", ["x", "ones"], ["y_now"]),
        helper.make_node("Add", ["y_now", "state"], ["total"]),
        helper.make_node("Identity", ["total"], ["y"]),
    ]
    return model_of(
        nodes,
        inputs={"x": ["batch", 4], "state": ["batch", 1]},
        outputs={"y": ["batch", 1], "total": ["batch", 1]},
        weights={"ones": np.ones((4, 1), np.float32)},
    )


def test_a_stateful_model_with_groups_and_a_metric_of_its_own(tmp_path: Path) -> None:
    project = write_project(tmp_path / "project")
    tables = {
        "model": 'onnx = "model.onnx"\n[model.state]\nstate = "total"',
        "[inputs]": 'name = "x"\nshape = ["batch", 4]\ndtype = "float32"\n'
        '[[inputs]]\nname = "state"\nshape = ["batch", 1]\ndtype = "float32"',
        "metric": 'callable = "metric:hits"\ndirection = "maximise"\nscale = [0.0, 1.0]',
    }
    (project / "edgebuild.toml").write_text(toml(tables))
    onnx.save(accumulator(), str(project / "model.onnx"))
    (project / "data.py").write_text(STATEFUL_DATA)
    (project / "metric.py").write_text(HITS)
    ended = run("build", cwd=project)
    assert ended.code == 0, ended
    (candidate,) = record(project)["candidates"]
    drop = candidate["test"]["drop"]
    assert (drop["metric"], drop["groups"], drop["samples"]) == ("metric:hits", 31, 31 * 2 * 6)
    # Right on every step, which only a state that is carried on, and reset between samples, can be.
    assert (drop["reference"], drop["artifact"]) == (1.0, 1.0)
    assert [spec["name"] for spec in candidate["contract"]["inputs"]] == ["x"]
    assert candidate["contract"]["state"] == [{"input": "state", "output": "total"}]
