"""The distributions are scipy's, at whole degrees of freedom."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from edgebuild.measuring.distributions import chi_squared_spread, normal_below, t_quantile


@given(p=st.floats(0.001, 0.9999), degrees=st.integers(1, 1_000))
def test_t_quantiles_are_scipys(p: float, degrees: int) -> None:
    assert t_quantile(p, degrees) == pytest.approx(special.stdtrit(degrees, p), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("degrees", [*range(1, 12), 47, 200, 999, 1_600, 3_001])
def test_spread_of_chi_squared_is_scipys(degrees: int) -> None:
    expected = special.chdtri(degrees, 1 - (np.arange(400) + 0.5) / 400)
    assert chi_squared_spread(degrees, 400) == pytest.approx(expected, rel=1e-9)


@given(st.lists(st.floats(-40, 40), max_size=20))
def test_the_normal_distribution_is_scipys(values: list[float]) -> None:
    assert normal_below(np.array(values)) == pytest.approx(special.ndtr(np.array(values)), rel=1e-12, abs=1e-300)


def test_statements_about_launches_need_no_scipy() -> None:
    code = (
        "import sys; from edgebuild.measuring.statistics import compare; "
        "assert compare([(1.0, 2.0), (1.1, 2.0)]); assert 'scipy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
