"""What a device's readings say of its health."""

from __future__ import annotations

import statistics
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebuild.farm.host.checking import usable
from edgebuild.farm.host.health import (
    LEAST_FREE_BYTES,
    LEAST_HISTORY,
    MOST_DRIFT,
    MOST_DRIFT_EVER,
    Readings,
    allowed_drift,
    judge_health,
    throttled,
)

STEADY = [2.0, 2.01, 1.99, 2.0, 2.02]
MILLISECONDS = st.floats(0.01, 1000.0)


def test_a_device_that_can_say_nothing_is_not_blamed_for_it() -> None:
    assert judge_health(Readings(), STEADY) == ()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"free_bytes": LEAST_FREE_BYTES - 1}, "free on the device"),
        ({"host_free_bytes": 0}, "free on its host"),
        ({"hottest_c": 80.1}, "80 °C hot"),
        ({"throttled": ("the firmware says 0x5",)}, "throttled: the firmware says 0x5"),
        ({"skew_s": -61.0}, "-61 s off"),
        ({"anchor_ms": 2.2}, r"+10.0% off its usual 2 ms"),
        ({"anchor_ms": 1.8}, r"-10.0% off its usual 2 ms"),
    ],
)
def test_what_is_wrong_is_said(fields: dict[str, Any], said: str) -> None:
    (reason,) = judge_health(Readings(**fields), STEADY)
    assert said in reason


def test_what_is_right_is_not() -> None:
    fine = Readings(free_bytes=LEAST_FREE_BYTES, host_free_bytes=1 << 40, hottest_c=79.0, skew_s=59.0, anchor_ms=2.09)
    assert judge_health(fine, STEADY) == ()


def test_a_short_history_judges_no_anchor() -> None:
    assert judge_health(Readings(anchor_ms=9.0), STEADY[: LEAST_HISTORY - 1]) == ()


def test_a_device_that_always_varied_may_vary() -> None:
    noisy = [2.0, 2.1, 1.9, 2.05, 1.95]
    assert MOST_DRIFT < allowed_drift(noisy) < MOST_DRIFT_EVER
    assert judge_health(Readings(anchor_ms=2.2), noisy) == ()
    assert judge_health(Readings(anchor_ms=2.2), STEADY) != ()


@given(st.lists(MILLISECONDS, min_size=LEAST_HISTORY, max_size=30))
def test_the_usual_time_always_passes_and_half_as_much_again_never(history: list[float]) -> None:
    usual = statistics.median(history)
    assert MOST_DRIFT <= allowed_drift(history) <= MOST_DRIFT_EVER
    assert judge_health(Readings(anchor_ms=usual), history) == ()
    assert len(judge_health(Readings(anchor_ms=usual * 1.5), history)) == 1


def test_throttling_is_a_bit_that_is_set_or_a_counter_that_moved() -> None:
    pi, alarm, core = "throttles.sys/x/get_throttled", "throttles.sys/h/curr1_max_alarm", "throttles.c/core_count"
    calm = {pi: str(0x50000), alarm: "0", core: "7"}
    assert throttled(calm, calm) == ()
    assert throttled(calm, {**calm, pi: str(0x50005)}) == ("the firmware says 0x5",)
    assert throttled(calm, {**calm, alarm: "1"}) == ("curr1_max_alarm is set",)
    assert throttled(calm, {**calm, core: "8"}) == ("core_count went from 7 to 8",)
    assert throttled({}, {**calm, core: "a lot"}) == ()


def test_history_is_what_passed_with_the_same_configuration() -> None:
    def check(passed: bool, configuration: str, time_ms: Any) -> dict[str, Any]:
        return {"passed": passed, "readings": {"configuration": configuration}, "anchor_ms": time_ms}

    checks = [check(True, "a", 2.0), check(False, "a", 3.0), check(True, "b", 4.0), check(True, "a", None), {}]
    assert usable(checks, "a") == [2.0]
