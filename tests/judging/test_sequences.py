"""Error rates of sequences: against torchmetrics, by hand, and what is said of targets that don't fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional.text import char_error_rate, word_error_rate

from edgebuild.errors import DataError
from edgebuild.judging.metrics import named_metric
from edgebuild.judging.sequences import edit_distance

TEXTS = st.lists(
    st.tuples(st.text("ab ", max_size=12), st.text("ab ", min_size=1, max_size=12)), min_size=1, max_size=6
)


def value(name: str, output: Any, targets: Any) -> float:
    return named_metric(name).value({"y": output}, targets)


def listed(*items: Any) -> Any:
    kept = np.empty(len(items), dtype=object)
    kept[:] = items
    return kept


@given(TEXTS)
def test_texts_are_torchmetrics(pairs: list[tuple[str, str]]) -> None:
    found, wanted = (list(each) for each in zip(*pairs, strict=True))
    texts = np.array(found, dtype=object), np.array(wanted)
    assert value("cer", *texts) == pytest.approx(float(char_error_rate(found, wanted)), abs=1e-6)
    if any(text.split() for text in wanted):
        words = [" ".join(text.split()) for text in found], [" ".join(text.split()) for text in wanted]
        assert value("wer", *texts) == pytest.approx(float(word_error_rate(*words)), abs=1e-6)


@given(st.lists(st.integers(0, 3), max_size=12), st.lists(st.integers(0, 3), max_size=12))
def test_an_edit_distance_is_the_recursion(one: list[int], other: list[int]) -> None:
    row = list(range(len(other) + 1))
    for number, left in enumerate(one, start=1):
        above, row = row, [number]
        for column, right in enumerate(other):
            row.append(min(row[-1] + 1, above[column + 1] + 1, above[column] + (left != right)))
    assert edit_distance(np.array(one, dtype=np.int64), np.array(other, dtype=np.int64)) == row[-1]


def test_scores_of_ctc_are_read_at_their_highest() -> None:
    """0 is blank: 1 1 0 1 2 2 reads 1 1 2."""
    scores = np.eye(3, dtype=np.float32)[[1, 1, 0, 1, 2, 2]][None]
    assert value("cer", scores, np.array([[1, 1, 2]])) == 0
    assert value("cer", scores, np.array([[1, 2]])) == 1 / 2
    assert value("cer", np.concatenate([scores, scores]), listed(np.array([1, 1, 2]), np.array([2]))) == 2 / 4


def test_counting_samples_is_repeating_them() -> None:
    found, wanted = np.array(["ab", "b", "cc"], dtype=object), np.array(["ab", "bb", "c"])
    counts = np.array([0, 2, 1])
    rows = np.repeat(np.arange(3), counts)
    for name in ("cer", "wer"):
        score = named_metric(name).prepare({"y": found}, wanted)
        assert score(counts) == pytest.approx(value(name, found[rows], wanted[rows]))


@pytest.mark.parametrize(
    ("name", "output", "targets", "message"),
    [
        (
            "cer",
            np.zeros((1, 4, 3)),
            np.array(["ab"]),
            "output of sample 0 is float64 of shape .4, 3., its target a text",
        ),
        ("wer", np.zeros((1, 4, 3)), np.array([[1, 2]]), r"its target int64 of shape \(2,\); both must be texts$"),
        ("cer", np.zeros((1, 3), int), np.zeros((1, 3, 2), int), "both must be texts, or rows of symbol numbers"),
        ("cer", np.array(["a"], dtype=object), np.array(["a", "b"]), "1 outputs for 2 targets"),
        ("wer", np.array(["a"], dtype=object), np.array([" "]), "wer is undefined on this data"),
    ],
)
def test_sequences_that_do_not_fit(name: str, output: Any, targets: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        value(name, output, targets)
