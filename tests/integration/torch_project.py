"""A small torch project: a factory, its weights, and data that the model itself has labelled."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import save_file

from tests.cli.example import CLASSES, DATA, SHAPE, toml, write_quick

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MODEL = """\
from torch import nn

def make():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 24), nn.ReLU(), nn.Linear(24, 4)
    )
"""


def weights() -> dict[str, np.ndarray]:
    """Every second channel is dead and the wide dense layer has rank 3, so that both recipes lose nothing."""
    generator = np.random.default_rng(0)
    made = {
        "0.weight": generator.standard_normal((16, 1, 3, 3)) / 3,
        "0.bias": generator.standard_normal(16) / 4,
        "3.weight": generator.standard_normal((24, 3)) @ generator.standard_normal((3, 576)) / 20,
        "3.bias": generator.standard_normal(24) / 4,
        "5.weight": generator.standard_normal((CLASSES, 24)) / 4,
        "5.bias": np.zeros(CLASSES),
    }
    made["0.weight"][1::2] = made["0.bias"][1::2] = 0
    made["3.weight"].reshape(24, 16, 36)[:, 1::2] = 0
    return {name: value.astype(np.float32) for name, value in made.items()}


def answers(images: np.ndarray, w: dict[str, np.ndarray]) -> np.ndarray:
    windows = np.lib.stride_tricks.sliding_window_view(images[:, 0], (3, 3), axis=(1, 2))
    maps = np.maximum(np.einsum("nyxij,cij->ncyx", windows, w["0.weight"][:, 0]) + w["0.bias"][:, None, None], 0)
    hidden = np.maximum(maps.reshape(len(images), -1) @ w["3.weight"].T + w["3.bias"], 0)
    result: np.ndarray = hidden @ w["5.weight"].T + w["5.bias"]
    return result


def write_torch_project(folder: Path, w: dict[str, np.ndarray], tables: Mapping[str, str], recipes: str) -> Path:
    """Write the project with weights ``w``; the last bias is changed so that no class is all of the samples."""
    folder.mkdir()
    generator = np.random.default_rng(1)
    w = {**w, "5.bias": np.zeros(CLASSES, np.float32)}
    w["5.bias"] = -answers(generator.standard_normal((500, *SHAPE)).astype(np.float32), w).mean(axis=0)
    save_file(w, folder / "weights.safetensors")
    model = 'factory = "net:make"\nweights = "weights.safetensors"\noutputs = ["logits"]'
    (folder / "edgebuild.toml").write_text(toml({"model": model, **tables}) + recipes)
    (folder / "net.py").write_text(MODEL)
    (folder / "data.py").write_text(DATA)
    for split, count in (("calibration", 64), ("validation", 400), ("test", 401)):
        images = generator.standard_normal((count, *SHAPE)).astype(np.float32)
        labels = answers(images, w).argmax(axis=1)
        with (folder / f"{split}_arrays").open("wb") as file:
            np.savez(file, image=images, label=labels)
    write_quick(folder)
    return folder
