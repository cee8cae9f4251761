from __future__ import annotations

import pytest

from edgebuild.core.measurement import Measurements
from edgebuild.core.objective import OBJECTIVES, Objective


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=lambda each: each.name)
def test_what_is_not_known_is_as_bad_as_can_be(objective: Objective) -> None:
    """A file's size is always known; of everything else an unknown figure never beats a known one."""
    unknown = objective.figure(Measurements(), 1000)
    assert (unknown.low, unknown.high) == (None, None)
    if objective.in_files:
        assert unknown.value == 1000
    else:
        assert all(objective.cost(unknown.value) > objective.cost(known) for known in (1e-6, 1.0, 1e9))
