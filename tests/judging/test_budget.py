"""Budgets: reading them, and what they allow."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from edgebuild.core.budget import Budget
from edgebuild.errors import UsageError
from edgebuild.judging.budget import drop_budget, parse_budget
from edgebuild.judging.metrics import named_metric
from edgebuild.judging.own_metrics import custom


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("2 points", {"points": 2.0}),
        ("0.5 points", {"points": 0.5}),
        ("1 point", {"points": 1.0}),
        ("2pts", {"points": 2.0}),
        (" 1% ", {"relative": 0.01}),
        ("0.5 %", {"relative": 0.005}),
        ("floor 0.9", {"floor": 0.9}),
        ("Floor -3", {"floor": -3.0}),
        ("agreement 0.98", {"agreement": 0.98}),
        ("agreement 98%", {"agreement": 0.98}),
    ],
)
def test_texts(text: str, fields: dict[str, float]) -> None:
    assert parse_budget(text) == Budget(**fields)
    assert parse_budget(text, per_slice_points=5).per_slice_points == 5


@pytest.mark.parametrize(
    "text", ["", "2", "points", "two points", "-1 points", "1e3 points", "floor", "2 points 3", "%"]
)
def test_texts_that_mean_nothing(text: str) -> None:
    with pytest.raises(UsageError, match="can't read the budget") as error:
        parse_budget(text)
    assert '"2 points"' in error.value.hint


@pytest.mark.parametrize("text", ["0 points", "0%", "100%", "agreement 98", "agreement 0"])
def test_texts_out_of_range(text: str) -> None:
    with pytest.raises(UsageError, match="out of range"):
        parse_budget(text)


amounts = st.decimals("0.001", "99", places=3).map(float)


@given(
    st.one_of(
        amounts.map(lambda v: Budget(points=v)),
        amounts.map(lambda v: Budget(relative=v / 100)),
        amounts.map(lambda v: Budget(agreement=v / 100)),
        st.decimals(-1000, 1000, places=4).map(lambda v: Budget(floor=float(v))),
    )
)
def test_every_budget_reads_back_from_its_text(budget: Budget) -> None:
    back = parse_budget(budget.text)
    for kind in ("points", "relative", "agreement", "floor"):
        assert getattr(back, kind) == pytest.approx(getattr(budget, kind))


@pytest.mark.parametrize("fields", [{}, {"points": 1.0, "floor": 0.9}, {"per_slice_points": 5.0}, {"points": -1.0}])
def test_a_budget_is_exactly_one_kind(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Budget(**fields)


def test_what_budgets_allow() -> None:
    accuracy, error = named_metric("accuracy"), named_metric("mse")
    wide = custom(lambda _o, _t: 0.0, name="m:f", direction="maximise", scale=(-1.0, 3.0))
    assert drop_budget(Budget(points=2), 0.9, accuracy) == pytest.approx(0.02)
    assert drop_budget(Budget(points=2), 0.9, wide) == pytest.approx(0.08)
    assert drop_budget(Budget(relative=0.01), 0.9, accuracy) == pytest.approx(0.009)
    assert drop_budget(Budget(relative=0.01), 4.0, error) == pytest.approx(0.04)
    assert drop_budget(Budget(floor=0.85), 0.9, accuracy) == pytest.approx(0.05)
    assert drop_budget(Budget(floor=0.95), 0.9, accuracy) == pytest.approx(-0.05)
    assert drop_budget(Budget(floor=5.0), 4.0, error) == pytest.approx(1.0)
    assert drop_budget(Budget(agreement=0.98), 1.0, accuracy) == pytest.approx(0.02)


def test_points_need_a_scale() -> None:
    with pytest.raises(UsageError, match="metric mse has no scale") as error:
        drop_budget(Budget(points=2), 4.0, named_metric("mse"))
    assert "`relative`" in error.value.hint
