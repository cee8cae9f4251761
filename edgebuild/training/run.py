"""A training run's state, and what one step does to it."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from edgebuild.core.values import digest_json
from edgebuild.errors import DataError, EdgebuildError, ModelError
from edgebuild.models.torch_models import failing_layer
from edgebuild.training import checkpoints
from edgebuild.training.batches import Batch, Feed, call_on
from edgebuild.training.diverging import find_cause, state_is_finite
from edgebuild.training.plan import Schedule, TrainingPlan, TrainReport
from edgebuild.training.randomness import mixed, seed_everything

if TYPE_CHECKING:
    from pathlib import Path

    from edgebuild.training.hooks import AfterStep

Loss: TypeAlias = Callable[[Any, Batch], torch.Tensor]
MakeOptimiser: TypeAlias = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]

#: The checkpoint's file name in the scratch folder.
CHECKPOINT = "training.safetensors"
#: A checkpoint is written at most this often, and so seldom that writing takes under about 2 % of the time.
CHECKPOINT_S = 20.0
CHECKPOINT_TIMES = 50.0
#: Least interval between progress updates, in seconds.
TELL_S = 0.2


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """What ``train`` was given in addition to the module."""

    plan: TrainingPlan
    feed: Feed
    loss: Loss
    seed: int
    scratch: Path
    optimiser: MakeOptimiser | None
    schedule: Schedule
    after_step: tuple[AfterStep, ...]


class Run:
    """Module, optimiser and average, and how far they have come: ``step`` in all, ``number`` in ``epoch``."""

    def __init__(self, fabric: Any, module: nn.Module, needs: TrainingJob, total: int) -> None:
        self.fabric, self.module, self.needs, self.total = fabric, module, needs, total
        self.parts = nn.ModuleDict({"module": module})
        if isinstance(needs.loss, nn.Module):
            self.parts["loss"] = needs.loss.to(fabric.device)
        self.trained = [p for p in self.parts.parameters() if p.requires_grad]
        if not any(p.requires_grad for p in module.parameters()):
            raise ModelError("The model has no parameter to train: all are frozen.", hint="Set requires_grad on some.")
        wrapped = fabric.setup_module(module)
        self.optimiser = _make_optimiser(needs, self.trained)
        # In one process and full precision Fabric hands all through, and small nets feel what its wrappers cost.
        self.direct = fabric.world_size == 1 and needs.plan.precision == "32-true"
        self.forward = module if self.direct else wrapped
        self.stepper = self.optimiser if self.direct else fabric.setup_optimizers(self.optimiser)
        self.rates = [float(group["lr"]) for group in self.optimiser.param_groups]
        decay = needs.plan.ema
        self.average = {k: v.detach().clone() for k, v in module.state_dict().items()} if decay is not None else {}
        # A batch that makes the loss infinite has already gone into these when that is noticed.
        self.statistics = [b for m in module.modules() if isinstance(m, _NormBase) for b in m.buffers(recurse=False)]
        self.statistics_before = [buffer.clone() for buffer in self.statistics]
        self.step = self.epoch = self.number = 0
        self.losses: list[float] = []
        self.sum = 0.0
        self.resumed_at: int | None = None
        self.seconds = 0.0
        self._started = self._told = time.monotonic()
        self._untold = 0
        self._save_at = self._started + CHECKPOINT_S
        train_mode(self.parts)

    @property
    def path(self) -> Path:
        """The checkpoint's file."""
        return self.needs.scratch / CHECKPOINT

    def learn(self, batch: Batch) -> None:
        """Make one step on one batch."""
        fabric, plan = self.fabric, self.needs.plan
        done = self.step / self.total
        batch = replace(self._own(batch), done=done)
        seed_everything(self._seed(), fabric.device)
        factor = self.needs.schedule(done)
        for group, rate in zip(self.optimiser.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        if self.statistics:
            torch._foreach_copy_(self.statistics_before, self.statistics)
        loss = self._loss(batch)
        value = float(self._mean(loss))
        if not math.isfinite(value):
            self._diverged(batch, f"The loss became {value}")
        self.optimiser.zero_grad(set_to_none=True)
        if self.direct:
            torch.autograd.backward(loss)
        else:
            fabric.backward(loss)
        self._share_loss_gradients()
        if plan.clip is not None:
            fabric.strategy.precision.unscale_gradients(self.stepper)
            norm = nn.utils.clip_grad_norm_(self.trained, plan.clip)
            if plan.precision != "16-mixed" and not bool(torch.isfinite(norm)):
                self._diverged(batch, "The gradients became NaN or infinite")
        self.stepper.step()
        self.step += 1
        self.number += 1
        self.sum += value
        if self.needs.after_step or self.average:
            self._after_step()

    def _own(self, batch: Batch) -> Batch:
        """Return this process's share of a batch, on its device."""
        rank, world = self.fabric.global_rank, self.fabric.world_size
        if world > 1:
            if len(batch) < world:
                raise DataError(
                    f"Batch {self.number + 1} of epoch {self.epoch + 1} has {len(batch)} sample for {world} processes.",
                    hint="Use larger batches or fewer processes.",
                )
            batch = batch.map(lambda tensor: tensor[rank::world])
        device = self.fabric.device
        return batch if device.type == "cpu" else batch.map(lambda tensor: tensor.to(device))

    def _loss(self, batch: Batch) -> torch.Tensor:
        where = f"epoch {self.epoch + 1}, batch {self.number + 1}"
        try:
            outputs = call_on(self.forward, batch.inputs)
        except Exception as error:
            layer = failing_layer(error, self.module)
            if len(batch) == 1 and "more than 1 value per channel" in str(error):
                raise DataError(
                    f"The batch in {where} has one sample, and {layer} normalises over the batch.",
                    hint="Drop the last incomplete batch, or choose a batch size that leaves no single sample over.",
                ) from error
            raise ModelError(
                f"The model failed while training ({where}) in {layer}: {type(error).__name__}: {_first_line(error)}",
                hint="Check that the loader's inputs are what forward() takes.",
            ) from error
        try:
            loss = self.needs.loss(outputs, batch)
        except EdgebuildError:
            raise
        except Exception as error:
            raise ModelError(
                f"The loss failed ({where}): {type(error).__name__}: {_first_line(error)}",
                hint="Check that it fits the model's outputs and the loader's targets.",
            ) from error
        if not isinstance(loss, torch.Tensor) or loss.numel() != 1 or not loss.requires_grad:
            got = f"a tensor of shape {list(loss.shape)}" if isinstance(loss, torch.Tensor) else type(loss).__name__
            got = "a number that depends on no trained weight" if getattr(loss, "shape", None) == () else got
            raise ModelError(f"The loss returned {got} ({where}).", hint="It must return one differentiable number.")
        # A view would be one more node to go back through.
        return loss if loss.ndim == 0 else loss.reshape(())

    def _mean(self, loss: torch.Tensor) -> torch.Tensor:
        value = loss.detach()
        return self.fabric.all_reduce(value) if self.fabric.world_size > 1 else value

    def any_process(self, flag: bool) -> bool:
        """Whether ``flag`` is set in any process."""
        if self.fabric.world_size == 1:
            return flag
        return bool(self.fabric.all_reduce(torch.tensor(float(flag), device=self.fabric.device), reduce_op="sum") > 0)

    def _share_loss_gradients(self) -> None:
        """Average the gradients of the loss's own parameters over the processes; the module's are Fabric's job."""
        if self.fabric.world_size == 1 or "loss" not in self.parts:
            return
        for parameter in self.parts["loss"].parameters():
            if parameter.grad is not None:
                parameter.grad = self.fabric.all_reduce(parameter.grad)

    @torch.no_grad()
    def _after_step(self) -> None:
        done = self.step / self.total
        for hook in self.needs.after_step:
            hook(self.module, done)
        decay = self.needs.plan.ema
        if decay is None:
            return
        # The average begins as a plain mean, so that the random start doesn't linger in it.
        decay = min(decay, (1 + self.step) / (10 + self.step))
        for name, value in self.module.state_dict().items():
            if value.is_floating_point():
                self.average[name].lerp_(value, 1 - decay)
            else:
                self.average[name].copy_(value)

    def end_epoch(self) -> None:
        """Count the epoch."""
        self.losses.append(self.sum / self.number)
        self.sum = 0.0
        self.epoch, self.number = self.epoch + 1, 0

    def tell(self, advance: Callable[[float, str], None]) -> None:
        """Tell progress, now and then."""
        self._untold += 1
        now = time.monotonic()
        if now - self._told >= TELL_S or self.step == self.total:
            of = "" if self.needs.plan.epochs is None else f"/{self.needs.plan.epochs}"
            advance(float(self._untold), f"epoch {self.epoch + 1}{of}, loss {self.sum / self.number:.4g}")
            self._told, self._untold = now, 0

    def _diverged(self, batch: Batch, what: str) -> NoReturn:
        """Find where it happened, put the last good state back, and raise."""
        where = f"epoch {self.epoch + 1}, batch {self.number + 1}"
        if self.statistics:
            torch._foreach_copy_(self.statistics, self.statistics_before)
        before = copy.deepcopy(self.module.state_dict())
        seed_everything(self._seed(), self.fabric.device)
        cause = find_cause(self.module, batch)
        self.module.load_state_dict(before)
        if state_is_finite(self.module):
            self.save()
        elif (good := self._saved()) is not None:
            self._restore(good)
        raise ModelError(
            f"{what} in {where}: {cause}. The state after step {self.step} is kept.",
            hint="Lower the learning rate, clip the gradients (clip = 1.0), or look at that batch.",
        )

    def _seed(self) -> int:
        return mixed(self.needs.seed, self.epoch, self.number, self.fabric.global_rank, "model")

    def save_now_and_then(self) -> None:
        """Write a checkpoint if it is time, and if there is something good to keep."""
        if self.any_process(time.monotonic() >= self._save_at) and state_is_finite(self.module):
            self.save()

    def save(self) -> None:
        """Write the checkpoint."""
        if self.fabric.global_rank == 0:
            began = time.monotonic()
            checkpoints.save(self._state(), self.path)
            now = time.monotonic()
            self._save_at = now + max(CHECKPOINT_S, CHECKPOINT_TIMES * (now - began))

    def resume(self) -> None:
        """Go on from the checkpoint of a run with the same plan, seed and shapes; write a first one otherwise."""
        saved = self._saved()
        if saved is None:
            self.save()
            return
        self._restore(saved)
        self.resumed_at = self.step or None

    def finish(self) -> TrainReport:
        """Keep the end state and return what was done; the module gets the averaged weights where there are any."""
        self.save()
        if self.average:
            self.module.load_state_dict(self.average)
        return TrainReport(
            steps=self.step,
            epochs=self.epoch,
            losses=tuple(self.losses),
            seconds=self._seconds(),
            resumed_at=self.resumed_at,
        )

    def _seconds(self) -> float:
        return self.seconds + time.monotonic() - self._started

    def _identity(self) -> str:
        shapes = {name: list(value.shape) for name, value in self.parts.state_dict().items()}
        plan = self.needs.plan.model_dump(mode="json")
        return digest_json([plan, self.needs.seed, self.total, type(self.optimiser).__name__, shapes])

    def _saved(self) -> dict[str, Any] | None:
        state = checkpoints.load(self.path)
        return state if state is not None and state["identity"] == self._identity() else None

    def _state(self) -> dict[str, Any]:
        return {
            "identity": self._identity(),
            "parts": dict(self.parts.state_dict()),
            "average": self.average,
            "optimiser": self.optimiser.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),
            "position": [self.step, self.epoch, self.number],
            "losses": self.losses,
            "sum": self.sum,
            "seconds": self._seconds(),
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self.parts.load_state_dict(state["parts"])
        self.average = {name: value.to(self.fabric.device) for name, value in state["average"].items()}
        self.optimiser.load_state_dict(state["optimiser"])
        self.fabric.strategy.precision.load_state_dict(state["precision"])
        self.step, self.epoch, self.number = state["position"]
        self.losses, self.sum, self.seconds = state["losses"], state["sum"], state["seconds"]


def _make_optimiser(needs: TrainingJob, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    plan = needs.plan
    if needs.optimiser is not None:
        made = needs.optimiser(parameters)
        if not isinstance(made, torch.optim.Optimizer):
            raise ModelError(f"The optimiser callable returned a {type(made).__name__}, not a torch.optim.Optimizer.")
        return made
    # A CPU's weights are stepped one by one from Python unless this is said: the same bits, more time in small nets.
    common: dict[str, Any] = {"lr": plan.learning_rate, "weight_decay": plan.weight_decay, "foreach": True}
    if plan.optimiser == "adamw":
        return torch.optim.AdamW(parameters, **common)
    return torch.optim.SGD(parameters, momentum=plan.momentum, nesterov=plan.momentum > 0, **common)


def train_mode(module: nn.Module) -> None:
    """Put ``module`` into training mode, but for parts whose parameters are all frozen: their statistics stay, too."""
    module.train()
    for part in module.modules():
        parameters = list(part.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            part.eval()


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0][:300] if str(error) else ""
