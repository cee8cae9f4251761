"""The one training loop: ``train``."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from edgebuild.core.steps import NoProgress, never_stop
from edgebuild.errors import DataError, EdgebuildError, Interrupted
from edgebuild.training import footprint
from edgebuild.training.batches import as_feed
from edgebuild.training.hardware import open_fabric
from edgebuild.training.randomness import deterministic, kept_randomness
from edgebuild.training.run import Run, TrainingJob

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from torch import nn

    from edgebuild.core.steps import Progress
    from edgebuild.training.batches import Batch, Feed
    from edgebuild.training.hooks import AfterStep
    from edgebuild.training.plan import Schedule, TrainingPlan, TrainReport
    from edgebuild.training.run import Loss, MakeOptimiser


def train(
    module: nn.Module,
    plan: TrainingPlan,
    loader: Any,
    loss: Loss,
    *,
    scratch: Path,
    progress: Progress | None = None,
    check: Callable[[], None] = never_stop,
    seed: int = 0,
    optimiser: MakeOptimiser | None = None,
    schedule: Schedule | None = None,
    after_step: Sequence[AfterStep] = (),
    title: str = "Training",
) -> TrainReport:
    """Train ``module`` in place and leave it on the CPU in eval mode.

    The same module, plan, data and seed give bit-equal weights on the same machine with the same number of threads; so
    does a run that was killed at any moment and started again with the same arguments and ``scratch`` (a folder of its
    own). ``loader``: see ``batches.as_feed``. ``loss`` takes the module's result and a ``Batch`` and returns a scalar;
    the parameters of a loss that is a module are trained, too. ``optimiser`` makes one from parameters, ``schedule``
    takes the share done and returns the learning rate's factor; both override the plan's. Parameters that don't require
    gradients stay as they are, and layers that hold only such stay in eval mode. ``check`` is called for each batch.

    Raises ``ModelError`` where the loss isn't finite (the module then has the last good state, also in ``scratch``) or
    the model fails; ``DataError`` for an empty loader or one that ends early; what ``check`` raises, after saving.
    """
    needs = TrainingJob(
        plan=plan,
        feed=as_feed(loader, seed),
        loss=loss,
        seed=seed,
        scratch=scratch,
        optimiser=optimiser,
        schedule=schedule or plan.factor,
        after_step=tuple(after_step),
    )
    total = _total_steps(plan, needs.feed)
    fabric = open_fabric(plan)
    with (progress or NoProgress()).task(title, float(total)) as task:
        if plan.processes > 1:
            from edgebuild.training.processes import train_forked

            return train_forked(fabric, module, needs, total, task, check, train_here)
        tell = partial(_tell_memory, say=(progress or NoProgress()).say, title=title)
        return train_here(fabric, module, needs, total, task.advance, check, tell)


def _tell_memory(run: Run, *, say: Callable[[str], None], title: str) -> None:
    """Say how much memory a step takes before the first does: nobody can say it of one that was too large."""
    said = footprint.told(run, title)
    if said is not None:
        say(said)


def _total_steps(plan: TrainingPlan, feed: Feed) -> int:
    length = feed.length()
    if length == 0:
        raise DataError("The training loader is empty.", hint="It must yield at least one batch.")
    if plan.steps is not None:
        return plan.steps
    if length is None:
        raise DataError(
            "The training loader has no length, so that nobody knows how long its epochs are.",
            hint="Give `steps` in place of `epochs`, or a loader with __len__.",
        )
    return length * (plan.epochs or 1)


def train_here(
    fabric: Any,
    module: nn.Module,
    needs: TrainingJob,
    total: int,
    advance: Callable[[float, str], None],
    check: Callable[[], None],
    first: Callable[[Run], None] | None = None,
) -> TrainReport:
    """Train in this process, alone or as one of several."""
    with ExitStack() as stack:
        stack.enter_context(kept_randomness(fabric.device))
        stack.enter_context(deterministic(fabric.device))
        stack.callback(module.eval)
        stack.callback(module.cpu)
        run = Run(fabric, module, needs, total)
        run.resume()
        advance(float(run.step), "")
        if first is not None and run.step < total:
            first(run)
        while run.step < total:
            before = run.step
            for batch in _epoch(run, needs.feed):
                _check(run, check)
                run.learn(batch)
                run.tell(advance)
                run.save_now_and_then()
                if run.step == total:
                    break
            if run.step == before:
                raise DataError(
                    f"The training loader yields no batch in epoch {run.epoch + 1}.",
                    hint="It must yield the same batches whenever it is iterated again.",
                )
            run.end_epoch()
        return run.finish()


def _check(run: Run, check: Callable[[], None]) -> None:
    """Stop at this batch if the user says so: in all processes, with what was learnt saved."""
    stopped: EdgebuildError | None = None
    try:
        check()
    except EdgebuildError as error:
        stopped = error
    if run.any_process(stopped is not None):
        run.save()
        raise stopped or Interrupted("Training was stopped in another of its processes.")


def _epoch(run: Run, feed: Feed) -> Iterator[Batch]:
    """Yield the rest of the epoch; exactly as many batches as the loader says it has."""
    length, number = feed.length(), run.number
    for batch in feed.batches(run.epoch, run.number):
        yield batch
        number += 1
        if number == length:
            return
    if length is not None:
        raise DataError(
            f"The training loader ended after {number} of {length} batches in epoch {run.epoch + 1}.",
            hint="Its length must be the number of batches that it yields every time.",
        )
