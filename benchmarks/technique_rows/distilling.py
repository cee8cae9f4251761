"""Rows of `distil` on folds of the 10,000 digits; a row's seed is its fold, too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from edgebuild.techniques.distilling.distil import Distil
from edgebuild.training.losses import soft_targets as soft_loss

from . import data, running
from .rows import Claim, Row, points_gained, points_lost

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy.typing as npt

    from edgebuild.training.randomness import Draws

HERE = __name__
#: Labels alone, in the same step and loop as all else.
LABELS: Mapping[str, Any] = {"match": ["none"], "hard_weight": 1.0}
TEACHER: Mapping[str, Any] = {**LABELS, "epochs": 20, "augment": f"{HERE}:jitter", "weight_decay": 5e-4}
STUDENT: Mapping[str, Any] = {"student": f"{HERE}:wide", "epochs": 30}
TEMPERATURE = 8.0
SOFT: Mapping[str, Any] = {"match": ["kl"], "temperature": TEMPERATURE}
LEFT_OUT = 3


def conv(i: int, o: int, stride: int = 1) -> nn.Sequential:
    """A convolution, a normalisation, a ReLU."""
    return nn.Sequential(nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU())


def cnn() -> nn.Module:
    """The teacher: 0.9 MMAC."""
    return nn.Sequential(
        conv(1, 16, 2), conv(16, 32, 2), conv(32, 32), nn.Flatten(), nn.Linear(1568, 128), nn.ReLU(), nn.Linear(128, 10)
    )


def wide(original: nn.Module) -> nn.Module:
    """The student: two layers of 400 units, 0.5 MMAC."""
    del original
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 400), nn.ReLU(), nn.Linear(400, 400), nn.ReLU(), nn.Linear(400, 10)
    )


def thin(original: nn.Module) -> nn.Module:
    """A student for hints: deeper than the teacher and thinner; 0.3 MMAC."""
    del original
    layers = (conv(1, 8, 2), conv(8, 16, 2), conv(16, 16), conv(16, 16))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))


def jitter(inputs: Any, draws: Draws) -> Any:
    """Move every image by up to 2 pixels each way."""
    (images,) = inputs
    moves = draws.integers(0, 5, 2)
    padded = functional.pad(images, (2, 2, 2, 2))
    rows = [image[:, y : y + 28, x : x + 28] for image, (y, x) in zip(padded, moves.tolist(), strict=True)]
    return (torch.stack(rows),)


CALLS = [0]


class Counted(nn.Module):
    """The original, counting how often it is asked."""

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        self.original = original

    def forward(self, image: torch.Tensor) -> Any:
        """Count and answer."""
        CALLS[0] += 1
        return self.original(image)


def counted(original: nn.Module) -> nn.Module:
    """A second teacher that counts its calls."""
    return Counted(original)


class Digits:
    """One fold of the digits in folders, and a teacher that was trained on its training part with jitter."""

    def __init__(self, seed: int, scratch: Path) -> None:
        (self.images, self.labels), (self.held, self.held_labels) = data.fold(seed)
        self.seed, self.scratch = seed, scratch
        self.train = running.write_data(scratch / "train", self.images, self.labels)
        fresh = running.write_fresh(scratch / "fresh", f"{HERE}:cnn", seed)
        place = scratch / "teacher"
        self.net, _ = running.run(Distil, place, seed, model=fresh, train=self.train, parameters=TEACHER)
        self.teacher = place / "out"

    def taught(self, name: str, parameters: Mapping[str, Any], train: Path | None = None) -> tuple[nn.Module, Any]:
        """Return a student and its step's report."""
        own = train or self.train
        return running.run(
            Distil,
            self.scratch / name,
            self.seed,
            model=self.teacher,
            train=own,
            calibration=self.train,
            labels=self.scratch / f"labels-{own.name}",
            parameters={**STUDENT, **parameters},
        )

    def right(self, module: nn.Module) -> npt.NDArray[np.bool_]:
        """Which digits of the fold that was held out are answered rightly."""
        return running.right(module, self.held, self.held_labels)


def soft_targets(seed: int, scratch: Path) -> Mapping[str, Any]:
    """A wide student on labels and on soft targets, both without the teacher's jitter."""
    digits = Digits(seed, scratch)
    alone, _ = digits.taught("alone", LABELS)
    soft, _ = digits.taught("soft", SOFT)
    teacher, plain, taught = (digits.right(each) for each in (digits.net, alone, soft))
    return {
        "gap": points_lost(teacher, plain),
        "closed": closed(teacher, plain, taught, seed),
        "teacher_points": running.points(teacher),
        "alone_points": running.points(plain),
        "distilled_points": running.points(taught),
    }


def closed(
    teacher: npt.NDArray[np.bool_], alone: npt.NDArray[np.bool_], taught: npt.NDArray[np.bool_], seed: int
) -> dict[str, float]:
    """Return the share of the gap that is closed, in %, with its interval over samples drawn anew (2,000 draws)."""
    draws = np.random.default_rng(seed).integers(0, len(alone), (2000, len(alone)))
    gaps = teacher[draws].mean(1) - alone[draws].mean(1)
    gains = taught[draws].mean(1) - alone[draws].mean(1)
    low, high = np.nanpercentile(100 * gains / np.where(gaps > 0, gaps, np.nan), [2.5, 97.5])
    value = 100 * (taught.mean() - alone.mean()) / (teacher.mean() - alone.mean())
    return {"value": float(value), "low": float(low), "high": float(high)}


def omitted_class(seed: int, scratch: Path) -> Mapping[str, Any]:
    """A student that never sees a 3; one bias from the share of threes."""
    digits = Digits(seed, scratch)
    seen = digits.labels != LEFT_OUT
    train = running.write_data(scratch / "without", digits.images[seen], digits.labels[seen])
    share = float((digits.labels == LEFT_OUT).mean())
    student, report = digits.taught("student", {**SOFT, "hard_weight": 0.0, "priors": [[LEFT_OUT, share]]}, train)
    threes = digits.held_labels == LEFT_OUT
    after = digits.right(student)
    said = report.layers[-1]
    bias = float(said.after.split()[0])
    last: Any = student.get_submodule(said.layer)
    with torch.no_grad():
        last.bias[LEFT_OUT] -= bias
    before = digits.right(student)
    return {
        "threes": running.points(after[threes]),
        "threes_before": running.points(before[threes]),
        "all": running.points(after),
        "all_before": running.points(before),
        "bias": bias,
    }


def unlabelled(seed: int, scratch: Path) -> Mapping[str, Any]:
    """The same student on labels, and on what the teacher says of the same images without them."""
    digits = Digits(seed, scratch)
    hidden = running.write_data(scratch / "hidden", digits.images, None)
    alone, _ = digits.taught("alone", LABELS)
    mimic, _ = digits.taught("mimic", SOFT, hidden)
    labelled, taught = digits.right(alone), digits.right(mimic)
    return {
        "gained": points_gained(labelled, taught),
        "labels_points": running.points(labelled),
        "mimic_points": running.points(taught),
    }


def hints(seed: int, scratch: Path) -> Mapping[str, Any]:
    """A thin net on labels, on soft targets, and with a hint to its middle."""
    digits = Digits(seed, scratch)
    net = {"student": f"{HERE}:thin", "epochs": 15}
    soft = {**net, "match": ["kl"], "temperature": 3.0}
    plain, _ = digits.taught("plain", {**LABELS, **net})
    taught, _ = digits.taught("distilled", soft)
    fit, _ = digits.taught("fitnet", {**soft, "hint": ["2", "1"]})
    one, two, three = (digits.right(each) for each in (plain, taught, fit))
    return {
        "distilled_over_plain": points_gained(one, two),
        "fitnet_over_distilled": points_gained(two, three),
        "plain_error": 100 - running.points(one),
        "distilled_error": 100 - running.points(two),
        "fitnet_error": 100 - running.points(three),
    }


def cached(seed: int, scratch: Path) -> Mapping[str, Any]:
    """The same distillation with kept and with live answers, under augmentation; then once more with kept ones."""
    digits = Digits(seed, scratch)
    own = {**SOFT, "epochs": 3, "augment": f"{HERE}:jitter", "views": 2, "teachers": [f"{HERE}:counted"]}
    calls, losses = {}, []
    for name, more in (("kept", {}), ("again", {}), ("live", {"cache": False})):
        CALLS[0] = 0
        module, _ = digits.taught(name, {**own, **more})
        calls[name] = CALLS[0]
        losses.append(_soft_loss(module, digits))
    return {
        "difference": max(abs(losses[0] - loss) for loss in losses),
        "second_calls": calls["again"],
        "first_calls": calls["kept"],
        "live_calls": calls["live"],
        "loss": losses[0],
    }


def _soft_loss(module: nn.Module, digits: Digits) -> float:
    images = torch.from_numpy(digits.images)
    with torch.no_grad():
        return float(soft_loss(module(images), digits.net(images), TEMPERATURE))


DATA = "10,000 digits: 8,000 to learn from, the fold of the seed (2,000) held out"

ROWS = (
    Row(
        name="distil-soft-targets",
        technique="distil",
        asked="closes at least 60 % of a teacher-student gap of at least 1 point",
        published="MNIST errors: teacher 67, student alone 146, distilled 74 (91 % closed)",
        data=DATA,
        claims=(
            Claim(key="gap", what="gap between teacher and student alone", at="least", bound=1.0, unit=" points"),
            Claim(key="closed", what="closed", at="least", bound=60.0, unit=" %"),
        ),
        run=soft_targets,
    ),
    Row(
        name="distil-omitted-class",
        technique="distil",
        asked="a class that was never shown: at least 96 % of it right after one bias from class priors",
        published="digit 3: 98.6 % of threes right after one bias",
        data=DATA,
        claims=(Claim(key="threes", what="threes right", at="least", bound=96.0, unit=" %"),),
        run=omitted_class,
    ),
    Row(
        name="distil-unlabelled",
        technique="distil",
        asked="mimic on hidden labels at least as good as the same net on labels",
        published="-",
        data=DATA,
        claims=(Claim(key="gained", what="gained over labels", at="least", bound=0.0, unit=" points"),),
        run=unlabelled,
    ),
    Row(
        name="distil-hints",
        technique="distil",
        asked="FitNet at least as good as distilled, distilled as plain",
        published="MNIST error: teacher 0.55, FitNet 0.51, distilled 0.65 %",
        data=DATA,
        claims=(
            Claim(key="distilled_over_plain", what="distilled over plain", at="least", bound=0.0, unit=" points"),
            Claim(key="fitnet_over_distilled", what="FitNet over distilled", at="least", bound=0.0, unit=" points"),
        ),
        run=hints,
    ),
    Row(
        name="distil-cached",
        technique="distil",
        asked="kept answers: the loss of live ones to 1e-6; a second run never asks the teacher",
        published="-",
        data=DATA,
        claims=(
            Claim(key="difference", what="difference of losses", at="most", bound=1e-6),
            Claim(key="second_calls", what="calls in the second run", at="most", bound=0.0),
        ),
        run=cached,
    ),
)
