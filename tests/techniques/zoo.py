"""Tiny torch models of every sort that a technique must work on, or refuse with the layer and the reason."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from edgebuild.core.artifact import Contract, TensorSpec
from edgebuild.core.data import Sample
from edgebuild.core.steps import NoProgress, ProjectCode, StepContext, never_stop
from edgebuild.models import compressed_model
from edgebuild.models.compressed_model import CodeNames, UserCode
from edgebuild.models.dataset import write_dataset
from edgebuild.models.edits import CompressedModel

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edgebuild.techniques.technique import Technique

IMAGE = TensorSpec(name="image", shape=("batch", 3, 8, 8), dtype="float32")
SERIES = TensorSpec(name="series", shape=("batch", 10, 6), dtype="float32")
CLASSES = 5
#: Parameters with which each technique has something to do on nets as small as these.
SMALL: dict[str, dict[str, Any]] = {
    "apprentice": {"epochs": 1},
    "binary-weights": {"epochs": 1},
    "distil": {"epochs": 1},
    "exit-early": {"epochs": 1},
    "factorise": {"ranks": "share", "share": 0.3, "multiple": 1},
    "prune-structured": {"multiple": 4},
    "resize": {"size": 4},
    "qat": {"steps": 4},
    "prune-unstructured": {"epochs": 1},
    "share-weights": {"epochs": 1, "bits": 3, "conv_bits": 4},
    "substitute": {"epochs": 1, "block_epochs": 1},
}
#: Where a technique needs others: depthwise layers can't be made depthwise, but another model can take their place.
SMALL_FOR: dict[tuple[str, str], dict[str, Any]] = {
    ("substitute", "depthwise"): {"epochs": 1, "backbones": ("tests.techniques.zoo:narrow",)},
}


def _conv(i: int, o: int, **more: Any) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(i, o, 3, padding=1, bias=False, **more), nn.BatchNorm2d(o), nn.ReLU())


class Residual(nn.Module):
    """A stem, a block with an identity shortcut, one with a convolution in it, a dense layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = _conv(3, 16), _conv(16, 16), _conv(16, 16)
        self.down, self.short = _conv(16, 32, stride=2), nn.Conv2d(16, 32, 1, stride=2)
        self.head = nn.Linear(32, CLASSES)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.stem(image)
        x = functional.relu(x + self.two(self.one(x)))
        x = functional.relu(self.down(x) + self.short(x))
        logits: torch.Tensor = self.head(x.mean((2, 3)))
        return logits


class Concat(nn.Module):
    """Branches of different widths side by side, then flattened into a dense layer."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.pool = _conv(3, 8), _conv(3, 16), nn.AdaptiveMaxPool2d(4)
        self.join, self.head = nn.Conv2d(24, 16, 1), nn.Linear(16 * 16 + 16, CLASSES)
        self.side = nn.Linear(24, 16)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        both = torch.cat([self.left(image), self.right(image)], 1)
        deep = functional.relu(self.join(self.pool(both)))
        wide = functional.relu(self.side(both.mean((2, 3))))
        logits: torch.Tensor = self.head(torch.cat([deep.flatten(1), wide], 1))
        return logits


def depthwise() -> nn.Module:
    """Wide, depthwise, narrow, with PReLU and ReLU6."""
    return nn.Sequential(
        nn.Conv2d(3, 24, 1),
        nn.BatchNorm2d(24),
        nn.PReLU(24),
        nn.Conv2d(24, 24, 3, padding=1, groups=24),
        nn.BatchNorm2d(24),
        nn.ReLU6(),
        nn.Conv2d(24, 16, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, CLASSES),
    )


def narrow(original: nn.Module) -> nn.Module:
    """A smaller model for images, whatever the original is."""
    del original
    return nn.Sequential(_conv(3, 8, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES))


def grouped() -> nn.Module:
    """A convolution in four groups between dense ones, and group normalisation."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1, groups=4),
        nn.GroupNorm(4, 32),
        nn.ReLU(),
        nn.Conv2d(32, 16, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 64, CLASSES),
    )


def transposed() -> nn.Module:
    """An autoencoder: two convolutions down, two transposed ones up."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(32, 16, 2, stride=2),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.ConvTranspose2d(16, 3, 2, stride=2),
    )


class Recurrent(nn.Module):
    """An LSTM in both directions, then a GRU, then a dense layer on the last step."""

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Linear(6, 16)
        self.lstm = nn.LSTM(16, 16, batch_first=True, bidirectional=True)
        self.gru = nn.GRU(32, 16, batch_first=True)
        self.hidden, self.head = nn.Linear(16, 24), nn.Linear(24, CLASSES)

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        x, _ = self.lstm(functional.relu(self.into(series)))
        x, _ = self.gru(x)
        logits: torch.Tensor = self.head(functional.relu(self.hidden(x[:, -1])))
        return logits


class Block(nn.Module):
    """Attention and a feed-forward net, each with a shortcut around it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        result: torch.Tensor = x + self.down(functional.gelu(self.up(self.norm2(x))))
        return result


class Vit(nn.Module):
    """A vision transformer: patches, a class token, positions, two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 2, stride=2)
        self.token = nn.Parameter(torch.zeros(1, 1, 16))
        self.positions = nn.Parameter(torch.randn(1, 17, 16) * 0.1)
        self.blocks = nn.Sequential(Block(16, 4), Block(16, 4))
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, CLASSES)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.patches(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        logits: torch.Tensor = self.head(self.norm(self.blocks(x))[:, 0])
        return logits


class UNet(nn.Module):
    """Down and up with a skip; two outputs: a mask, and a class."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.deep, self.pool = _conv(3, 16), _conv(16, 32), nn.MaxPool2d(2)
        self.up, self.merge = nn.ConvTranspose2d(32, 16, 2, stride=2), _conv(32, 16)
        self.mask, self.label = nn.Conv2d(16, 1, 1), nn.Linear(32, CLASSES)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        first = self.enter(image)
        deep = self.deep(self.pool(first))
        merged = self.merge(torch.cat([first, self.up(deep)], 1))
        return self.mask(merged), self.label(deep.mean((2, 3)))


class TwoInputs(nn.Module):
    """An image and a row of numbers, joined."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.numbers = _conv(3, 16), nn.Linear(4, 16)
        self.joined, self.head = nn.Linear(32, 16), nn.Linear(16, CLASSES)

    def forward(self, image: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        both = torch.cat([self.image(image).mean((2, 3)), functional.relu(self.numbers(numbers))], 1)
        logits: torch.Tensor = self.head(functional.relu(self.joined(both)))
        return logits


@dataclass(frozen=True)
class Animal:
    """One model of the zoo: its factory, inputs in order, and the names of its outputs."""

    name: str
    factory: Callable[[], nn.Module]
    specs: tuple[TensorSpec, ...] = (IMAGE,)
    outputs: tuple[str, ...] = ("logits",)
    tags: frozenset[str] = field(default_factory=frozenset)

    @property
    def reference(self) -> str:
        return f"{self.factory.__module__}:{self.factory.__name__}"


NUMBERS = TensorSpec(name="numbers", shape=("batch", 4), dtype="float32")
ZOO = {
    animal.name: animal
    for animal in (
        Animal("residual", Residual),
        Animal("concat", Concat),
        Animal("depthwise", depthwise),
        Animal("grouped", grouped),
        Animal("transposed", transposed, outputs=("restored",)),
        Animal("recurrent", Recurrent, (SERIES,)),
        Animal("vit", Vit),
        Animal("unet", UNet, outputs=("mask", "label")),
        Animal("two-inputs", TwoInputs, (IMAGE, NUMBERS)),
    )
}


def load(reference: str) -> Any:
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)


#: What a step finds in its context.
CODE = ProjectCode(load=load, digest="")


def code_of(animal: Animal, *modules: str) -> UserCode:
    return UserCode(factory=animal.reference, load=load, modules=modules)


def grown(animal: Animal, seed: int = 0) -> nn.Module:
    """A model whose normalisations have seen data, in eval mode."""
    torch.manual_seed(seed)
    module = animal.factory().train()
    with torch.no_grad():
        for _ in range(3):
            module(*feeds(animal, 16, seed))
    return module.eval()


def feeds(animal: Animal, count: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    sizes = [[count, *(int(size) for size in spec.shape[1:])] for spec in animal.specs]
    return tuple(torch.randn(size, generator=generator) for size in sizes)


def contract_of(animal: Animal) -> Contract:
    outputs = tuple(TensorSpec(name=name, shape=("batch",), dtype="float32") for name in animal.outputs)
    return Contract(inputs=animal.specs, outputs=outputs)


def write_inputs(
    animal: Animal, folder: Path, *, samples: int = 24, target: Callable[[int], Any] | None = None
) -> dict[str, Path]:
    """Write a grown model as a stored one, and data: what a technique's step takes. ``target`` makes a sample's own."""
    for name in ("model", "calibration"):
        (folder / name).mkdir(parents=True)
    compressed_model.write_model(grown(animal), CompressedModel(factory=animal.reference), folder / "model")
    arrays = [each.numpy() for each in feeds(animal, samples, seed=1)]
    labels = np.random.default_rng(0).integers(0, CLASSES, samples)
    rows = (
        Sample(
            inputs={spec.name: array[i] for spec, array in zip(animal.specs, arrays, strict=True)},
            target=target(i) if target else int(labels[i]) if animal.outputs == ("logits",) else None,
        )
        for i in range(samples)
    )
    write_dataset(
        rows,
        folder / "calibration",
        specs=animal.specs,
        stateful=False,
        source="the zoo",
        task=NoProgress(),
        check=never_stop,
    )
    return {"model": folder / "model", "teacher": folder / "model", "calibration": folder / "calibration"}


def parameters_for(technique: str, animal: str) -> dict[str, Any]:
    return SMALL_FOR.get((technique, animal), SMALL[technique])


def step_of(technique: type[Technique], animal: Animal, **parameters: Any) -> Technique:
    made = technique.Parameters(**parameters)
    return technique(
        parameters=made,
        code=CodeNames(factory=animal.reference, modules=technique.needs(made).references),
        specs=animal.specs,
        contract=contract_of(animal),
        channel_multiple=1,
    )


def context(scratch: Path, load: Callable[[str], Any] = load) -> StepContext:
    scratch.mkdir(parents=True, exist_ok=True)
    code = ProjectCode(load=load, digest="")
    return StepContext(progress=NoProgress(), check=never_stop, seed=0, scratch=scratch, code=code)
