from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from edgebuild.reporting.axes import Box, Label, axis_for, place
from edgebuild.reporting.charts import thin

POSITIVE = st.floats(1e-6, 1e6)


@given(st.lists(POSITIVE, min_size=1, max_size=20))
def test_an_axis_holds_every_value_in_order_and_has_ticks(values: list[float]) -> None:
    axis = axis_for(values, start=0, end=100)
    spots = [axis.at(v) for v in sorted(values)]
    assert spots == sorted(spots)
    assert all(0 <= s <= 100 for s in spots)
    assert axis.ticks()
    assert all(axis.low * 0.999 <= t <= axis.high * 1.001 for t in axis.ticks())


def test_a_wide_range_is_logarithmic_and_a_narrow_one_is_not() -> None:
    assert axis_for([0.1, 10], start=0, end=1).log
    assert not axis_for([1, 2], start=0, end=1).log
    assert not axis_for([0, 100], start=0, end=1).log


@given(st.lists(st.tuples(st.floats(20, 980), st.floats(20, 380)), min_size=1, max_size=14))
def test_few_short_labels_never_cover_each_other(points: list[tuple[float, float]]) -> None:
    labels = [Label(x=x, y=y, gap=6, texts=(f"{i} int8-nncf-u8s8", f"{i}")) for i, (x, y) in enumerate(points)]
    placed = place(labels, obstacles=(), bounds=Box(left=0, top=0, right=1000, bottom=400), font=12)
    crowded = sum(1 for a, b in combinations(points, 2) if abs(a[0] - b[0]) < 60 and abs(a[1] - b[1]) < 60)
    overlaps = sum(1 for a, b in combinations(placed, 2) if a.box.overlap(b.box) > 0)
    assert overlaps <= max(0, crowded - 10)


@given(st.lists(POSITIVE, min_size=1, max_size=500))
def test_thinning_keeps_the_ends_and_invents_nothing(launch: list[float]) -> None:
    kept = thin(launch, 20)
    assert len(kept) <= max(20, 0)
    assert (kept[0], kept[-1]) == (min(launch), max(launch))
    assert set(kept) <= set(launch)
