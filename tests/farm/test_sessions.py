"""Evidence as it is sent: what is right is believed, and nothing else."""

from __future__ import annotations

import os
import stat
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebuild.core.checked_json import read_with_digest, with_digest
from edgebuild.errors import DataError
from edgebuild.farm import sessions
from edgebuild.measuring.protocols import CERTIFY, SCREEN
from tests.farm.pretend_sessions import PretendSession, artifact, pack

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> PretendSession:
    return PretendSession(tmp_path_factory.mktemp("session") / "certify-1", {"cat": 2.0, "dog": 2.2})


def files_of(made: PretendSession) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(made.path.iterdir())}


def test_a_session_that_is_what_is_said_of_it_is_found(made: PretendSession, tmp_path: Path) -> None:
    archive = made.pack(tmp_path / "a.zip")
    result = made.result(archive)
    found = sessions.require_result(archive, result)
    assert (found.opened.protocol.name, found.anchor_ms) == ("certify", result.anchor_ms)
    assert result.comparison is not None
    assert result.comparison.outcome == "better"
    assert sessions.read(archive).compare(artifact("cat"), artifact("dog")) == result.comparison
    assert sessions.read(archive).compare(artifact("cat"), "another") is None


def test_a_batch_is_believed_as_a_whole_number(tmp_path: Path) -> None:
    made = PretendSession(tmp_path / "s", batch=8)
    archive = made.pack(tmp_path / "a.zip")
    result = made.result(archive)
    sessions.require_result(archive, result)
    (arm,) = result.arms
    half = arm.summary.model_copy(update={"throughput_per_s": arm.summary.throughput_per_s * 1.05})
    with pytest.raises(DataError, match="isn't what its raw samples say"):
        sessions.require_result(
            archive, result.model_copy(update={"arms": (arm.model_copy(update={"summary": half}),)})
        )


@pytest.mark.parametrize("field", ["point_ms", "low_ms", "high_ms", "load_ms", "launches", "outliers", "spread"])
def test_a_figure_that_the_samples_do_not_show_is_refused(made: PretendSession, tmp_path: Path, field: str) -> None:
    archive = made.pack(tmp_path / "a.zip")
    result = made.result(archive)
    one, other = result.arms
    better = getattr(one.summary, field) * 0.99 if field not in {"launches", "outliers"} else 77
    lie = one.model_copy(update={"summary": one.summary.model_copy(update={field: better})})
    with pytest.raises(DataError, match="'cat' isn't what its raw samples say"):
        sessions.require_result(archive, result.model_copy(update={"arms": (lie, other)}))


def test_a_comparison_an_anchor_or_a_protocol_that_the_launches_do_not_show_is_refused(
    made: PretendSession, tmp_path: Path
) -> None:
    archive = made.pack(tmp_path / "a.zip")
    result = made.result(archive)
    assert result.comparison is not None
    better = result.comparison.model_copy(update={"effect": result.comparison.effect * 2})
    lies: list[tuple[dict[str, Any], str]] = [
        ({"comparison": better}, "comparison"),
        ({"comparison": None}, "comparison"),
        ({"anchor_ms": tuple(ms * 1.1 for ms in result.anchor_ms)}, "anchor"),
        ({"anchor_ms": ()}, "anchor"),
        ({"protocol": "screen"}, "certify"),
        ({"environment": {"kernel": "x" * 2000}}, "too long"),
        ({"arms": (result.arms[0], result.arms[0])}, "one artifact"),
    ]
    for lie, why in lies:
        with pytest.raises(DataError, match=why):
            sessions.require_result(archive, result.model_copy(update=lie))


def changed(files: dict[str, bytes], name: str, **fields: Any) -> dict[str, bytes]:
    before = read_with_digest(files[name])
    assert before is not None
    return {**files, name: with_digest({**before, **fields}).encode()}


def test_launches_that_are_missing_damaged_or_other_than_their_samples_are_refused(
    made: PretendSession, tmp_path: Path
) -> None:
    files = files_of(made)
    flipped = bytearray(files["launch-0003.i64"])
    flipped[8] ^= 1
    launch = read_with_digest(files["launch-0002.json"])
    assert launch is not None
    bad = [
        {name: data for name, data in files.items() if not name.startswith("launch-0004")},
        {name: data for name, data in files.items() if name != "result.json"},
        {name: data for name, data in files.items() if name != "session.json"},
        {**files, "launch-0003.i64": bytes(flipped)},
        {**files, "launch-0003.json": files["launch-0003.json"][:-1]},
        changed(files, "launch-0002.json", median_ns=1),
        changed(files, "launch-0002.json", burst_ns=[1, 1, 1]),
        changed(files, "launch-0002.json", bursts=[1, -1, 120]),
        changed(files, "launch-0002.json", bursts=[], burst_ns=[], count=119),
        changed(files, "launch-0002.json", samples="../../x"),
        changed(files, "session.json", protocol=CERTIFY.in_flight().model_dump(mode="json")),
        changed(files, "session.json", protocol={**SCREEN.model_dump(mode="json"), "name": "other"}),
    ]
    result = made.result(made.pack(tmp_path / "whole.zip"))
    for number, each in enumerate(bad):
        with pytest.raises(DataError):
            sessions.require_result(pack(each, tmp_path / f"{number}.zip"), result)


def test_archives_that_are_none_of_a_session_are_refused(made: PretendSession, tmp_path: Path) -> None:
    files = files_of(made)
    result = made.result(made.pack(tmp_path / "whole.zip"))
    hostile = {
        "traversal": pack({**files, "../launch-0099.i64": b""}, tmp_path / "1.zip"),
        "absolute": pack({**files, "/launch-0099.i64": b""}, tmp_path / "2.zip"),
        "other": pack({**files, "evil.sh": b""}, tmp_path / "3.zip"),
        "folder": pack({**files, "launch-0099.json/": b""}, tmp_path / "4.zip"),
        "link": pack({"session.json": b"/etc/passwd"}, tmp_path / "5.zip", mode=stat.S_IFLNK | 0o777),
        "packed": pack(files, tmp_path / "6.zip", kind=zipfile.ZIP_DEFLATED),
    }
    for why, archive in hostile.items():
        with pytest.raises(DataError):
            sessions.require_result(archive, result)
        assert why
    nothing = tmp_path / "7.zip"
    for data in (b"", b"PK", b"x" * 100, (tmp_path / "whole.zip").read_bytes()[:-9]):
        nothing.write_bytes(data)
        with pytest.raises(DataError):
            sessions.require_result(nothing, result)


def test_two_files_of_one_name_and_files_within_each_other_are_refused(made: PretendSession, tmp_path: Path) -> None:
    result = made.result(made.pack(tmp_path / "whole.zip"))
    twice = tmp_path / "twice.zip"
    with zipfile.ZipFile(twice, "w") as opened:
        opened.writestr("session.json", b"1")
        with pytest.warns(UserWarning, match="Duplicate name"):
            opened.writestr("session.json", b"2")
    with pytest.raises(DataError, match="two files of one name"):
        sessions.require_result(twice, result)
    data = bytearray((tmp_path / "whole.zip").read_bytes())
    place = data.rindex(b"PK\x01\x02")
    data[place + 20 : place + 28] = (1 << 28).to_bytes(4, "little") * 2
    (tmp_path / "bomb.zip").write_bytes(bytes(data))
    with pytest.raises(DataError):
        sessions.require_result(tmp_path / "bomb.zip", result)


def test_an_archive_too_large_is_refused_before_it_is_listed(
    made: PretendSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = made.pack(tmp_path / "a.zip")
    result = made.result(archive)
    monkeypatch.setattr(sessions, "_MOST_CONTENTS_BYTES", 100)
    with pytest.raises(DataError, match="files"):
        sessions.require_result(archive, result)
    os.truncate(archive, sessions.MOST_BYTES + 1)
    with pytest.raises(DataError, match="bytes"):
        sessions.require_result(archive, result)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_flipped_byte_ends_in_a_sentence_or_changes_nothing(made: PretendSession, data: st.DataObject) -> None:
    whole = made.path.with_suffix(".zip")
    if not whole.exists():
        made.pack(whole)
    result = made.result(whole)
    damaged = bytearray(whole.read_bytes())
    place = data.draw(st.integers(0, len(damaged) - 1))
    damaged[place] ^= data.draw(st.integers(1, 255))
    archive = made.path.with_suffix(".damaged")
    archive.write_bytes(bytes(damaged))
    try:
        found = sessions.require_result(archive, result)
    except DataError:
        return
    assert found.anchor_ms == result.anchor_ms
