"""The record of test-set openings: append-only, chained, and on disk before anything is scored."""

from __future__ import annotations

import json
import resource
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebuild.building.seal import Opening, open_seal
from edgebuild.core.values import digest_json
from edgebuild.errors import StoreError
from edgebuild.judging.intervals import level_for_opening

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "seal.jsonl"


def opened(path: Path, *artifacts: str, project: str = "p", test: str = "t") -> Opening:
    return open_seal(path, project=project, test_digest=test, artifacts=artifacts)


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
        (3, [one, two, three[:-20]]),
        (2, [one, "", three]),
    ):
        path.write_text("\n".join(lines) + "\n")
        before = path.read_bytes()
        with pytest.raises(StoreError, match=f"was changed or damaged in line {number}") as caught:
            opened(path, "d")
        assert "honest" in caught.value.hint
        assert path.read_bytes() == before, "a damaged record is evidence: it is left as it is"


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
