"""Where training runs: one Fabric object made from a plan's settings."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

import torch

from edgebuild.errors import EnvironmentGap

if TYPE_CHECKING:
    from edgebuild.training.plan import TrainingPlan


def open_fabric(plan: TrainingPlan) -> Any:
    """Return Lightning Fabric for the plan's device, precision and number of processes.

    Raises ``EnvironmentGap`` where Fabric isn't installed, or the machine lacks the GPUs.
    """
    try:
        from lightning_fabric import Fabric
        from lightning_fabric.strategies.ddp import DDPStrategy
    except ImportError as error:
        raise EnvironmentGap(
            f"Training needs lightning-fabric, which can't be imported: {error}",
            hint="pip install 'edgebuild[compress]'",
        ) from error
    # It announces its processes; progress and errors are ours to tell.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    if plan.device == "cuda" and torch.cuda.device_count() < plan.processes:
        raise EnvironmentGap(
            f"The training plan asks for {plan.processes} CUDA device(s), there are {torch.cuda.device_count()}.",
            hint='Set device = "cpu", or fewer processes.',
        )
    if plan.processes > 1 and not hasattr(os, "fork"):
        raise EnvironmentGap("Training in several processes needs a system that can fork.", hint="Set processes = 1.")
    # Forked, so that the user's losses and loaders needn't be picklable.
    strategy = DDPStrategy(start_method="fork", find_unused_parameters=True) if plan.processes > 1 else "auto"
    return Fabric(accelerator=plan.device, devices=plan.processes, precision=plan.precision, strategy=strategy)
