from __future__ import annotations

import json

from tests.execution.golden_keys import GOLDEN, golden
from tests.execution.step_lock import steps


def test_every_step_has_the_key_that_it_had() -> None:
    """A change that isn't meant to make every store anew changes no key; ``golden_keys.py`` says how to renew them."""
    assert golden() == json.loads(GOLDEN.read_text())


def test_no_two_steps_share_a_kind() -> None:
    assert len({step.kind for step in steps()}) == len(steps())
