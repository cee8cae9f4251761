"""Trains in a process of its own until that is killed or done: ``python -m tests.training.killed FOLDER``."""

from __future__ import annotations

import os
import random
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import save_file

from edgebuild.training import run
from edgebuild.training.hardware import open_fabric
from edgebuild.training.loop import train
from edgebuild.training.losses import Supervised
from edgebuild.training.plan import TrainingPlan

from . import nets

if TYPE_CHECKING:
    from collections.abc import Iterator

PLAN = TrainingPlan(epochs=3, optimiser="adamw", learning_rate=0.01, ema=0.9, clip=1.0)


def random_batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """A loader that draws from every global state, differently in each batch."""
    images, labels = (torch.from_numpy(array) for array in nets.digits())
    for _ in range(7):
        rows = torch.randint(0, len(images), (32,))
        yield images[rows] + float(np.random.rand()) * 0.1 + random.random() * 0.1, labels[rows]


class Sized:
    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return random_batches()

    def __len__(self) -> int:
        return 7


def learn(scratch: Path, out: Path, until: int) -> None:
    run.CHECKPOINT_S = run.CHECKPOINT_TIMES = 0.0
    left = [until]

    def check() -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    module = nets.seeded(nets.Mlp)
    report = train(module, PLAN, Sized(), Supervised(), scratch=scratch, check=check, seed=5)
    save_file(module.state_dict(), out, metadata={"resumed_at": str(report.resumed_at), "losses": str(report.losses)})


def attempt(folder: Path, name: str, until: int = 0) -> str:
    """Train in a forked process, killed at the batch ``until``; return how that ended."""
    pid = os.fork()
    if pid == 0:
        learn(folder / name, folder / f"{name}.safetensors", until)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return f"{name} {code} {(folder / name).with_suffix('.safetensors').exists()}"


def main(folder: Path) -> None:
    # What imports much is imported once; nothing is computed here, so that the children can compute.
    open_fabric(PLAN)
    torch.optim.AdamW([torch.zeros(1, requires_grad=True)])
    print(attempt(folder, "whole"))
    for until in (10, 8, 0):
        print(attempt(folder, "cut", until))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
