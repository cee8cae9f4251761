"""Rows of `distil` on Fashion-MNIST: shallow mimics, and specialists."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from edgebuild.techniques.distilling.distil import Distil
from edgebuild.techniques.sizes import count_parameters
from edgebuild.training.teachers import combine, specialist_target

from . import data, running
from .rows import Claim, Row, points_gained, points_lost

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

HERE = __name__
#: Of Fashion-MNIST's training images, so many are learnt from.
LEARNT = 20_000
#: Labels alone, in the same step and loop as all else.
LABELS: Mapping[str, Any] = {"match": ["none"], "hard_weight": 1.0}
MIMIC: Mapping[str, Any] = {"match": ["standardised-l2"], "hard_weight": 0.0}
STUDENT: Mapping[str, Any] = {"student": "shallow", "hidden": 1024, "bottleneck": 64, "epochs": 30, "batch_size": 128}
#: T-shirt, pullover, coat, shirt: what is taken for one another most.
CONFUSED = (0, 2, 4, 6)


def resnet8() -> nn.Module:
    """The net of examples/fashion-mnist."""
    made: nn.Module = data.example("model").resnet8()
    return made


def shallow_full(original: nn.Module) -> nn.Module:
    """One layer of 1024 units without a bottleneck."""
    del original
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 1024), nn.ReLU(), nn.Linear(1024, 10))


def trunk() -> tuple[nn.Module, ...]:
    """What generalist and specialist have alike; 0.7 MMAC."""
    widths = ((1, 16, 2), (16, 32, 2), (32, 32, 1))
    convolutions = [
        nn.Sequential(nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU())
        for i, o, stride in widths
    ]
    return (*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def small() -> nn.Module:
    """The generalist."""
    return nn.Sequential(*trunk(), nn.Linear(32, 10))


def specialist() -> nn.Module:
    """The same net with an output for each confused class and one for all others."""
    return nn.Sequential(*trunk(), nn.Linear(32, len(CONFUSED) + 1))


class Garments:
    """Fashion-MNIST in folders, and the example's net with its shipped weights as the teacher."""

    def __init__(self, seed: int, scratch: Path) -> None:
        from safetensors.torch import load_file

        self.seed, self.scratch = seed, scratch
        images, labels = data.fashion("train")
        chosen = np.random.default_rng(seed).permutation(len(labels))[:LEARNT]
        self.images, self.labels = images[chosen], labels[chosen]
        self.train = running.write_data(scratch / "train", self.images, self.labels)
        weights = load_file(str(data.EXAMPLE / "weights.safetensors"))
        self.teacher = running.write_fresh(scratch / "teacher", f"{HERE}:resnet8", seed, weights)

    def taught(self, name: str, parameters: Mapping[str, Any]) -> nn.Module:
        """Return a student."""
        return running.run(
            Distil,
            self.scratch / name,
            self.seed,
            model=self.teacher,
            train=self.train,
            labels=self.scratch / "labels",
            parameters={**STUDENT, **parameters},
        )[0]


def logit_mimic(seed: int, scratch: Path) -> Mapping[str, Any]:
    """A shallow net on labels, and on the teacher's logits."""
    garments = Garments(seed, scratch)
    images, labels = data.fashion("test")
    students = (garments.taught("on-labels", LABELS), garments.taught("mimic", MIMIC))
    on_labels, mimic = (running.right(each, images, labels) for each in students)
    return {
        "gained": points_gained(on_labels, mimic),
        "labels_points": running.points(on_labels),
        "mimic_points": running.points(mimic),
    }


def bottleneck(seed: int, scratch: Path) -> Mapping[str, Any]:
    """A shallow mimic with its first layer in one piece, and as a product of two."""
    garments = Garments(seed, scratch)
    images, labels = data.fashion("test")
    full = garments.taught("full", {**MIMIC, "student": f"{HERE}:shallow_full"})
    product = garments.taught("uv", MIMIC)
    one, other = (running.right(each, images, labels) for each in (full, product))
    return {
        "times_fewer": count_parameters(full) / count_parameters(product),
        "lost": points_lost(one, other),
        "full_points": running.points(one),
        "uv_points": running.points(other),
    }


def specialists(seed: int, scratch: Path) -> Mapping[str, Any]:
    """A generalist, trained on, and beside it a specialist for four classes that starts from it: equal epochs."""
    garments = Garments(seed, scratch)
    how = {**LABELS, "epochs": 8, "batch_size": 128}

    def trained(name: str, model: Path, train: Path) -> nn.Module:
        return running.run(Distil, scratch / name, seed, model=model, train=train, parameters=how)[0]

    fresh = running.write_fresh(scratch / "fresh", f"{HERE}:small", seed)
    first = trained("general", fresh, garments.train)
    general = trained("longer", scratch / "general" / "out", garments.train)
    torch.manual_seed(seed)
    start = specialist().state_dict()
    start |= {name: value for name, value in first.state_dict().items() if not name.startswith("5.")}
    begun = running.write_fresh(scratch / "begun", f"{HERE}:specialist", seed, start)
    own = specialist_target(torch.from_numpy(garments.labels), CONFUSED).numpy()
    # As many images of its own classes as of all others (Hinton 2015, section 5.2), and as many in all.
    draws = np.random.default_rng(seed)
    inside, outside = np.flatnonzero(own < len(CONFUSED)), np.flatnonzero(own == len(CONFUSED))
    picked = np.concatenate([draws.choice(part, LEARNT // 2) for part in (inside, outside)])
    expert = trained("expert", begun, running.write_data(scratch / "special", garments.images[picked], own[picked]))
    images, labels = data.fashion("test")
    with torch.no_grad():
        x = torch.from_numpy(images)
        logits = general(x)
        heard = torch.isin(logits.argmax(1), torch.tensor(CONFUSED))
        together = combine(logits, [(expert(x), CONFUSED, heard)]).argmax(1).numpy()
    mine = np.isin(labels, CONFUSED)
    one, other = logits.argmax(1).numpy() == labels, together == labels
    return {
        "gained": points_gained(one[mine], other[mine]),
        "gained_all": points_gained(one, other),
        "generalist_points": running.points(one[mine]),
        "with_specialist_points": running.points(other[mine]),
    }


DATA = "Fashion-MNIST: 20,000 to learn from, the 10,000 of the test set"

ROWS = (
    Row(
        name="distil-logit-mimic",
        technique="distil",
        asked="shallow mimic at least 1 point over the same net on labels",
        published="TIMIT error: shallow 23.1, mimic 21.6",
        data=DATA,
        claims=(Claim(key="gained", what="gained over labels", at="least", bound=1.0, unit=" points"),),
        run=logit_mimic,
    ),
    Row(
        name="distil-bottleneck",
        technique="distil",
        asked="W as UV: at least 3x fewer parameters, at most 0.2 point lost",
        published="-",
        data=DATA,
        claims=(
            Claim(key="times_fewer", what="fewer parameters", at="least", bound=3.0, unit="x"),
            Claim(key="lost", what="lost", at="most", bound=0.2, unit=" points"),
        ),
        run=bottleneck,
    ),
    Row(
        name="distil-specialists",
        technique="distil",
        asked="a specialist beats the generalist on its own classes",
        published="JFT: +4.4 % relative",
        data=DATA,
        claims=(Claim(key="gained", what="gained on its classes", at="least", bound=0.0, unit=" points"),),
        run=specialists,
    ),
)
