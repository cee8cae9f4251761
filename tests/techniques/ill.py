"""Tiny torch models that are easily got wrong: branches on data, tied weights, a layer used twice, a custom op."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from .zoo import CLASSES, Animal


class Branching(nn.Module):
    """Takes another way for dark images than for bright ones."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.dark, self.bright = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.enter(image)
        x = self.dark(x) if image.mean().item() < 0 else 5 * self.bright(x)
        logits: torch.Tensor = self.head(functional.relu(x).mean((2, 3)))
        return logits


class Tied(nn.Module):
    """Two dense layers, one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.one, self.other = nn.Linear(16, 16), nn.Linear(16, 16)
        self.other.weight = self.one.weight
        self.free, self.head = nn.Linear(16, 16), nn.Linear(16, CLASSES)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.enter(image).mean((2, 3))
        x = functional.relu(self.other(functional.relu(self.one(x))))
        logits: torch.Tensor = self.head(functional.relu(self.free(x)))
        return logits


class Twice(nn.Module):
    """One convolution that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.again = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.free, self.head = nn.Linear(16, 16), nn.Linear(16, CLASSES)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.again(functional.relu(self.again(functional.relu(self.enter(image)))))
        logits: torch.Tensor = self.head(functional.relu(self.free(x.mean((2, 3)))))
        return logits


@torch.library.custom_op("edgebuild_tests::squash", mutates_args=())
def squash(x: torch.Tensor) -> torch.Tensor:
    """An operator that no exporter knows."""
    return x / (1 + x.abs())


def _keep(ctx: Any, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
    del output
    ctx.save_for_backward(*inputs)


def _backwards(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
    x: torch.Tensor = ctx.saved_tensors[0]
    return gradient / (1 + x.abs()) ** 2


squash.register_fake(torch.empty_like)
squash.register_autograd(_backwards, setup_context=_keep)


class CustomOp(nn.Module):
    """Has an operator of its own between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.next = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.next(squash(self.enter(image))))
        logits: torch.Tensor = self.head(x.mean((2, 3)))
        return logits


class Frozen(nn.Module):
    """A net of which the first half isn't to be trained."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.next, self.head = nn.Conv2d(16, 16, 3, padding=1), nn.Linear(16, CLASSES)
        self.enter.requires_grad_(False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(functional.relu(self.next(self.enter(image))).mean((2, 3)))
        return logits


ILL = {
    animal.name: animal
    for animal in (
        Animal("branching", Branching),
        Animal("tied", Tied),
        Animal("twice", Twice),
        Animal("custom-op", CustomOp),
        Animal("frozen", Frozen),
    )
}
