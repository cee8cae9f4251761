"""A layer against its replacement, through the real runner. What is asserted is behaviour, not time."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from edgebuild.core.capabilities import EMULATED
from edgebuild.core.measurement import LayerTime
from edgebuild.core.steps import NoProgress, RunsOn, StepContext, never_stop
from edgebuild.devices.client import RunnerClient
from edgebuild.devices.local import LocalDevice
from edgebuild.errors import EnvironmentGap, RunnerFailed
from edgebuild.measuring.layer_times import LAUNCHES_FILE, TimeLayer
from edgebuild.techniques.timing.layer_times import TIME_FILE, LayerTimes
from tests.fragile import write_fragile
from tests.measuring.test_session import QUICK, Ground

if TYPE_CHECKING:
    from pathlib import Path

LAYERS = QUICK.model_copy(update={"name": "layers"})


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    return Ground(tmp_path_factory.mktemp("ground"))


def step(ground: Ground, **more: Any) -> TimeLayer:
    given = {"protocol": LAYERS, "settings": (("threads", 1),), **more}
    return TimeLayer(who="layer a", **given)


def run(ground: Ground, root: Path, *, check: Any = never_stop, **more: Any) -> Path:
    """Time the light model and the heavy one in its place; return what the step wrote."""
    out, scratch = root / "out", root / "scratch"
    out.mkdir()
    scratch.mkdir(exist_ok=True)
    inputs = {"before": ground.light[1], "after": ground.heavy[1], "data": ground.data}
    ctx = StepContext(progress=NoProgress(), check=check, seed=0, scratch=scratch, device=ground.client)
    step(ground, **more).run(inputs, out, ctx)
    return out


def test_a_layer_stays_where_what_would_take_its_place_is_clearly_slower(ground: Ground, tmp_path: Path) -> None:
    out = run(ground, tmp_path)
    time = LayerTime.model_validate_json((out / TIME_FILE).read_bytes())
    assert time.comparison.pairs == LAYERS.launches
    assert "it gets no faster on the target" in LayerTimes({"a": time}).why_kept("a")
    launches = json.loads((out / LAUNCHES_FILE).read_bytes())
    assert {side: len(made) for side, made in launches.items()} == {"before": 2, "after": 2}


def test_a_machine_that_was_busy_says_nothing_and_is_asked_again(ground: Ground, tmp_path: Path) -> None:
    nobody_waits = LAYERS.model_copy(update={"waiting_ratio": -1.0, "spread_ratio": -1.0})
    with pytest.raises(EnvironmentGap, match="Too few launches of layer a count: threads waited for a core"):
        run(ground, tmp_path, protocol=nobody_waits)
    assert not [each for each in (tmp_path / "scratch").iterdir() if each.is_dir()]


def test_what_crashes_is_told_as_a_runner_that_failed(
    ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = LocalDevice(tmp_path / "device", name="test-device")
    monkeypatch.setattr(ground, "client", RunnerClient(device, {"onnxruntime": write_fragile(tmp_path)}))
    monkeypatch.setenv("FRAGILE", "measure:fp32:segv")
    with pytest.raises(RunnerFailed, match="SIGSEGV"):
        run(ground, tmp_path)


def test_an_emulated_device_times_nothing(ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(ground.client.device), "capabilities", EMULATED)
    with pytest.raises(EnvironmentGap, match="is emulated"):
        run(ground, tmp_path)


def test_the_key_holds_how_it_is_timed_and_not_of_whom(ground: Ground) -> None:
    one = step(ground)
    assert one.runs_on is RunsOn.DEVICE
    assert set(one.key_fields()) == {"protocol", "settings"}
    assert set(step(ground, pin_clocks=True).key_fields()) - set(one.key_fields()) == {"pin_clocks"}
