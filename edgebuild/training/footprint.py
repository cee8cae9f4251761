"""About how much memory one step of a training takes, before it takes it: a step too large is ended by the kernel.

What autograd keeps between the passes grows with the batch, and of large inputs it is nearly everything. It is counted
in forward passes on a few samples.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np
import torch

from edgebuild.devices.runner.machine import Machine
from edgebuild.training.batches import ArrayLoader, call_on

if TYPE_CHECKING:
    from torch import nn

    from edgebuild.training.run import Loss, Run

#: Samples of the passes; two numbers of them tell what grows with the batch from what doesn't.
FEW, MORE = 2, 4
#: Where gradients flow back through the largest layer, those on both of its sides are there, and of each the copy in
#: the layout that its kernels want.
FLOWING = 4
#: Smaller steps aren't worth a word.
WORTH_SAYING = 1 << 30
#: Gradients, and what an optimiser keeps of each weight: AdamW's two averages, SGD's momentum.
PER_WEIGHT = {"adamw": 3, "sgd": 2}


def step_bytes(run: Run) -> int | None:
    """Return about what a step takes in addition to what is there before it; None where that can't be told.

    Told for batches of arrays of the project's on a CPU: a loader of the user's isn't read for it. A copy of the module
    is called, whose statistics and first values of scales are nobody's. What fails here is for the first step to say.
    """
    feed, plan = run.needs.feed, run.needs.plan
    if not isinstance(feed, ArrayLoader) or feed.samples < MORE or run.fabric.device.type != "cpu" or not run.direct:
        return None
    try:
        module = copy.deepcopy(run.module)
        few, more = (_kept(module, run.needs.loss, feed, samples) for samples in (FEW, MORE))
    except Exception:  # noqa: BLE001 - of the user's code too
        return None
    batch = min(feed.batch_size, feed.samples)
    grown = [(one + (other - one) * (batch - FEW) / (MORE - FEW)) for one, other in zip(few, more, strict=True)]
    weights = sum(p.nbytes for p in run.trained) * PER_WEIGHT.get(plan.optimiser, max(PER_WEIGHT.values()))
    return int(grown[0] + FLOWING * grown[1] + weights)


def told(run: Run, title: str) -> str | None:
    """Return what to say of the memory that a step takes; None of a small one, and where it can't be told."""
    needed = step_bytes(run)
    if needed is None or needed < WORTH_SAYING:
        return None
    free = Machine().kilobytes("proc/meminfo", "MemAvailable")
    said = f"{title} takes about {needed / 2**30:.1f} GiB of memory in each step"
    if free is None or needed <= free:
        return said
    return f"{said}, more than the {free / 2**30:.1f} GiB that are free here: a smaller `batch_size` takes less"


def _kept(module: nn.Module, loss: Loss, feed: ArrayLoader, samples: int) -> tuple[int, int]:
    """Return the bytes that are kept for going back over a batch of so many samples, and the largest part of them."""
    own = {each.untyped_storage().data_ptr() for each in (*module.parameters(), *module.buffers())}
    seen: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    batch = feed.rows(np.arange(samples), 0)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        # While the loss is there all of it is kept, and no address is seen twice.
        found = loss(call_on(module, batch.inputs), batch)
    del found
    return sum(seen.values()), max(seen.values(), default=0)
