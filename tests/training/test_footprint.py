"""How much memory a step takes is said beforehand, and saying it changes nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from edgebuild.core.steps import NoProgress
from edgebuild.devices.runner.machine import Machine
from edgebuild.training import footprint
from edgebuild.training.batches import ArrayLoader
from edgebuild.training.loop import train
from edgebuild.training.losses import Supervised
from edgebuild.training.plan import TrainingPlan

if TYPE_CHECKING:
    from pathlib import Path

#: Trains a few convolutions for one step from a teacher, and says what was said and what it took.
CHILD = """
import json, sys
from pathlib import Path
import numpy as np, torch
from torch import nn
from edgebuild.training import footprint, loop, run
from edgebuild.training.batches import ArrayLoader
from edgebuild.training.losses import Distil, soft_targets
from edgebuild.training.plan import TrainingPlan
from edgebuild.training.teachers import LiveTeacher

def status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(key))

def net():
    parts = [nn.Conv2d(3, 16, 3, padding=1)]
    for _ in range(3):
        parts += [nn.BatchNorm2d(16), nn.SiLU(), nn.Conv2d(16, 16, 3, padding=1)]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))

found = {}
really = footprint.step_bytes
def step_bytes(run):
    found["said"] = really(run)
    Path("/proc/self/clear_refs").write_text("5")
    found["before"] = status("VmRSS")
    return found["said"]
footprint.step_bytes = step_bytes
images = np.random.default_rng(0).random((8, 3, 160, 160), dtype=np.float32)
loss = Distil(LiveTeacher(net()), [lambda student, teacher: soft_targets(student, teacher, 4.0)])
loader = ArrayLoader(inputs=(images,), batch_size=8)
loop.train(net(), TrainingPlan(steps=1), loader, loss, scratch=Path(sys.argv[1]))
print(json.dumps([found["said"], status("VmHWM") - found["before"]]))
"""


class Heard(NoProgress):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def test_a_step_takes_about_what_is_said(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", CHILD, str(tmp_path)], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    said, took = json.loads(ended.stdout.splitlines()[-1])
    assert said / 2 < took < 2 * said


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))


def trained(scratch: Path, heard: Heard) -> dict[str, Any]:
    draw = np.random.default_rng(0)
    inputs, labels = draw.random((20, 6), dtype=np.float32), draw.integers(0, 3, 20)
    loader, module = ArrayLoader(inputs=(inputs,), target=labels, batch_size=8), net()
    train(module, TrainingPlan(epochs=2), loader, Supervised(), scratch=scratch, progress=heard, title="Teaching")
    return module.state_dict()


@pytest.mark.parametrize(("free", "ends"), [(1 << 50, "in each step"), (1, "a smaller `batch_size` takes less")])
def test_large_steps_are_said_with_what_is_free_and_learn_the_same(
    free: int, ends: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = Heard()
    before = trained(tmp_path / "small", heard)
    assert heard.said == []
    monkeypatch.setattr(footprint, "WORTH_SAYING", 0)
    monkeypatch.setattr(Machine, "kilobytes", lambda *_: free)
    after = trained(tmp_path / "large", heard)
    (said,) = heard.said
    assert said.startswith("Teaching takes about 0.0 GiB of memory in each step")
    assert said.endswith(ends)
    assert all(torch.equal(before[name], after[name]) for name in before)
    monkeypatch.setattr(footprint, "_kept", lambda *_: 1 / 0)
    trained(tmp_path / "failing", heard)
    assert len(heard.said) == 1
