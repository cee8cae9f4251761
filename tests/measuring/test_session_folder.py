"""Measurements on disk: append-only, resumable launch by launch, and never believed when damaged."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from edgebuild.core.measurement import Launch
from edgebuild.core.values import digest_bytes
from edgebuild.errors import StoreError
from edgebuild.measuring import journal
from edgebuild.measuring.session_folder import RESUME_AGE, REUSE_AGE, SessionFolder, open_session, write_atomic
from tests.mutants import COUNTS, damaged, flipped

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KEY = "ab" * 32
MINUTE = timedelta(minutes=1)


def opened(root: Path, key: str = KEY, *, protocol: str = "screen", remeasure: bool = False) -> SessionFolder:
    return open_session(root, protocol, key, {"title": "t"}, remeasure=remeasure)


def launched(folder: SessionFolder, count: int) -> None:
    for index in range(count):
        data = bytes([index]) * 8
        (folder.path / f"launch-{index:04d}.i64").write_bytes(data)
        folder.record(
            Launch(
                index=index,
                arm="a",
                samples=f"launch-{index:04d}.i64",
                samples_sha256=digest_bytes(data),
                count=1,
                median_ns=1,
                import_s=0,
                load_s=0,
                first_inference_s=0,
                warmup_inferences=1,
                settled=True,
            )
        )


def clock(patch: pytest.MonkeyPatch, *, ahead: timedelta = timedelta(0), boot: str = "this", up: float = 1e6) -> None:
    """Set both clocks: the one that people set, and the time since the machine started."""
    moment = journal.Moment(at=datetime.now(UTC) + ahead, boot=boot, uptime_s=up)
    patch.setattr(journal, "now", lambda: moment)


def whole(root: Path, count: int = 3) -> SessionFolder:
    folder = opened(root)
    launched(folder, count)
    folder.finish({"launches": count, "cut_short": False})
    return folder


def test_an_unfinished_session_is_gone_on_with(tmp_path: Path) -> None:
    first = opened(tmp_path)
    launched(first, 2)
    again = opened(tmp_path)
    assert again == first
    assert [launch.index for launch in again.launches()] == [0, 1]


def test_a_finished_session_is_reused(tmp_path: Path) -> None:
    first = whole(tmp_path)
    again = opened(tmp_path)
    assert again.path == first.path
    assert again.whole


@pytest.mark.parametrize("said", [{"cut_short": True}, {}])
def test_one_that_was_cut_short_is_no_whole_one(
    tmp_path: Path, said: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = opened(tmp_path)
    launched(first, 2)
    first.finish({"launches": 2, **said})
    again = opened(tmp_path)
    assert (again.path, again.whole, len(again.launches())) == (first.path, False, 2), "it is gone on with"
    assert again.note == f"{first.path.name} was cut short: not used as a whole one"
    as_it_was = open_session(tmp_path, "screen", KEY, {}, remeasure=False, as_it_was=True)
    assert (as_it_was.path, as_it_was.whole, as_it_was.cut_short, as_it_was.note) == (first.path, True, True, "")
    present = journal.now()
    later = present.model_copy(update={"uptime_s": present.uptime_s + (RESUME_AGE + MINUTE).total_seconds()})
    monkeypatch.setattr(journal, "now", lambda: later)
    assert opened(tmp_path).path != first.path, "after an hour the machine is another one"


def test_remeasuring_starts_anew_and_keeps_the_old(tmp_path: Path) -> None:
    first = whole(tmp_path)
    again = opened(tmp_path, remeasure=True)
    assert again.path != first.path
    assert first.path.is_dir()
    assert not again.whole
    assert opened(tmp_path).path == again.path, "the newest is the one"


AGES = [
    (RESUME_AGE - MINUTE, False, True),
    (RESUME_AGE + MINUTE, False, False),
    (RESUME_AGE + MINUTE, True, True),
    (REUSE_AGE - MINUTE, True, True),
    (REUSE_AGE + MINUTE, True, False),
]


@pytest.mark.parametrize("boot", ["this", "another", ""])
@pytest.mark.parametrize(("age", "finished", "kept"), AGES)
def test_evidence_ages_and_unfinished_evidence_sooner(
    age: timedelta, finished: bool, kept: bool, boot: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock(monkeypatch, boot="this" if boot else "")
    folder = whole(tmp_path) if finished else opened(tmp_path)
    up = 1e6 + age.total_seconds() if boot == "this" else 60.0
    clock(monkeypatch, ahead=age, boot=boot, up=up)
    again = opened(tmp_path)
    assert (again.path == folder.path, again.note) == (kept, "")
    assert folder.path.is_dir(), "evidence is never removed"


def test_a_clock_that_is_set_while_the_machine_runs_changes_no_age(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock(monkeypatch)
    first = whole(tmp_path)
    for ahead in (timedelta(days=400), timedelta(days=-400)):
        clock(monkeypatch, ahead=ahead, up=1e6 + 60)
        assert opened(tmp_path).path == first.path
    clock(monkeypatch, up=1e6 + 8 * 86_400)
    assert opened(tmp_path).path != first.path, "eight days, whatever the clock says"


def test_a_session_begun_while_the_clock_was_ahead_is_never_reused_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    month = timedelta(days=30)
    clock(monkeypatch, ahead=month, boot="first")
    ahead = whole(tmp_path)
    clock(monkeypatch, boot="second")
    measured = opened(tmp_path)
    assert measured.path != ahead.path
    assert measured.note == f"{ahead.path.name} isn't used again: the clock was set back since it was begun"
    clock(monkeypatch, ahead=month + MINUTE, boot="third")
    later = opened(tmp_path)
    assert later.path not in {ahead.path, measured.path}, (
        "a month later the clock looks right, and what came after tells"
    )


def test_what_was_measured_again_comes_before_a_session_from_the_future(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock(monkeypatch, ahead=timedelta(days=30))
    whole(tmp_path)
    clock(monkeypatch, up=1e6 + 60)
    again = opened(tmp_path, remeasure=True)
    assert opened(tmp_path).path == again.path


def test_two_sessions_in_one_moment_are_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch)
    monkeypatch.setattr("edgebuild.measuring.session_folder._stamp", lambda: "20260101T000000000000Z")
    assert opened(tmp_path).path != opened(tmp_path, remeasure=True).path


@pytest.mark.parametrize("text", [b"", b"[" * 10**5, b"\xff\n", b'{"line": {}, "sha256": ""}', b"{}"])
def test_a_damaged_journal_makes_new_evidence_and_is_continued(text: bytes, tmp_path: Path) -> None:
    first = whole(tmp_path)
    path = tmp_path / journal.NAME
    path.write_bytes(path.read_bytes().replace(b"this", b"that")[:-30] + text)
    again = opened(tmp_path)
    assert again.path != first.path
    assert opened(tmp_path).path == again.path


@pytest.mark.parametrize("count", COUNTS)
def test_no_flip_in_a_journal_changes_what_it_says(count: int, tmp_path: Path) -> None:
    for number in range(3):
        journal.begin(tmp_path, lambda n, number=number: f"{number}-{n}")  # type: ignore[misc]
    path = tmp_path / journal.NAME
    data, lines = path.read_bytes(), journal.read(tmp_path)
    assert len(lines) == 3
    for seed in range(count):
        path.write_bytes(damaged(data, seed))
        found = journal.read(tmp_path)
        assert set(found) <= set(lines)
        assert [line.number for line in found] == sorted({line.number for line in found})


def test_a_line_that_is_lost_tells_nothing_of_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch)
    for name in "abc":
        journal.begin(tmp_path, lambda _, name=name: name)  # type: ignore[misc]
    clock(monkeypatch, ahead=MINUTE, boot="next")
    lines = journal.read(tmp_path)
    assert journal.age(lines, "a") is not None
    assert journal.age((lines[0], lines[2]), "a") is None
    assert journal.age((lines[0], lines[2]), "c") is not None


def test_a_journal_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("mine\n")
    root = tmp_path / "measurements"
    root.mkdir()
    (root / journal.NAME).symlink_to(outside)
    with pytest.raises(StoreError, match="can't be written"):
        opened(root)
    assert outside.read_text() == "mine\n"


def test_another_key_or_protocol_is_another_session(tmp_path: Path) -> None:
    paths = {opened(tmp_path).path, opened(tmp_path, "cd" * 32).path, opened(tmp_path, protocol="certify").path}
    assert len(paths) == 3


def test_a_folder_that_is_no_session_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / f"screen-{KEY[:16]}-someday").mkdir(parents=True)
    later = datetime.now(UTC) + timedelta(minutes=5)
    (tmp_path / f"screen-{KEY[:16]}-{later.strftime('%Y%m%dT%H%M%S%fZ')}").mkdir()
    assert (opened(tmp_path).path / "session.json").is_file()


def no_samples(path: Path) -> None:
    path.with_suffix(".i64").unlink()


def other_samples(path: Path) -> None:
    path.with_suffix(".i64").write_bytes(b"\xff" * 8)


def half_written(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:20])


def another_launch(path: Path) -> None:
    path.write_text((path.parent / "launch-0000.json").read_text())


DAMAGE = [no_samples, other_samples, half_written, another_launch, lambda path: path.unlink()]


@pytest.mark.parametrize("damage", DAMAGE, ids=["samples gone", "samples changed", "half", "of another", "gone"])
def test_a_damaged_launch_counts_as_never_made_and_so_does_what_came_after(
    damage: Callable[[Path], None], tmp_path: Path
) -> None:
    """Launches pair up by their place: one that slid into another's round would be compared with the wrong one."""
    folder = opened(tmp_path)
    launched(folder, 4)
    damage(folder.path / "launch-0002.json")
    assert [launch.index for launch in opened(tmp_path).launches()] == [0, 1]


@pytest.mark.parametrize("damage", DAMAGE, ids=["samples gone", "samples changed", "half", "of another", "gone"])
def test_a_finished_session_with_a_damaged_launch_is_not_reused_as_if_whole(
    damage: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock(monkeypatch)
    first = whole(tmp_path)
    damage(first.path / "launch-0001.json")
    assert not opened(tmp_path).whole
    clock(monkeypatch, up=1e6 + RESUME_AGE.total_seconds() + 60)
    assert opened(tmp_path).launches() == ()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"launches": 2}', "{}"])
def test_a_damaged_result_makes_no_session_whole(text: str, tmp_path: Path) -> None:
    first = whole(tmp_path)
    (first.path / "result.json").write_text(text)
    again = opened(tmp_path)
    assert (again.path, again.whole) == (first.path, False)


def test_extras_are_kept_beside_the_launches(tmp_path: Path) -> None:
    folder = opened(tmp_path)
    assert folder.extras("memory") is None
    folder.record_extra("memory", {"peak": 3})
    assert folder.extras("memory") == {"peak": 3}
    (folder.path / "memory.json").write_text('{"peak"')
    assert folder.extras("memory") is None


def test_what_is_measured_is_said_in_the_folder(tmp_path: Path) -> None:
    facts = json.loads((opened(tmp_path).path / "session.json").read_text())
    assert facts["title"] == "t"
    assert datetime.fromisoformat(facts["started_at"]).tzinfo is not None


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "record.json"
    write_atomic(path, "old")

    def full(_: int) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=r"record\.json can't be written: No space left on device\.") as caught:
        write_atomic(path, "new")
    assert caught.value.hint
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("record.json", "old")]


def test_a_place_that_can_t_be_written_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="can't be written: Not a directory"):
        opened(tmp_path / "file" / "measurements")


@pytest.mark.parametrize("count", COUNTS)
def test_no_flipped_bit_in_a_session_passes(count: int, tmp_path: Path) -> None:
    """Whatever file of it, whatever byte: noticed, said, and never used."""
    folder = whole(tmp_path)
    folder.record_extra("memory-ab", {"baseline_bytes": 1, "load_peak_bytes": 2.5})
    sound = {path: path.read_bytes() for path in folder.path.iterdir()}
    paths = sorted(sound)
    assert len(paths) == 2 * 3 + 3
    for seed in range(count):
        path = paths[seed % len(paths)]
        bad = (flipped if seed % 3 else damaged)(sound[path], seed)
        if bad == sound[path]:
            continue
        path.write_bytes(bad)
        again = opened(tmp_path)
        if path.name == "session.json":
            assert again.path != folder.path, seed
            (again.path / "session.json").unlink()
            again.path.rmdir()
        elif path.name.startswith("memory"):
            assert again.extras("memory-ab") is None, seed
        else:
            assert not again.whole, seed
            assert len(again.launches()) == (3 if path.name == "result.json" else int(path.stem[-4:])), seed
        name = path.with_suffix(".json").name
        assert again.note == f"{folder.path.name}/{name} is damaged or of another version: measured again", seed
        path.write_bytes(sound[path])
    assert opened(tmp_path).whole


def test_a_session_of_before_there_were_digests_is_measured_again(tmp_path: Path) -> None:
    folder = whole(tmp_path)
    fields = json.loads((folder.path / "launch-0000.json").read_bytes())
    fields.pop("sha256_of_the_rest")
    (folder.path / "launch-0000.json").write_text(json.dumps(fields))
    assert opened(tmp_path).launches() == ()
