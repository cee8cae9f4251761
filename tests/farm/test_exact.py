"""What comes over HTTP is taken at its word, and what is no JSON for everybody is refused before anybody keeps it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from edgebuild.farm.exact import cleaned, require_plain
from edgebuild.farm.values import Ask, JobSpec


@pytest.mark.parametrize(
    "fields",
    [
        {"preemptible": 0},
        {"preemptible": "yes"},
        {"priority": "5"},
        {"priority": True},
        {"priority": 5.5},
        {"duration_s": "60"},
        {"begin_at": False},
        {"duration_s": float("nan")},
        {"purpose": "a\0b"},
        {"purpose": "\ud800"},
        {"labels": {"\0": "x"}},
        {"labels": {"x": "\udfff"}},
    ],
    ids=str,
)
def test_a_value_of_another_kind_is_none(fields: dict[str, Any]) -> None:
    Ask.model_validate({"target": "t"})
    with pytest.raises(ValidationError):
        Ask.model_validate({"target": "t", **fields})


def test_whole_numbers_are_numbers() -> None:
    assert Ask.model_validate({"target": "t", "duration_s": 60, "priority": 3, "preemptible": True}).duration_s == 60.0


@pytest.mark.parametrize("value", [float("inf"), 2**63, "\0", "\ud83d", {"a": [float("nan")]}, {"\udc00": 1}])
def test_what_is_no_json_is_refused_wherever_it_is(value: Any) -> None:
    with pytest.raises(ValidationError):
        JobSpec.model_validate({"kind": "bench", "ask": {"target": "t"}, "arguments": {"x": {"y": [value]}}})


def test_what_has_no_end_is_refused() -> None:
    deep: Any = 0
    for _ in range(10_000):
        deep = [deep]
    with pytest.raises(ValueError, match="levels"):
        require_plain(deep)


@given(st.text(st.characters() | st.characters(categories=["Cs"]) | st.just("\0")))
def test_a_cleaned_text_can_be_kept_and_sent(text: str) -> None:
    kept = cleaned(text)
    kept.encode()
    assert "\0" not in kept
    assert cleaned(kept) == kept


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_a_good_text_stays_as_it_is(text: str) -> None:
    assert cleaned(text) == text
