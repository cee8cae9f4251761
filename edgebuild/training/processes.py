"""Training in several processes of this machine: forked, each with its share of every batch."""

from __future__ import annotations

import multiprocessing
import threading
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

import edgebuild.errors
from edgebuild.errors import EdgebuildError
from edgebuild.training import checkpoints

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.queues import SimpleQueue

    from edgebuild.core.steps import Task
    from edgebuild.training.plan import TrainReport
    from edgebuild.training.run import TrainingJob


def train_forked(
    fabric: Any,
    module: nn.Module,
    needs: TrainingJob,
    total: int,
    task: Task,
    check: Callable[[], None],
    train_here: Callable[..., TrainReport],
) -> TrainReport:
    """Train in as many processes as the plan says, each by ``train_here``; ``module`` gets the result.

    Raises what ``train`` raises.

    Each process computes with one CPU thread: a forked process can't use the threads of its parent's OpenMP runtime.
    """
    news_of: SimpleQueue[tuple[float, str] | None] = multiprocessing.get_context("fork").SimpleQueue()

    def work(own: Any) -> Any:
        torch.set_num_threads(1)

        def advance(by: float, note: str) -> None:
            if own.global_rank == 0:
                news_of.put((by, note))

        try:
            return train_here(own, module, needs, total, advance, check)
        except EdgebuildError as error:
            # The launcher would wrap it; the parent raises it as it is.
            return type(error).__name__, error.message, error.hint

    teller = threading.Thread(target=_tell, args=(news_of, task), daemon=True)
    teller.start()
    try:
        result = fabric.launch(work)
    finally:
        news_of.put(None)
        teller.join()
    _take_over(module, needs)
    if isinstance(result, tuple):
        kind, message, hint = result
        raise getattr(edgebuild.errors, kind, EdgebuildError)(message, hint=hint)
    report: TrainReport = result
    return report


def _tell(news_of: SimpleQueue[tuple[float, str] | None], task: Task) -> None:
    while (news := news_of.get()) is not None:
        task.advance(*news)


def _take_over(module: nn.Module, needs: TrainingJob) -> None:
    """Load what the first process left in the checkpoint."""
    from edgebuild.training.run import CHECKPOINT

    state = checkpoints.load(needs.scratch / CHECKPOINT)
    if state is None:
        return
    parts = nn.ModuleDict({"module": module})
    if isinstance(needs.loss, nn.Module):
        parts["loss"] = needs.loss
    parts.load_state_dict(state["parts"])
    if state["average"]:
        module.load_state_dict(state["average"])
    module.eval()
