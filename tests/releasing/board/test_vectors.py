"""The small reader of ``.npy`` files against numpy, and when two answers count as equal."""

from __future__ import annotations

import contextlib
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebuild.releasing.board.documents import Problem
from edgebuild.releasing.board.vectors import KINDS, Vector, excess, vector_of

from .bundles import npy


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (1, 2, 3, 4), (0, 5)])
def test_it_reads_what_numpy_writes(kind: str, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(1).integers(0, 2 if kind == "|b1" else 100, size=shape).astype(kind)
    found = vector_of(npy(array), "it")
    assert (found.kind, found.shape) == (kind, shape)
    assert list(found.values) == array.ravel().tolist()


@given(st.lists(st.floats(width=16), min_size=1, max_size=20), st.sampled_from(["<f2", "<f4", "<f8"]))
def test_floats_are_read_as_they_are(values: list[float], kind: str) -> None:
    array = np.array(values, dtype=kind)
    found = np.array(vector_of(npy(array), "it").values)
    assert np.array_equal(found, array.astype("<f8"), equal_nan=True)


@given(st.binary(max_size=200))
def test_bytes_of_any_kind_are_an_array_or_a_sentence(data: bytes) -> None:
    for start in (b"", b"\x93NUMPY\x01\x00", npy(np.zeros(3))[:60]):
        with contextlib.suppress(Problem):
            vector_of(start + data, "it")


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 2), order="F").T[:, ::-1].copy(order="F"),
        np.zeros(3, dtype=">f4"),
        np.zeros(3, dtype="<c8"),
        np.array(["a"]),
        np.zeros(2, dtype=[("a", "<f4")]),
    ],
)
def test_other_arrays_are_refused(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> None:
    with pytest.raises(Problem, match="no plain array"):
        vector_of(npy(array), "it")


def test_more_sizes_than_any_array_has_are_refused_unmultiplied() -> None:
    sizes = ", ".join(["999999999999999"] * 200_000 + ["0"])
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({sizes}), }}\n".encode()
    with pytest.raises(Problem, match="no plain array"):
        vector_of(b"\x93NUMPY\x02\x00" + len(header).to_bytes(4, "little") + header, "it")


def test_an_array_of_another_length_or_a_pickle_is_refused() -> None:
    whole = npy(np.zeros(3))
    for data in (whole[:-1], whole + b"0", whole.replace(b"(3,)", b"(9,)")):
        with pytest.raises(Problem, match="another number of values"):
            vector_of(data, "it")
    with pytest.raises(Problem, match="no array"):
        vector_of(b"\x80\x04N.", "it")


def floats(*frames: list[float]) -> Vector:
    return vector_of(npy(np.array(frames, dtype="<f4")), "it")


NAN, INF = math.nan, math.inf


def test_nan_equals_nan_and_an_infinity_itself() -> None:
    odd = [NAN, INF, -INF, 0.0]
    assert excess(floats(odd), floats(odd), 0.0, 0.0, "it") == 0.0
    for at, wrong in ((0, 1.0), (1, -INF), (2, INF), (1, 3.4e38), (2, NAN), (3, NAN)):
        other = [*odd[:at], wrong, *odd[at + 1 :]]
        assert excess(floats(other), floats(odd), 1e9, 1e9, "it") == INF
        assert excess(floats(odd), floats(other), 1e9, 1e9, "it") == INF


def test_what_is_allowed_goes_by_the_largest_value_of_a_frame() -> None:
    expected = floats([100.0, 0.0], [1.0, INF])
    assert excess(floats([100.0, 0.5], [1.0, INF]), expected, 0.01, 0.0, "it") == pytest.approx(0.5)
    assert excess(floats([100.0, 0.0], [1.5, INF]), expected, 0.01, 0.0, "it") == pytest.approx(50)
    assert excess(floats([100.0, 0.0], [1.5, INF]), expected, 0.0, 1.0, "it") == pytest.approx(0.5)
    assert excess(floats([100.0, 1e-9], [1.0, INF]), expected, 0.0, 0.0, "it") == INF


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=4, max_size=4), st.floats(0, 0.1), st.floats(0, 10))
def test_it_is_what_numpy_says(values: list[float], rtol: float, atol: float) -> None:
    expected = np.array([[1.0, -50.0], [1e5, 0.25]], dtype="<f4")
    found = np.array(values, dtype="<f4").reshape(2, 2)
    here, there = found.astype("<f8"), expected.astype("<f8")
    right = (np.abs(here - there) <= atol + rtol * np.abs(there).max(axis=1, keepdims=True)).all()
    got = excess(vector_of(npy(found), "it"), vector_of(npy(expected), "it"), rtol, atol, "it")
    assert (got <= 1.0 + 1e-12) == right or abs(got - 1.0) < 1e-9


def test_large_integers_are_compared_exactly() -> None:
    one, other = (vector_of(npy(np.array([2**62 + step])), "it") for step in (0, 1))
    assert excess(one, one, 0.0, 0.0, "it") == 0.0
    assert excess(one, other, 0.0, 0.0, "it") == INF


def test_another_shape_or_type_is_refused() -> None:
    for other in (floats([1.0, 2.0]), vector_of(npy(np.array([[1.0], [2.0]])), "it")):
        with pytest.raises(Problem, match="Output 'it' is a"):
            excess(floats([1.0], [2.0]), other, 1.0, 1.0, "it")
