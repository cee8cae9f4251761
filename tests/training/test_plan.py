from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from edgebuild.training.plan import TrainingPlan


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "either `epochs` or `steps`"),
        ({"epochs": 1, "steps": 1}, "not both"),
        ({"epochs": 0}, "greater than or equal to 1"),
        ({"steps": 1, "precision": "16-mixed"}, 'needs device = "cuda"'),
        ({"steps": 1, "learning_rate": 0.0}, "greater than 0"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrainingPlan(**settings)


def test_schedules_have_the_shapes_that_their_names_say() -> None:
    def factors(**settings: Any) -> list[float]:
        plan = TrainingPlan(steps=1, **settings)
        return [round(plan.factor(done), 3) for done in (0.0, 0.3, 0.5, 0.75, 1.0)]

    assert factors(schedule="constant") == [1, 1, 1, 1, 1]
    assert factors(schedule="cosine") == [1, 0.794, 0.5, 0.146, 0]
    assert factors(schedule="step") == [1, 1, 0.1, 0.01, 0.01]
    assert factors(schedule="one-cycle") == [0.04, 1, 0.812, 0.283, 0]
    assert factors(schedule="constant", warmup=0.6) == [0.001, 0.5, 0.833, 1, 1]
