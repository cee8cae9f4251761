"""Outputs compared frame by frame."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgebuild.core import chunks
from edgebuild.errors import DataError
from edgebuild.models.outputs import check_finite, worst_mismatch

floats = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=2, max_dims=3, max_side=4), elements=st.floats(-1e3, 1e3, width=32)
)


@given(floats)
def test_equal_outputs_agree(array: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> None:
    assert worst_mismatch({"y": array}, {"y": array.copy()}) is None
    assert worst_mismatch({"y": array}, {"y": array * np.float32(1 + 1e-5)}) is None


@given(floats, st.data())
def test_the_worst_frame_is_named(
    array: np.ndarray[tuple[int, ...], np.dtype[np.float32]], data: st.DataObject
) -> None:
    frame = data.draw(st.integers(0, len(array) - 1))
    other = array.astype(np.float64)
    other[frame] += 10 + np.abs(array).max()
    found = worst_mismatch({"y": array}, {"y": other})
    assert found is not None
    assert (found[0], found[1]) == ("y", frame)
    assert found[2] == pytest.approx(10 + float(np.abs(array).max()))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_nothing_infinite_ever_agrees_nor_hides_another_frame(bad: float, side: int) -> None:
    good = np.ones((4, 2))
    wrong = good.copy()
    wrong[2, 1] = bad
    pair = [good, wrong] if side else [wrong, good]
    found = worst_mismatch({"y": pair[0]}, {"y": pair[1]})
    assert found == ("y", 2, np.inf)
    masked = bad == -np.inf
    assert worst_mismatch({"y": wrong}, {"y": wrong}) == (None if masked else ("y", 2, np.inf))


def test_another_shape_is_a_mismatch_and_further_frames_are_not_looked_at() -> None:
    assert worst_mismatch({"y": np.ones((2, 3))}, {"y": np.ones((2, 4))}) == ("y", 0, np.inf)
    assert worst_mismatch({"y": np.ones((5, 3))}, {"y": np.ones((2, 3))}) is None


def test_the_worst_of_several_outputs_is_named() -> None:
    a, b = np.ones((3, 2)), np.ones((3, 2))
    found = worst_mismatch({"a": a, "b": b}, {"a": a + 0.1, "b": b + np.array([[0], [0.5], [0]])})
    assert found == ("b", 1, 0.5)


@pytest.mark.parametrize("frame", [0, 4095, 4096, 5000])
def test_the_first_frame_that_is_not_finite_is_named(frame: int) -> None:
    array = np.zeros((5001, 2), np.float32)
    check_finite({"y": array, "label": np.zeros(3, np.int64)}, "the model")
    array[frame:, 1] = np.nan
    with pytest.raises(DataError, match=f"the model: output 'y' is NaN or infinite for frame {frame}"):
        check_finite({"y": array}, "the model")


def test_masked_scores_are_no_fault_and_hide_none() -> None:
    wanted = np.array([[1.0, -np.inf], [2.0, -np.inf], [-np.inf, -np.inf]], np.float32)
    check_finite({"y": wanted}, "the model")
    assert worst_mismatch({"y": wanted}, {"y": wanted.copy()}) is None
    found = wanted.copy()
    found[1, 0] = 2.5
    assert worst_mismatch({"y": wanted}, {"y": found}) == ("y", 1, 0.5)
    for other in (np.inf, np.nan, 0.0):
        found = wanted.copy()
        found[2, 1] = other
        assert worst_mismatch({"y": wanted}, {"y": found}) == ("y", 2, np.inf)


def test_large_outputs_are_compared_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = np.zeros((50, 3, 4), dtype=np.float32)
    given = wanted.copy()
    given[17], given[31, 2, 1] = 0.5, 2.0
    whole = worst_mismatch({"y": wanted}, {"y": given})
    monkeypatch.setattr(chunks, "CHUNK_ELEMENTS", 30)
    assert worst_mismatch({"y": wanted}, {"y": given}) == whole == ("y", 31, 2.0)
    given[44] = np.nan
    assert worst_mismatch({"y": wanted}, {"y": given}) == ("y", 44, np.inf)
    with pytest.raises(DataError, match="infinite for frame 44"):
        check_finite({"y": given}, "it")
