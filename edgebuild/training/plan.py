"""What a training run does: a value that goes into keys as it is, and what came of it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from pydantic import Field, model_validator

from edgebuild.core.values import Value

if TYPE_CHECKING:
    from collections.abc import Callable

#: Takes the share of the run that is done, in [0, 1); returns what the learning rate is multiplied by.
Schedule: TypeAlias = "Callable[[float], float]"

Share = Annotated[float, Field(ge=0, le=1)]

#: Where the one-cycle schedule peaks, and how far below the peak it begins and ends.
ONE_CYCLE_PEAK = 0.3
ONE_CYCLE_START = 25.0
ONE_CYCLE_END = 1e4


class TrainingPlan(Value):
    """How long, with which optimiser, and on what: exactly one of ``epochs`` and ``steps``.

    ``learning_rate`` is the peak; ``warmup`` is the share of the run over which it rises linearly. ``decay_at`` and
    ``decay`` go with the schedule "step". ``clip`` bounds the norm of all gradients together. ``ema`` is the decay of a
    moving average of the weights, which then is the result. ``processes`` share every batch between them.
    """

    epochs: Annotated[int, Field(ge=1)] | None = None
    steps: Annotated[int, Field(ge=1)] | None = None
    optimiser: Literal["sgd", "adamw"] = "sgd"
    learning_rate: Annotated[float, Field(gt=0)] = 0.05
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    schedule: Literal["constant", "cosine", "step", "one-cycle"] = "cosine"
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    decay_at: tuple[Share, ...] = (0.5, 0.75)
    decay: Annotated[float, Field(gt=0, le=1)] = 0.1
    clip: Annotated[float, Field(gt=0)] | None = None
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    device: Literal["cpu", "cuda"] = "cpu"
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    processes: Annotated[int, Field(ge=1)] = 1

    @model_validator(mode="after")
    def _one_length(self) -> TrainingPlan:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("needs either `epochs` or `steps`" + (", not both" if self.epochs else ""))
        if self.precision == "16-mixed" and self.device == "cpu":
            raise ValueError('"16-mixed" needs device = "cuda"; on a CPU take "bf16-mixed"')
        return self

    def factor(self, done: float) -> float:
        """Return what the learning rate is multiplied by when the share ``done`` of the run lies behind."""
        if done < self.warmup:
            return done / self.warmup if done else 1e-3
        rest = (done - self.warmup) / (1 - self.warmup)
        if self.schedule == "cosine":  # Loshchilov and Hutter 2017, without restarts
            return 0.5 * (1 + math.cos(math.pi * rest))
        if self.schedule == "step":
            return float(self.decay ** sum(rest >= at for at in self.decay_at))
        if self.schedule == "one-cycle":
            return _one_cycle(rest)
        return 1.0


def _one_cycle(done: float) -> float:
    """Smith 2018, "Super-convergence", with cosine ramps: 1/25 of the peak, the peak at 30 %, then almost nothing."""
    if done < ONE_CYCLE_PEAK:
        low, high, along = 1 / ONE_CYCLE_START, 1.0, 1 - done / ONE_CYCLE_PEAK
    else:
        low, high = 1 / (ONE_CYCLE_START * ONE_CYCLE_END), 1.0
        along = (done - ONE_CYCLE_PEAK) / (1 - ONE_CYCLE_PEAK)
    return low + (high - low) * 0.5 * (1 + math.cos(math.pi * along))


class TrainReport(Value):
    """What a run did. ``losses`` are the means over each epoch; ``resumed_at`` is the step that a kill left it at.

    ``seconds`` is the time spent, over all attempts.
    """

    steps: int
    epochs: int
    losses: tuple[float, ...]
    seconds: float
    resumed_at: int | None = None
