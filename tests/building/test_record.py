"""A build's record on disk: found by id or target, and refused when damaged."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from typing import TYPE_CHECKING

import pytest
from pydantic import ValidationError

from edgebuild.building.record import find_build, load_record, load_samples, sealed_text
from edgebuild.core.budget import Budget
from edgebuild.core.evidence import changed, evidence_of
from edgebuild.core.record import BuildRecord, Evidence
from edgebuild.core.values import canonical_json, digest_json
from edgebuild.errors import UsageError
from edgebuild.execution.versions import installed_versions
from edgebuild.measuring import journal
from tests.mutants import COUNTS, damaged, flipped

if TYPE_CHECKING:
    from pathlib import Path

OLD, NEW = "20260101-100000-aaaa1111", "20260102-100000-aabb2222"


def record(build_id: str, target: str = "here") -> BuildRecord:
    return BuildRecord(
        build_id=build_id,
        project="p",
        target=target,
        device="d",
        started_at="2026-01-01T10:00:00+00:00",
        seconds=1.5,
        objective="latency",
        budget=Budget(points=2.0),
        outcome="missed",
        chosen=None,
        summary="nothing",
        baseline="a/fp32",
        candidates=(),
    )


def written(home: Path, build_id: str, target: str = "here") -> Path:
    folder = home / "builds" / build_id
    folder.mkdir(parents=True)
    (folder / "build.json").write_text(sealed_text(record(build_id, target)))
    return folder


def latest(home: Path, **targets: str) -> None:
    (home / "builds" / "latest.json").write_text(json.dumps(targets))


def test_the_newest_build_is_found_without_a_name(tmp_path: Path) -> None:
    new, _ = written(tmp_path, NEW), written(tmp_path, OLD)
    assert find_build(tmp_path) == new


def test_the_newest_is_the_one_recorded_last_whatever_the_clock_said(tmp_path: Path) -> None:
    (tmp_path / "builds").mkdir()
    for build_id in (NEW, OLD):
        journal.begin(tmp_path / "builds", lambda _, build_id=build_id: build_id)  # type: ignore[misc]
    _, old = written(tmp_path, NEW), written(tmp_path, OLD)
    assert find_build(tmp_path) == old


def test_a_build_is_found_by_id_or_the_start_of_it(tmp_path: Path) -> None:
    new, old = written(tmp_path, NEW), written(tmp_path, OLD)
    assert find_build(tmp_path, OLD) == old
    assert find_build(tmp_path, "20260102") == new


def test_a_start_that_fits_several_builds_names_them(tmp_path: Path) -> None:
    written(tmp_path, NEW)
    written(tmp_path, OLD)
    with pytest.raises(UsageError, match="'2026' fits 2 builds") as caught:
        find_build(tmp_path, "2026")
    assert caught.value.hint == f"They are {OLD}, {NEW}."


def test_the_newest_of_a_target_is_found(tmp_path: Path) -> None:
    old, _ = written(tmp_path, OLD, "pi"), written(tmp_path, NEW)
    latest(tmp_path, pi=OLD, here=NEW)
    assert find_build(tmp_path, target="pi") == old


@pytest.mark.parametrize("which", [None, "2026"])
def test_no_build_is_a_usage_error_that_says_how_to_make_one(which: str | None, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="There is no build") as caught:
        find_build(tmp_path, which)
    assert "edgebuild build" in caught.value.hint


def test_no_build_of_a_target_is_none_of_another(tmp_path: Path) -> None:
    written(tmp_path, NEW)
    latest(tmp_path, here=NEW)
    with pytest.raises(UsageError, match="There is no build"):
        find_build(tmp_path, target="pi")


def test_a_folder_whose_record_was_never_written_is_no_build(tmp_path: Path) -> None:
    old = written(tmp_path, OLD)
    (tmp_path / "builds" / NEW / "artifact").mkdir(parents=True)
    assert find_build(tmp_path) == old


@pytest.mark.parametrize("damage", ["", "{", "[]", "{}", '{"build_id": 3}'])
def test_a_list_of_latest_builds_that_is_damaged_names_none(damage: str, tmp_path: Path) -> None:
    written(tmp_path, NEW)
    (tmp_path / "builds" / "latest.json").write_text(damage)
    with pytest.raises(UsageError):
        find_build(tmp_path, target="here")
    assert find_build(tmp_path).name == NEW


def test_a_record_is_read_back_as_it_was(tmp_path: Path) -> None:
    assert load_record(written(tmp_path, NEW)) == record(NEW)


def test_a_damaged_record_is_refused(tmp_path: Path) -> None:
    folder = written(tmp_path, NEW)
    path = folder / "build.json"
    whole = path.read_text()
    for broken in ("", whole[:-5], whole.replace('"missed"', '"perhaps"'), whole.replace("chosen", "choosen")):
        path.write_text(broken)
        with pytest.raises(UsageError, match=r"build\.json can't be read: it is damaged"):
            load_record(folder)
    path.unlink()
    with pytest.raises(UsageError):
        load_record(folder)


def test_a_record_of_another_version_is_refused_with_one_sentence(tmp_path: Path) -> None:
    folder = written(tmp_path, NEW)
    old = {**record(NEW).model_dump(mode="json"), "schema_version": 1, "budget_text": "2 points"}
    (folder / "build.json").write_text(canonical_json({**old, "sha256": digest_json(old)}))
    with pytest.raises(
        UsageError, match=r"build\.json is of version 1, and this edgebuild reads version 2\.$"
    ) as error:
        load_record(folder)
    assert error.value.hint == "Build again; what is in the store is used again."


def test_evidence_that_changed_or_is_gone_is_named(tmp_path: Path) -> None:
    session = tmp_path / "measurements" / "certify-1"
    session.mkdir(parents=True)
    for name in ("session.json", "launch-0000.json", "launch-0000.i64", "result.json"):
        (session / name).write_text(name)
    (tmp_path / "builds" / "b" / "samples").mkdir(parents=True)
    (tmp_path / "builds" / "b" / "samples" / "one.json").write_text("{}")
    kept = [evidence_of(tmp_path, folder) for folder in (session, tmp_path / "builds" / "b" / "samples")]
    (session / "memory-a.json").write_text("a later build adds a figure")
    (session / "launch-0001.json").write_text("or resumes the session")
    (session / "stray").symlink_to("/")
    assert changed(tmp_path, kept) == ()
    (session / "launch-0000.i64").write_text("other times")
    assert changed(tmp_path, kept) == ("measurements/certify-1",)
    (tmp_path / "builds" / "b" / "samples" / "one.json").write_text("[]")
    assert changed(tmp_path, kept) == ("measurements/certify-1", "builds/b/samples")
    shutil.rmtree(tmp_path / "builds")
    assert changed(tmp_path, kept) == ("measurements/certify-1", "builds/b/samples")


@pytest.mark.parametrize("path", ["/", "..", "measurements/..", "builds/b/artifact", "measurements/a/../b", "/proc"])
def test_a_record_names_no_folder_but_evidence(path: str) -> None:
    with pytest.raises(ValidationError):
        Evidence(path=path, files=0, sha256="")


def test_a_folder_that_is_a_link_is_no_evidence(tmp_path: Path) -> None:
    (tmp_path / "measurements").mkdir()
    (tmp_path / "measurements" / "a").symlink_to("/")
    kept = Evidence(path="measurements/a", files=0, sha256="")
    assert changed(tmp_path, [kept]) == ("measurements/a",)


@pytest.mark.parametrize("version", ["3\nedgebuild: all is well", 7, None, [2], True])
def test_an_odd_version_is_not_repeated(version: object, tmp_path: Path) -> None:
    folder = written(tmp_path, NEW)
    odd = {**record(NEW).model_dump(mode="json"), "schema_version": version}
    (folder / "build.json").write_text(canonical_json({**odd, "sha256": digest_json(odd)}))
    with pytest.raises(UsageError, match=r"build\.json is of another version, and this edgebuild reads version 2\.$"):
        load_record(folder)


def test_samples_are_found_by_candidate_and_damaged_ones_are_named(tmp_path: Path) -> None:
    folder = written(tmp_path, NEW) / "samples"
    folder.mkdir()
    (folder / "a.json").write_text('{"id": "x/fp32", "launches": [[1, 2], [3]]}')
    (folder / "b.json").write_text('{"id": "x/int8"')
    (folder / "c.json").write_text('{"launches": []}')
    (folder / "d.json").write_text('{"id": "x/int8", "launches": [["long"]]}')
    (folder / "e.json").write_text("[" * 100_000)
    os.mkfifo(folder / "f.json")
    samples, broken = load_samples(folder.parent)
    assert samples == {"x/fp32": [[1, 2], [3]]}
    assert [path.stem for path in broken] == ["b", "c", "d", "e", "f"]
    assert load_samples(tmp_path) == ({}, ())


@pytest.mark.parametrize("count", COUNTS)
def test_a_record_with_any_flipped_bit_or_damage_is_refused_in_one_sentence(count: int, tmp_path: Path) -> None:
    folder = written(tmp_path, NEW)
    path, whole = folder / "build.json", sealed_text(record(NEW)).encode()
    path.write_bytes(whole)
    assert load_record(folder) == record(NEW)
    undetected = []
    for seed in range(count):
        for content in (flipped(whole, seed), damaged(whole, seed)):
            path.write_bytes(content)
            with contextlib.suppress(UsageError):
                if load_record(folder) != record(NEW):
                    undetected.append(seed)
    assert undetected == []


def test_the_lock_names_what_is_installed_and_nothing_else() -> None:
    versions = dict(installed_versions())
    assert versions["python"].startswith("3.")
    assert {"edgebuild", "numpy", "onnx"} <= versions.keys()
    assert all(versions.values())
