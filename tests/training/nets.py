"""Tiny nets and data that train in a second."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from edgebuild.training.batches import ArrayLoader

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgebuild.training.randomness import Draws


class Mlp(nn.Module):
    """Digits (batch, 64) to ten logits, with dropout and batch normalisation."""

    def __init__(self, hidden: int = 16, *, drop: float = 0.1) -> None:
        super().__init__()
        self.first = nn.Linear(64, hidden)
        self.norm = nn.BatchNorm1d(hidden)
        self.drop = nn.Dropout(drop)
        self.last = nn.Linear(hidden, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.last(self.drop(torch.relu(self.norm(self.first(x)))))
        return result


class Conv(nn.Module):
    """Digits as (batch, 1, 8, 8) to ten logits; two named middle layers."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, stride=2), nn.ReLU())
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.head(self.body(self.stem(x)).mean((2, 3)))
        return result


class TwoInTwoOut(nn.Module):
    """Two inputs by name, two outputs in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(64, 10), nn.Linear(64, 3)

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"classes": self.a(left), "boxes": self.b(left - right)}


def seeded(make: Any, seed: int = 0) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


def digits(count: int = 320) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    images, labels = load_digits(return_X_y=True)
    return (images[:count] / 16.0).astype(np.float32), labels[:count].astype(np.int64)


def loader(count: int = 320, **settings: Any) -> ArrayLoader:
    images, labels = digits(count)
    return ArrayLoader(inputs=(images,), target=labels, **{"batch_size": 32, **settings})


def noisy(inputs: Any, draws: Draws) -> Any:
    (images,) = inputs
    return (images + 0.1 * draws.uniform(*images.shape[1:]),)


def state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
