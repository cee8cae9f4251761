"""The record of test-set openings: append-only, chained, and on disk before anything is scored."""

from __future__ import annotations

import json
import os
import resource
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebuild.building.seal import openings_of, record_test_access
from edgebuild.core.values import digest_json
from edgebuild.errors import StoreError
from edgebuild.judging.intervals import level_for_opening
from tests.mutants import COUNTS, damaged

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgebuild.core.verdict import SealedSetAccess


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "seal.jsonl"


def opened(path: Path, *artifacts: str, project: str = "p", test: str = "t") -> SealedSetAccess:
    return access(path, *artifacts, project=project, test=test)[0]


def access(path: Path, *artifacts: str, project: str = "p", test: str = "t") -> tuple[SealedSetAccess, tuple[str, ...]]:
    return record_test_access(path, project=project, test_digest=test, artifacts=artifacts)


def notes(path: Path, artifact: str) -> tuple[str, ...]:
    return access(path, artifact)[1]


def test_every_new_set_of_artifacts_is_another_opening(path: Path) -> None:
    assert [opened(path, "a").number, opened(path, "b").number, opened(path, "a", "c").number] == [1, 2, 3]


def test_the_very_same_artifacts_or_some_of_them_again_are_no_new_opening(path: Path) -> None:
    first = opened(path, "a", "b")
    before = path.read_bytes()
    assert opened(path, "b", "a", "b") == first
    assert opened(path, "a") == first
    assert path.read_bytes() == before
    assert opened(path, "a", "c").number == 2
    assert opened(path, "b").number == 1


def test_other_projects_and_other_test_sets_count_for_themselves(path: Path) -> None:
    opened(path, "a")
    assert opened(path, "b", project="q").number == 1
    assert opened(path, "b", test="u").number == 1
    assert opened(path, "b").number == 2
    assert opened(path, "c", test="u").number == 2


def test_an_opening_is_on_disk_when_it_is_returned_and_says_what_it_scores(path: Path) -> None:
    opening = opened(path, "b", "a")
    (line,) = path.read_text().splitlines()
    entry = json.loads(line)
    assert entry["artifacts"] == ["a", "b"] == list(opening.artifacts)
    assert (entry["project"], entry["test"], entry["opening"], entry["previous"]) == ("p", "t", 1, "")
    assert opening.text == f"opening 1 of the test set ({entry['at'][:10]}, 2 artifacts)"


@given(st.lists(st.tuples(st.sampled_from("pq"), st.sampled_from("tu"), st.sets(st.sampled_from("abcd"), min_size=1))))
@settings(max_examples=40, deadline=None)
def test_counts_are_those_of_a_list(scored: list[tuple[str, str, set[str]]]) -> None:
    """Against the simplest model; and the file only ever grows."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "seal.jsonl"
        model: dict[tuple[str, str], list[set[str]]] = {}
        content = b""
        for project, test, artifacts in scored:
            known = model.setdefault((project, test), [])
            if not any(artifacts <= earlier for earlier in known):
                known.append(artifacts)
            wanted = next(i for i, earlier in enumerate(known, start=1) if artifacts <= earlier)
            assert opened(path, *artifacts, project=project, test=test).number == wanted
            assert path.read_bytes().startswith(content)
            content = path.read_bytes()


def forged(line: str, **changes: object) -> str:
    """A line altered by someone who keeps its own digest right."""
    entry = {**json.loads(line), **changes}
    del entry["digest"]
    return json.dumps({**entry, "digest": digest_json(entry)})


def test_a_line_that_was_changed_removed_moved_or_put_in_is_noticed(path: Path) -> None:
    for artifact in "abc":
        opened(path, artifact)
    one, two, three = path.read_text().splitlines()
    for number, lines in (
        (1, [one.replace('"a"', '"z"'), two, three]),
        (1, [two, three]),
        (2, [one, three]),
        (1, [two, one, three]),
        (2, [one, one, two, three]),
        (2, [forged(one, artifacts=["z"]), two, three]),
        (3, [one, two, forged(three, previous="")]),
        (2, [one, "not json", three]),
        (2, [one, "[]", three]),
        (2, [one, '{"previous": 1}', three]),
        (2, [one, "", three]),
    ):
        path.write_text("\n".join(lines) + "\n")
        before = path.read_bytes()
        with pytest.raises(StoreError, match=f"was changed or damaged in line {number}") as caught:
            opened(path, "d")
        assert "honest" in caught.value.hint
        assert path.read_bytes() == before, "a damaged record is evidence: it is left as it is"


def head(path: Path) -> Path:
    return path.with_name("seal.head.json")


@pytest.mark.parametrize("left", [0, 1, 2])
def test_lines_cut_off_the_end_are_noticed(path: Path, left: int) -> None:
    for artifact in "abc":
        opened(path, artifact)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:left]))
    with pytest.raises(StoreError, match=f"lost its end: it has {left} whole lines, and had 3"):
        opened(path, "d")


def test_a_record_that_is_gone_altogether_is_noticed_by_what_lies_beside_it(path: Path) -> None:
    opened(path, "a")
    path.unlink()
    with pytest.raises(StoreError, match="lost its end: it has 0 whole lines, and had 1"):
        opened(path, "b")


def test_a_record_written_anew_with_all_digests_right_is_noticed(path: Path, tmp_path: Path) -> None:
    opened(path, "a")
    other = tmp_path / "other.jsonl"
    opened(other, "x")
    path.write_bytes(other.read_bytes())
    with pytest.raises(StoreError, match="was rewritten: line 1 isn't"):
        opened(path, "b")


def test_a_record_without_its_head_counts_on_and_says_so_once(path: Path) -> None:
    for artifact in "abc":
        opened(path, artifact)
    for content in (None, "{", "[]", "null", '{"head": "", "lines": 0, "digest": ""}'):
        head(path).unlink()
        if content is not None:
            head(path).write_text(content)
        again, said = access(path, "a")
        assert again.number == 1
        assert "missing or damaged: nothing shows whether seal.jsonl lost its end" in said[0]
        assert notes(path, "a") == ()


@pytest.mark.parametrize("torn", ["{", '{"artifacts":["b"],"at":"20', "\0" * 300])
def test_half_a_line_at_the_end_is_put_aside_and_said(path: Path, torn: str) -> None:
    opened(path, "a")
    whole = path.read_bytes()
    path.write_bytes(whole + torn.encode())
    again, said = access(path, "a")
    assert (again.number, path.read_bytes()) == (1, whole)
    assert "half a line" in said[0]
    (aside,) = path.parent.glob("seal.torn-*")
    assert aside.read_bytes() == torn.encode()
    assert opened(path, "b").number == 2
    assert notes(path, "b") == ()


def test_an_opening_cut_into_after_it_was_used_is_not_taken_for_one_that_never_was(path: Path) -> None:
    for artifact in "abc":
        opened(path, artifact)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(StoreError, match="lost its end: it has 2 whole lines, and had 3"):
        opened(path, "d")


def test_a_last_line_that_lacks_its_line_end_only_is_counted(path: Path) -> None:
    opened(path, "a")
    opened(path, "b")
    path.write_bytes(path.read_bytes()[:-1])
    assert opened(path, "b").number == 2
    assert opened(path, "c").number == 3
    assert len(path.read_bytes().splitlines()) == 3
    assert notes(path, "c") == ()


def test_the_name_that_older_lines_give_a_test_set_counts(path: Path) -> None:
    opened(path, "a", test="old")
    later, _ = record_test_access(path, project="p", test_digest="new", also=("old",), artifacts=("b",))
    assert (later.number, later.others) == (2, 0)
    assert opened(path, "c", test="new").number == 3
    assert openings_of(path, project="p", test_digest="new", also=("old",)) == 3
    assert openings_of(path, project="q", test_digest="new") == 0


def test_openings_of_other_test_data_are_told(path: Path) -> None:
    opened(path, "a")
    opened(path, "b")
    other = opened(path, "c", test="u")
    assert other.text.endswith("; 2 of other test data are on record")


@pytest.mark.parametrize("name", ["seal.jsonl", "seal.head.json"])
def test_a_link_is_not_followed(path: Path, name: str) -> None:
    """Nothing outside the project is written, and what a link points to isn't read as the record."""
    outside = path.with_name("outside")
    outside.write_text("kept")
    path.with_name(name).symlink_to(outside)
    if name == "seal.jsonl":
        with pytest.raises(StoreError, match="can't be read: it is a link"):
            opened(path, "a")
        path.unlink()
        path.symlink_to(path.with_name("not-there"))
        with pytest.raises(StoreError, match="can't be read: it is a link"):
            opened(path, "a")
    else:
        assert opened(path, "a").number == 1
        assert not head(path).is_symlink()
    assert outside.read_text() == "kept"
    assert not path.with_name("not-there").exists()


def test_a_pipe_in_its_place_is_refused_and_not_waited_for(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(StoreError, match="can't be read: it is no plain file"):
        opened(path, "a")


@pytest.fixture
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of records needn't survive a power cut."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.mark.usefixtures("no_sync")
@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("with_head", [True, False])
def test_damage_is_refused_or_mended_and_never_lowers_the_count_in_silence(
    path: Path, count: int, with_head: bool
) -> None:
    for artifact in "abc":
        opened(path, artifact)
    record, beside = path.read_bytes(), head(path).read_bytes()
    mended = 0
    for seed in range(count):
        path.write_bytes(damaged(record, seed))
        head(path).unlink(missing_ok=True)
        if with_head:
            head(path).write_bytes(beside)
        try:
            found, said = access(path, "d")
        except StoreError:
            continue
        mended += 1
        assert found.number == 4 or (not with_head and said), seed
    assert mended < count


@pytest.mark.usefixtures("no_sync")
@pytest.mark.parametrize("count", COUNTS)
def test_a_damaged_head_lowers_no_count(path: Path, count: int) -> None:
    for artifact in "abc":
        opened(path, artifact)
    record, beside = path.read_bytes(), head(path).read_bytes()
    for seed in range(count):
        path.write_bytes(record)
        head(path).write_bytes(damaged(beside, seed))
        assert opened(path, "d").number == 4, seed


def test_a_record_that_can_t_be_written_keeps_the_set_sealed(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="can't be written") as caught:
        opened(tmp_path / "not" / "there.jsonl", "a")
    assert "stays sealed" in caught.value.hint


@contextmanager
def little_room(path: Path) -> Iterator[None]:
    """No file may grow beyond this one's size and a few bytes, as on a disk that is full.

    Only around the call under test: the limit holds for the test run's own output as well.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_keeps_the_set_sealed_and_the_record_as_it_was(path: Path) -> None:
    opened(path, "a")
    before = path.read_bytes()
    with pytest.raises(StoreError, match="can't be written"), little_room(path):
        opened(path, "b")
    assert path.read_bytes() == before


def test_a_later_opening_is_judged_at_its_share_of_alpha() -> None:
    assert [level_for_opening(k) for k in (1, 2, 5)] == pytest.approx([0.95, 0.975, 0.99])
