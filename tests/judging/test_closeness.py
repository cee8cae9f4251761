"""SQNR, KL and agreement by known answers, in one piece and streamed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy import special

from edgebuild.core import chunks
from edgebuild.core.classes import is_class_row
from edgebuild.core.verdict import Closeness
from edgebuild.errors import ModelError
from edgebuild.judging.agreement import agrees
from edgebuild.judging.closeness import MAX_SQNR_DB, closeness, kl_nats, sqnr_db

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.normal(size=(500, 7)).astype(np.float32)
NOISY = LOGITS + RANDOM.normal(scale=0.1, size=LOGITS.shape).astype(np.float32)


def test_sqnr_by_hand() -> None:
    wanted = np.full((10, 4), 2.0)
    assert sqnr_db(wanted, wanted + 0.02) == pytest.approx(40.0)
    assert sqnr_db(wanted, np.zeros_like(wanted)) == pytest.approx(0.0)
    assert sqnr_db(wanted, wanted) == MAX_SQNR_DB
    assert sqnr_db(np.zeros(3), np.ones(3)) is None


def expected_kl(logits: NDArray[Any], other: NDArray[Any]) -> float:
    return float(special.rel_entr(special.softmax(logits, axis=1), special.softmax(other, axis=1)).sum(axis=1).mean())


def test_kl_of_logits_and_of_probabilities_is_the_same() -> None:
    expected = expected_kl(LOGITS.astype(np.float64), NOISY.astype(np.float64))
    assert kl_nats(LOGITS, NOISY) == pytest.approx(expected, rel=1e-6)
    assert kl_nats(special.softmax(LOGITS, axis=1), special.softmax(NOISY, axis=1)) == pytest.approx(expected, rel=1e-4)


def test_kl_survives_zero_probabilities_and_huge_logits() -> None:
    certain, wrong = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
    assert kl_nats(certain, wrong) == pytest.approx(-np.log(1e-12), rel=1e-6)
    assert kl_nats(np.array([[1e4, 0.0]]), np.array([[0.0, 1e4]])) == pytest.approx(1e4)
    assert kl_nats(certain, certain) == 0


def test_masked_scores_count_in_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the masked class weren't there; also where the artifact masks by a number, and in pieces."""
    logits, noisy = (np.concatenate([one, np.full((500, 1), -np.inf, np.float32)], axis=1) for one in (LOGITS, NOISY))
    plain = closeness({"y": LOGITS}, {"y": NOISY})
    for size in (1 << 22, 64):
        monkeypatch.setattr(chunks, "CHUNK_ELEMENTS", size)
        with np.errstate(all="raise", under="ignore"):
            found = closeness({"y": logits}, {"y": noisy})
            by_number = closeness({"y": logits}, {"y": np.where(np.isneginf(noisy), np.float32(-65504), noisy)})
        for each in (found, by_number):
            assert each.sqnr_db == pytest.approx(plain.sqnr_db)
            assert each.kl_nats == pytest.approx(plain.kl_nats)
            assert each.agreement == plain.agreement
    nothing = np.full((5, 3), -np.inf)
    assert closeness({"y": nothing}, {"y": nothing}) == Closeness(sqnr_db=None, kl_nats=0.0, agreement=1.0)
    assert closeness({"y": LOGITS}, {"y": noisy[:, 1:]}) == Closeness(), "masked where the reference isn't"


def test_an_output_of_numbers_agrees_where_what_is_masked_stays_below_the_rest() -> None:
    wanted = np.ones((4, 2, 3))
    wanted[:, 0, 0] = -np.inf
    given = wanted.copy()
    given[1, 0, 0] = -65504
    given[2, 0, 0] = 1.0
    given[3, 1, 1] = 2.0
    assert agrees({"y": wanted}, {"y": given}).tolist() == [1, 1, 0, 0]


def test_closeness_of_a_classifier() -> None:
    found = closeness({"y": LOGITS}, {"y": NOISY})
    assert found.kl_nats == pytest.approx(kl_nats(LOGITS, NOISY))
    assert found.sqnr_db == sqnr_db(LOGITS, NOISY)
    assert found.agreement == (LOGITS.argmax(1) == NOISY.argmax(1)).mean()
    assert closeness({"y": LOGITS}, {"y": LOGITS}).to_json()


def test_several_outputs_count_by_the_worst() -> None:
    values = RANDOM.normal(size=500)
    found = closeness({"y": LOGITS, "v": values}, {"y": LOGITS, "v": values * 1.01})
    assert found.sqnr_db == pytest.approx(40.0)
    assert (found.kl_nats, found.agreement) == (0, 1)


def test_whole_numbers_have_agreement_only() -> None:
    labels = np.arange(100)
    assert closeness({"y": labels}, {"y": labels}) == Closeness(agreement=1.0)


def test_memory_maps_are_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "a.npy", LOGITS)
    np.save(tmp_path / "b.npy", NOISY)
    whole = closeness({"y": LOGITS}, {"y": NOISY})
    monkeypatch.setattr(chunks, "CHUNK_ELEMENTS", 100)
    assert len(list(chunks.chunks(LOGITS))) > 30
    streamed = closeness(
        {"y": np.load(tmp_path / "a.npy", mmap_mode="r")}, {"y": np.load(tmp_path / "b.npy", mmap_mode="r")}
    )
    assert (streamed.sqnr_db, streamed.kl_nats) == pytest.approx((whole.sqnr_db, whole.kl_nats))
    assert streamed.agreement == whole.agreement


def test_what_is_not_finite_is_close_to_nothing() -> None:
    broken = NOISY.copy()
    broken[3, 2] = np.nan
    assert closeness({"y": LOGITS}, {"y": broken}) == Closeness()


def test_shapes_must_fit() -> None:
    with pytest.raises(ModelError, match="has shape"):
        closeness({"y": LOGITS}, {"y": LOGITS[:5]})


def test_scores_with_axes_of_one_behind_are_scores_of_classes() -> None:
    wanted = np.array([[0.0, 2.0], [3.0, 1.0]], dtype=np.float32)
    given = np.array([[0.0, 1.2], [0.5, 1.0]], dtype=np.float32)
    flat, mapped = ({"y": wanted}, {"y": given}), ({"y": wanted[:, :, None, None]}, {"y": given[:, :, None, None]})
    assert agrees(*mapped).tolist() == agrees(*flat).tolist() == [1.0, 0.0]
    assert closeness(*mapped) == closeness(*flat)
    assert not is_class_row((2, 50, 1))  # 50 steps of one number
