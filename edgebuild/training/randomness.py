"""Randomness that can be taken up anywhere: every number is a function of the seed, the epoch and the batch.

Nothing random has to be stored for a run to go on after a kill, and what a loader draws doesn't change what dropout
draws.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mixed(*parts: int | str) -> int:
    """Return a seed below 2**63 that depends on every part."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def seed_everything(seed: int, device: torch.device) -> None:
    """Seed what user code may draw from: torch (on the CPU and on ``device``), numpy's and Python's global states."""
    # torch.manual_seed would queue a call with a stack trace for every batch while CUDA isn't initialised.
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


@contextlib.contextmanager
def kept_randomness(device: torch.device) -> Iterator[None]:
    """Give the caller back the random states that it had."""
    python, numpy = random.getstate(), np.random.get_state()
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


@contextlib.contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Choose reproducible kernels; a CPU's are so anyway, for one number of threads."""
    if device.type != "cuda":
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = benchmark


class Draws:
    """Random numbers for the samples of a batch: a sample's depend on seed, epoch and index, not on its neighbours.

    So a sample gets the same view in any batch, in any order, and for teacher and student alike. Counter-based:
    splitmix64 (Steele, Lea, Flood 2014) of the sample's seed and the number of the draw.
    """

    def __init__(self, seed: int, epoch: int, index: NDArray[np.int64]) -> None:
        with np.errstate(over="ignore"):
            self._seeds = _splitmix(np.uint64(mixed(seed, epoch, "view")) + index.astype(np.uint64) * _GOLDEN)
        self._drawn = 0

    def uniform(self, *shape: int) -> torch.Tensor:
        """Return float32 numbers in [0, 1) of shape (samples, *shape)."""
        return torch.from_numpy(self._units(shape).astype(np.float32))

    def integers(self, low: int, high: int, *shape: int) -> torch.Tensor:
        """Return int64 numbers of ``low`` … ``high - 1`` of shape (samples, *shape)."""
        return torch.from_numpy((low + np.floor(self._units(shape) * (high - low))).astype(np.int64))

    def _units(self, shape: tuple[int, ...]) -> NDArray[np.float64]:
        count = int(np.prod(shape, dtype=np.int64))
        with np.errstate(over="ignore"):
            counters = np.arange(self._drawn + 1, self._drawn + count + 1, dtype=np.uint64) * _GOLDEN
            bits = _splitmix(self._seeds[:, np.newaxis] + counters)
        self._drawn += count
        # 24 bits, so that float32 holds the number and never rounds it up to 1.
        units: NDArray[np.float64] = (bits >> np.uint64(40)).astype(np.float64) / 2.0**24
        return units.reshape(len(self._seeds), *shape)


def _splitmix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
