"""Several requests in flight, through the real runner and runtimes. What is asserted is behaviour, not speed."""

from __future__ import annotations

import itertools
import threading
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edgebuild.core.measurement import Launch
from edgebuild.devices.runner.throughput import FlightBench, rate
from edgebuild.measuring.samples import samples_reader
from edgebuild.measuring.session import measure
from edgebuild.measuring.statistics import paired_medians, summarise_throughput

from .test_session import CERTIFY, Ground

if TYPE_CHECKING:
    from pathlib import Path

FLIGHT = CERTIFY.in_flight()


def test_the_rate_leaves_out_the_first_round_and_the_last() -> None:
    # Three in flight, a round every 10 ns; the first takes 100 ns longer, in the last two dawdle.
    ends = [100, 100, 100, *[110] * 3, *[120] * 3, *[130] * 3, 140, 500, 900]
    assert rate(ends, 3) == pytest.approx((12 - 2) * 1e9 / 40)
    assert rate([10, 20, 30], 1) == pytest.approx(1e8)


def test_as_many_calls_are_in_flight_as_there_are_requests() -> None:
    """The first three wait for each other: with fewer at a time they would never end."""
    meeting, calls = threading.Barrier(3), itertools.count()

    def call(feed: object) -> None:
        if next(calls) < 3:
            meeting.wait(60.0)

    session: Any = SimpleNamespace(callers=[call] * 3, call=call, reset=None)
    assert FlightBench(session, session, [{}], [True], 40).run(0.0, 6) >= 6


def launch(per_s: float, index: int = 0, **more: object) -> Launch:
    fields = {
        "index": index,
        "arm": "a",
        "samples": "s",
        "samples_sha256": "",
        "count": 4,
        "median_ns": 1000,
        "requests": 2,
        "concurrent": True,
        "per_s": per_s,
        "import_s": 0.0,
        "load_s": 0.0,
        "first_inference_s": 0.0,
        "warmup_inferences": 1,
        "settled": True,
    }
    return Launch.model_validate({**fields, **more})


def test_a_summary_counts_the_batch_and_tells_latencies_beside_others() -> None:
    launches = [launch(10.0), launch(20.0, 1), launch(1.0, 2, invalid=("stolen",)), launch(15.0, 3)]
    found = summarise_throughput(launches, lambda _: np.array([0, 0, 10, 10, 5, 10, 15, 20]) * 10**6, batch=8)
    assert (found.launches, found.invalid_launches, found.requests, found.concurrent) == (3, 1, 2, True)
    assert found.per_s == 120.0
    assert found.low_per_s is not None
    assert found.high_per_s is not None
    assert found.low_per_s < 120.0 < found.high_per_s
    assert [(p.p, p.value_ms) for p in found.latencies[:2]] == [(50.0, 5.0), (90.0, None)]
    assert paired_medians(launches, launches[::-1])[0] == pytest.approx((1e8, 1e9 / 15))


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    return Ground(tmp_path_factory.mktemp("ground"))


def test_a_session_in_flight_keeps_starts_and_ends_and_is_never_taken_for_another(
    ground: Ground, tmp_path: Path
) -> None:
    alone, three = ground.arm("alone"), ground.arm("three")
    three_settings = (*three.artifact.settings, ("requests", 3))
    three = replace(three, artifact=three.artifact.with_settings(three_settings))
    single = measure(ground.bench(tmp_path), CERTIFY, [alone, three], title="t")
    found = measure(ground.bench(tmp_path), FLIGHT, [alone, three], title="t")
    assert found.folder.path != single.folder.path
    assert all(each.requests is None for m in single.measurements.values() for each in m.launches)
    read = samples_reader(found.folder.path)
    for each in found.measurements["three"].launches:
        assert (each.requests, each.concurrent) == (3, True)
        starts, ends = read(each).reshape(2, -1)
        assert len(starts) == each.count
        assert (ends > starts).all()
        assert each.per_s == pytest.approx(rate(ends.tolist(), 3))
        # At no time were more in flight than asked for. A machine with one free core may never run as many.
        changes = sorted([(int(t), 1) for t in starts] + [(int(t), -1) for t in ends])
        depth = np.cumsum([step for _, step in changes])
        assert depth.max() <= 3
