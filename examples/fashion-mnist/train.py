"""Trains the ResNet-8 of this folder: `python train.py` makes `weights.safetensors` and `training.json`.

A killed run goes on from its last whole epoch when started again with the same arguments. Every random choice comes
from the seed and the epoch's number, so a run that was stopped sees the same images in the same order as one that was
not. Only the `train` split is learnt from; `validation` is printed as it goes, `test` once at the end.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import data
import model
import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).resolve().parent
PAD = 2
EVALUATION_BATCH = 500


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the outcome of a training run."""

    epochs: int
    seed: int
    batch_size: int = 128
    peak_learning_rate: float = 0.2
    warmup_fraction: float = 0.15
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.05

    def learning_rate(self, progress: float) -> float:
        """Rises linearly to the peak, then falls along a cosine to zero; `progress` is in [0, 1]."""
        if progress < self.warmup_fraction:
            return self.peak_learning_rate * progress / self.warmup_fraction
        rest = (progress - self.warmup_fraction) / (1 - self.warmup_fraction)
        return self.peak_learning_rate * 0.5 * (1 + math.cos(math.pi * rest))


class Run:
    """One training run: the network, its optimiser and how far it has come."""

    def __init__(self, network: nn.Module, recipe: Recipe, checkpoint: Path) -> None:
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.recipe = recipe
        self.checkpoint = checkpoint
        self.optimizer = torch.optim.SGD(
            network.parameters(), lr=0.0, momentum=recipe.momentum, weight_decay=recipe.weight_decay, nesterov=True
        )
        self.epochs_done = 0
        self.seconds = 0.0
        self.history: list[float] = []

    def save(self) -> None:
        """Write the checkpoint; a kill at any moment leaves the old or the new one."""
        tensors = {f"network.{name}": value.contiguous() for name, value in self.network.state_dict().items()}
        for name, parameter in self.network.named_parameters():
            tensors[f"momentum.{name}"] = self.optimizer.state[parameter]["momentum_buffer"].contiguous()
        state = {"epochs_done": self.epochs_done, "seconds": self.seconds, "history": self.history}
        _save(tensors, self.checkpoint, {"recipe": json.dumps(asdict(self.recipe)), "state": json.dumps(state)})

    def resume(self) -> None:
        """Go on from the checkpoint; refuses one that another recipe made."""
        with safe_open(self.checkpoint, framework="pt") as file:
            metadata = file.metadata()
            if json.loads(metadata["recipe"]) != asdict(self.recipe):
                raise SystemExit(
                    f"{self.checkpoint} is of another recipe ({metadata['recipe']}); delete it to start again"
                )
            names = [name for name in file.keys() if name.startswith("network.")]  # noqa: SIM118 - not a dict
            network = {name.removeprefix("network."): file.get_tensor(name) for name in names}
            self.network.load_state_dict(network)
            for name, parameter in self.network.named_parameters():
                self.optimizer.state[parameter] = {"momentum_buffer": file.get_tensor(f"momentum.{name}")}
        state = json.loads(metadata["state"])
        self.epochs_done, self.seconds, self.history = state["epochs_done"], state["seconds"], state["history"]


def train(factory: Callable[[], nn.Module], recipe: Recipe, *, weights: Path, report: Path, threads: int) -> None:
    """Train `factory()` by `recipe`; writes the float32 weights and a JSON report of how they came about."""
    torch.set_num_threads(threads)
    torch.manual_seed(recipe.seed)
    run = Run(factory(), recipe, weights.with_suffix(".checkpoint.safetensors"))
    if run.checkpoint.exists():
        run.resume()
        print(f"going on after epoch {run.epochs_done} of {run.checkpoint}")
    images, labels = _tensors("train")
    validation = _tensors("validation")
    while run.epochs_done < recipe.epochs:
        started = time.monotonic()
        loss = _epoch(run, images, labels)
        run.history.append(accuracy(run.network, *validation))
        run.epochs_done += 1
        run.seconds += time.monotonic() - started
        run.save()
        left_s = run.seconds / run.epochs_done * (recipe.epochs - run.epochs_done)
        print(
            f"epoch {run.epochs_done}/{recipe.epochs}: loss {loss:.4f}, validation {run.history[-1]:.4f}, "
            f"{left_s / 60:.1f} min left",
            flush=True,
        )
    _save({k: v.contiguous() for k, v in run.network.state_dict().items()}, weights, {"format": "pt"})
    test_accuracy = accuracy(run.network, *_tensors("test"))
    print(f"test {test_accuracy:.4f}")
    report.write_text(json.dumps(_report(run, test_accuracy, threads), indent=2) + "\n")
    run.checkpoint.unlink()


def _epoch(run: Run, images: torch.Tensor, labels: torch.Tensor) -> float:
    """One pass over the training images in a new order; returns the mean loss."""
    recipe = run.recipe
    generator = torch.Generator().manual_seed(recipe.seed * 10_000 + run.epochs_done)
    order = torch.randperm(len(images), generator=generator)
    batches = [order[i : i + recipe.batch_size] for i in range(0, len(order), recipe.batch_size)]
    loss_function = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
    total = 0.0
    run.network.train()
    for number, batch in enumerate(batches):
        progress = (run.epochs_done + number / len(batches)) / recipe.epochs
        for group in run.optimizer.param_groups:
            group["lr"] = recipe.learning_rate(progress)
        run.optimizer.zero_grad(set_to_none=True)
        loss = loss_function(run.network(_normalise(_augment(images[batch], generator))), labels[batch])
        loss.backward()
        run.optimizer.step()
        total += loss.item() * len(batch)
    return total / len(images)


def _augment(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Shift each image by up to two pixels either way and mirror half of them; uint8 (n, 28, 28) in and out."""
    count = len(images)
    padded = nn.functional.pad(images, (PAD, PAD, PAD, PAD))
    windows = padded.unfold(1, 28, 1).unfold(2, 28, 1)
    down, right = torch.randint(0, 2 * PAD + 1, (2, count), generator=generator)
    shifted = windows[torch.arange(count), down, right]
    mirrored = torch.rand(count, 1, 1, generator=generator) < 0.5
    return torch.where(mirrored, shifted.flip(-1), shifted)


def _normalise(images: torch.Tensor) -> torch.Tensor:
    """`data.preprocess` for a whole batch: uint8 (n, 28, 28) to float32 (n, 1, 28, 28)."""
    scaled = (images.float() / 255.0 - data.MEAN) / data.STD
    return scaled.unsqueeze(1).contiguous(memory_format=torch.channels_last)


def accuracy(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """The share of uint8 images (n, 28, 28) that `network` labels rightly."""
    network.eval()
    hits = 0
    with torch.inference_mode():
        for start in range(0, len(images), EVALUATION_BATCH):
            part = slice(start, start + EVALUATION_BATCH)
            hits += int((network(_normalise(images[part])).argmax(1) == labels[part]).sum())
    return hits / len(images)


def _tensors(split: str) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = data.arrays(split)
    return torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64))


def _save(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(path.name + ".new")
    save_file(tensors, scratch, metadata=metadata)
    scratch.replace(path)


def _report(run: Run, test_accuracy: float, threads: int) -> dict[str, object]:
    return {
        "validation_accuracy": run.history[-1],
        "test_accuracy": test_accuracy,
        "validation_by_epoch": run.history,
        "seconds": round(run.seconds, 1),
        "threads": threads,
        "recipe": asdict(run.recipe),
        "versions": {"torch": torch.__version__, "numpy": np.__version__},
        "parameters": sum(parameter.numel() for parameter in run.network.parameters()),
    }


def command_line(description: str, *, epochs: int, out: Path) -> argparse.Namespace:
    """The arguments every training script here takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--epochs", type=int, default=epochs, help="full passes over the training images")
    parser.add_argument("--out", type=Path, default=out, help="where the weights go")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    arguments = command_line("Train ResNet-8 on Fashion-MNIST.", epochs=30, out=HERE / "weights.safetensors")
    recipe = Recipe(epochs=arguments.epochs, seed=arguments.seed)
    report = arguments.out.with_name("training.json")
    train(model.resnet8, recipe, weights=arguments.out, report=report, threads=arguments.threads)


if __name__ == "__main__":
    main()
