from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.execution.golden_keys import GOLDEN, example, golden
from tests.execution.step_lock import steps

if TYPE_CHECKING:
    from edgebuild.core.steps import Step


def test_every_step_has_the_key_that_it_had() -> None:
    """A change that isn't meant to make every store anew changes no key; ``golden_keys.py`` says how to renew them."""
    assert golden() == json.loads(GOLDEN.read_text())


@pytest.mark.parametrize("step", steps(), ids=lambda step: step.kind)
def test_every_step_is_data(step: type[Step]) -> None:
    made = example(step)
    assert step.model_validate_json(made.to_json()) == made
    assert step.model_validate_json(made.to_json()).key_fields() == made.key_fields()


def test_no_two_steps_share_a_kind() -> None:
    assert len({step.kind for step in steps()}) == len(steps())
