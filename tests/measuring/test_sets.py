"""Arms that are alive together and take bursts in turn, through the real runner. What is asserted is behaviour."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebuild.core.measurement import Launch
from edgebuild.core.steps import NoProgress
from edgebuild.errors import Interrupted, RunnerFailed
from edgebuild.measuring import session, sets, statistics
from edgebuild.measuring.protocols import CERTIFY, LAYERS, SCREEN, Protocol
from edgebuild.measuring.session import measure
from tests.measuring.test_session import QUICK, Ground, fragile, ground, int8, launches

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["fragile", "ground", "launches"]

PACED = QUICK.model_copy(update={"name": "certify", "bursts": 3, "burst_s": 0.004, "burst_inferences": 5})
#: What a session of ``PACED`` falls back to, without its minutes.
APART = QUICK.model_copy(update={"name": "certify", "launches": 1, "max_launches": 1})


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Protocol, "apart", lambda _: APART)


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The arms in the order of their bursts."""
    taken: list[str] = []
    really = sets.LiveSet.take_bursts

    def take(self: Any, seed: int, done: Any) -> None:
        def also(name: str) -> None:
            taken.append(name)
            done(name)

        really(self, seed, also)

    monkeypatch.setattr(sets.LiveSet, "take_bursts", take)
    return taken


def test_all_arms_of_a_round_take_bursts_in_turn(
    ground: Ground, tmp_path: Path, turns: list[str], launches: list[str]
) -> None:
    arms = [ground.arm("a"), ground.arm("b", threads=2), ground.arm("c", heavy=True)]
    result = measure(ground.bench(tmp_path), PACED, arms, title="t")
    assert launches == []
    assert [set(turns[i : i + 3]) for i in range(0, 18, 3)] == [{"a", "b", "c"}] * 6
    recorded = result.folder.launches()
    assert [launch.index for launch in recorded] == list(range(6))
    for measured in result.measurements.values():
        assert len(measured.launches) == PACED.launches
        for launch in measured.launches:
            assert len(launch.bursts) == PACED.bursts
            assert min(launch.bursts) >= PACED.burst_inferences
            raw = np.fromfile(result.folder.path / launch.samples, dtype="<i8")
            assert len(raw) == launch.count == sum(launch.bursts)
            assert launch.burst_ns[0] == int(np.median(raw[: launch.bursts[0]]))
    compared = session.compare_arms(result, "c", "a")
    assert compared is not None
    assert compared.effect > 0


class Advances(NoProgress):
    """Keeps what was advanced of the work planned."""

    def __init__(self) -> None:
        self.total = 0.0
        self.amounts: list[float] = []

    def task(self, title: str, total: float | None = None) -> NoProgress:
        del title
        self.total = total or 0.0
        return self

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        del note
        self.amounts.append(amount)


def test_starting_the_processes_of_a_set_counts_as_work_done(ground: Ground, tmp_path: Path) -> None:
    heard = Advances()
    arms = [ground.arm("a"), ground.arm("b", threads=2)]
    measure(ground.bench(tmp_path, progress=heard), PACED, arms, title="t")
    assert next(each for each in heard.amounts if each) == pytest.approx(len(arms) * PACED.start_s)
    assert sum(heard.amounts) == pytest.approx(heard.total)


def test_a_whole_session_of_sets_is_reused_and_an_interrupted_one_goes_on(
    ground: Ground, tmp_path: Path, turns: list[str]
) -> None:
    def stop() -> None:
        if len(turns) >= 8:  # in the midst of the second set
            raise Interrupted("Ctrl-C")

    arms = [ground.arm("a"), ground.arm("b", threads=2)]
    with pytest.raises(Interrupted):
        measure(ground.bench(tmp_path, check=stop), PACED, arms, title="t")
    turns.clear()
    result = measure(ground.bench(tmp_path), PACED, arms, title="t")
    assert len(turns) == 2 * PACED.bursts  # the first set stands
    assert [len(each.launches) for each in result.measurements.values()] == [2, 2]
    turns.clear()
    again = measure(ground.bench(tmp_path), PACED, arms, title="t")
    assert again.reused
    assert turns == []


def test_one_disturbed_arm_has_all_made_again(ground: Ground, tmp_path: Path, turns: list[str]) -> None:
    never = PACED.model_copy(
        update={"steal_ratio": -1.0, "spread_ratio": -1.0, "attempts": 2, "launches": 1, "max_launches": 1}
    )
    result = measure(ground.bench(tmp_path), never, [ground.arm("a"), ground.arm("b", threads=2)], title="t")
    assert len(turns) == 2 * 2 * PACED.bursts
    recorded = [launch.arm for launch in result.folder.launches()]
    assert [arm.endswith("disturbed") for arm in recorded] == [True, True, False, False]
    assert not result.measurements["a"].launches[0].valid


def test_a_reference_that_was_disturbed_throughout_is_measured_again(
    ground: Ground, tmp_path: Path, turns: list[str]
) -> None:
    never = PACED.model_copy(update={"steal_ratio": -1.0, "spread_ratio": -1.0, "launches": 1, "max_launches": 1})
    for _ in range(2):
        turns.clear()
        measure(ground.bench(tmp_path), never, [ground.arm("a", keep=True), ground.arm("b", threads=2)], title="t")
        assert len(turns) == 2 * PACED.bursts


def test_an_arm_that_crashes_in_a_set_is_tried_alone_and_leaves(
    fragile: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arms = [fragile.arm("a", keep=True), int8(fragile.arm("b", threads=2))]
    monkeypatch.setenv("FRAGILE", "bursts:int8:segv measure:int8:segv")
    found = measure(fragile.bench(tmp_path), PACED, arms, title="t")
    assert list(found.failed) == ["b"]
    assert "(measure) was ended by SIGSEGV" in found.failed["b"].sentence
    assert len(found.measurements["a"].launches) == PACED.launches
    with pytest.raises(RunnerFailed):
        measure(fragile.bench(tmp_path), PACED, [int8(fragile.arm("b", keep=True)), fragile.arm("a")], title="t")


@pytest.mark.usefixtures("apart")
def test_arms_that_only_work_alone_are_launched_one_after_the_other(
    fragile: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launches: list[str]
) -> None:
    monkeypatch.setenv("FRAGILE", "bursts:int8:segv")
    arms = [fragile.arm("a"), int8(fragile.arm("b", threads=2))]
    found = measure(fragile.bench(tmp_path), PACED, arms, title="t")
    assert (found.failed, found.protocol) == ({}, APART)
    assert sorted(launches[1:]) == ["a", "b"]


@pytest.mark.usefixtures("apart")
def test_arms_that_don_t_fit_into_memory_together_are_launched_one_after_the_other(
    ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launches: list[str], turns: list[str]
) -> None:
    monkeypatch.setattr(sets, "ROOM_BYTES", 1 << 60)
    found = measure(ground.bench(tmp_path), PACED, [ground.arm("a"), ground.arm("b", threads=2)], title="t")
    assert found.protocol == APART
    assert (sorted(launches), turns) == (["a", "b"], [])


def test_rounds_end_at_the_deadline_but_two_are_always_made(ground: Ground, tmp_path: Path, turns: list[str]) -> None:
    many = PACED.model_copy(update={"launches": 5, "max_launches": 5})
    arms = [ground.arm("a"), ground.arm("b", threads=2)]
    result = measure(ground.bench(tmp_path, deadline_s=0.0), many, arms, title="t")
    assert len(result.measurements["a"].launches) == session.LEAST_ROUNDS
    assert len(turns) == 2 * session.LEAST_ROUNDS * PACED.bursts
    assert result.cut_short

    again = measure(ground.bench(tmp_path, as_it_was=True), many, arms, title="t")
    assert (again.reused, again.cut_short, again.measurements) == (True, True, result.measurements)
    more = measure(ground.bench(tmp_path), many, arms, title="t")
    assert (more.reused, more.cut_short, more.folder.path) == (False, False, result.folder.path)
    assert len(more.measurements["a"].launches) == 5
    assert more.measurements["a"].launches[:2] == result.measurements["a"].launches
    assert measure(ground.bench(tmp_path), many, arms, title="t").reused


def made(*burst_ns: float) -> Launch:
    return Launch(
        index=0, arm="a", samples="s", samples_sha256="0", count=len(burst_ns), import_s=0, load_s=0, settled=True,
        median_ns=int(sorted(burst_ns)[len(burst_ns) // 2]), first_inference_s=0, warmup_inferences=1,
        bursts=(1,) * len(burst_ns), burst_ns=tuple(int(each) for each in burst_ns),
    )  # fmt: skip


@given(
    st.lists(st.floats(1.0, 3.0), min_size=8, max_size=40),
    st.floats(0.5, 2.0),
    st.floats(1.1, 50.0),
    st.integers(0, 1 << 30),
)
def test_neither_a_slow_phase_nor_disturbed_turns_move_a_ratio(
    machine: list[float], ratio: float, spike: float, seed: int
) -> None:
    """``machine``: by how much the machine is slower in each turn; up to a quarter of the turns is disturbed."""
    ns = 1e6 * np.array(machine)
    one = ns * ratio
    hit = np.random.default_rng(seed).permutation(len(one))[: len(one) // 4]
    one[hit] *= spike
    ((left, right),) = statistics.paired_medians([made(*one)], [made(*ns)])
    assert math.log(left / right) == pytest.approx(math.log(ratio), abs=1e-4)


def test_bursts_without_partners_are_compared_by_their_median() -> None:
    assert statistics.paired_medians([made(10, 20, 30)], [made(10, 10)]) == ((20.0, 10.0),)


def test_looks_double_up_to_the_last_launch() -> None:
    def looks(launches: int, most: int) -> tuple[int, ...]:
        return QUICK.model_copy(update={"launches": launches, "max_launches": most}).looks

    assert [looks(5, 20), looks(2, 2), looks(3, 8), looks(1, 1)] == [(5, 10, 20), (2,), (3, 8), (1,)]
    assert (CERTIFY.looks, SCREEN.looks, LAYERS.looks) == ((6, 12, 24), (2,), (4, 8))


def test_what_runs_apart_or_in_flight_takes_no_bursts() -> None:
    for protocol in (SCREEN, CERTIFY):
        assert protocol.bursts
        assert (protocol.apart().name, protocol.apart().bursts) == (protocol.name, 0)
        assert (protocol.in_flight().mode, protocol.in_flight().bursts) == ("flight", 0)
    assert QUICK.apart() == QUICK


def test_arms_whose_threads_spin_take_their_turns(
    ground: Ground, tmp_path: Path, turns: list[str], launches: list[str]
) -> None:
    spinning = ground.arm("a", threads=2)
    settings = {**dict(spinning.artifact.settings), "spinning": True}
    spinning = replace(spinning, artifact=spinning.artifact.with_settings(tuple(settings.items())))
    found = measure(ground.bench(tmp_path), PACED, [spinning, ground.arm("b", threads=2)], title="t")
    assert found.protocol == PACED
    assert (launches, len(turns)) == ([], 2 * PACED.launches * PACED.bursts)
