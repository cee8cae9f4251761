"""Waiting for a device to cool down. This machine has no thermal zone, so readings are given, and named so."""

from __future__ import annotations

from edgebuild.core.steps import never_stop
from edgebuild.measuring.thermal import LONGEST_WAIT_S, CoolDown, hottest_c


class RecordedZones:
    """Readings one after another; the last one stays. Sleeping moves a clock of its own."""

    def __init__(self, *temperatures: float) -> None:
        self.left = list(temperatures)
        self.now_s = 0.0

    def read(self) -> dict[str, str]:
        value = self.left.pop(0) if len(self.left) > 1 else self.left[0]
        return {"temperatures_c.cpu": str(value), "temperatures_c.gpu": "20.0", "arch": "aarch64"}

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def cool_down(self) -> CoolDown:
        return CoolDown(self.read, check=never_stop, sleep=self.sleep, clock=lambda: self.now_s)


def test_the_hottest_zone_counts_and_what_is_unreadable_does_not() -> None:
    assert hottest_c({"temperatures_c.a": "41.5", "temperatures_c.b": "unknown", "other": "99"}) == 41.5
    assert hottest_c({"temperatures_c": "unknown"}) is None


def test_a_launch_waits_until_the_device_is_near_its_baseline() -> None:
    zones = RecordedZones(40.0, 55.0, 48.0, 42.9)
    assert zones.cool_down().wait()
    assert zones.now_s == 4.0


def test_it_does_not_wait_for_ever() -> None:
    zones = RecordedZones(40.0, 70.0)
    assert not zones.cool_down().wait()
    assert zones.now_s >= LONGEST_WAIT_S


def test_without_zones_there_is_no_wait() -> None:
    cool_down = CoolDown(lambda: {"arch": "x86_64"}, check=never_stop)
    assert cool_down.baseline_c is None
    assert cool_down.wait()
