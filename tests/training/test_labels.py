from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from edgebuild.errors import UsageError
from edgebuild.training import losses
from edgebuild.training.batches import Batch
from edgebuild.training.labels import CachedTeacher, cached_teacher
from edgebuild.training.loop import train
from edgebuild.training.plan import TrainingPlan
from edgebuild.training.teachers import LiveTeacher

from . import nets

if TYPE_CHECKING:
    from pathlib import Path

    from edgebuild.training.batches import ArrayLoader


def decided() -> nets.Mlp:
    """A net whose predictions tell samples apart."""
    net = nets.Mlp()
    with torch.no_grad():
        net.last.weight *= 20
    return net


class Counted:
    def __init__(self) -> None:
        self.calls = 0
        self._live = LiveTeacher(nets.seeded(decided))

    def __call__(self, batch: Batch) -> tuple[torch.Tensor, ...]:
        self.calls += 1
        return self._live(batch)


def cached(teacher: Any, loader: ArrayLoader, folder: Path, **changes: Any) -> CachedTeacher:
    key = {"epochs": 3, "teacher_digest": "t", "data_digest": "d", "augmentation": "a", **changes}
    return cached_teacher(teacher, loader, folder, **key)


@pytest.mark.parametrize("augment", [None, nets.noisy], ids=["plain", "augmented"])
def test_training_on_stored_predictions_is_training_on_live_ones(tmp_path: Path, augment: Any) -> None:
    loader = nets.loader(200, augment=augment)
    teacher = Counted()
    stored = cached(teacher, loader, tmp_path / "labels")
    reports = []
    for name, source in (("live", Counted()), ("cached", stored)):
        student = nets.seeded(nets.Mlp, 1)
        loss = losses.Distil(source, hard_weight=0.1)
        reports.append(train(student, TrainingPlan(epochs=3), loader, loss, scratch=tmp_path / name))
    # Kernels may round a sample otherwise in a batch of another size; the next sample's predictions are 0.1 off.
    assert np.allclose(reports[0].losses, reports[1].losses, atol=1e-4, rtol=0)
    assert stored.outputs[0].shape == (3 if augment else 1, 200, 10)
    assert isinstance(stored.outputs[0], np.memmap)
    again = Counted()
    cached(again, loader, tmp_path / "labels")
    assert again.calls == 0
    assert teacher.calls > 0


@pytest.mark.parametrize(
    ("changes", "settings"),
    [
        ({"teacher_digest": "other"}, {}),
        ({"data_digest": "other"}, {}),
        ({"augmentation": "other"}, {}),
        ({}, {"seed": 1}),
        ({}, {"views": 2}),
    ],
)
def test_whatever_shapes_the_predictions_is_in_their_key(
    tmp_path: Path, changes: dict[str, Any], settings: dict[str, Any]
) -> None:
    first, other = Counted(), Counted()
    cached(first, nets.loader(40, augment=nets.noisy), tmp_path)
    cached(other, nets.loader(40, **{"augment": nets.noisy, **settings}), tmp_path, **changes)
    assert other.calls > 0
    cached(same := Counted(), nets.loader(40, augment=nets.noisy, batch_size=9), tmp_path)
    assert same.calls == 0, "how samples are batched doesn't shape them"


def test_half_made_predictions_are_made_again(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def check() -> None:
        if teacher.calls == 1:
            raise Stop

    teacher = Counted()
    with pytest.raises(Stop):
        cached(teacher, nets.loader(200), tmp_path, check=check)
    assert list(tmp_path.iterdir()) == []
    stored = cached(Counted(), nets.loader(200), tmp_path)
    (stored.folder / "labels.json").unlink()
    cached(again := Counted(), nets.loader(200), tmp_path)
    assert again.calls == 7
    shutil.rmtree(stored.folder)


def test_the_deviation_over_stored_predictions_is_numpys(tmp_path: Path) -> None:
    stored = cached(Counted(), nets.loader(200), tmp_path)
    assert np.allclose(stored.deviation().numpy(), np.std(stored.outputs[0][0], axis=0), rtol=1e-4)


def test_what_can_not_be_stored_or_found_is_told(tmp_path: Path) -> None:
    loader = nets.loader(40, augment=nets.noisy)
    with pytest.raises(UsageError, match="under the augmentation's digest"):
        cached(Counted(), loader, tmp_path, augmentation="")
    stored = cached(Counted(), loader, tmp_path)
    with pytest.raises(UsageError, match="need to know which samples"):
        stored(Batch(inputs=(torch.zeros(2, 64),)))
    with pytest.raises(UsageError, match="stored for 3 epochs, and this is epoch 4"):
        stored(loader.rows(np.arange(2), epoch=3))
