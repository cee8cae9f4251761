"""Teacher and student side by side: what hints, blockwise matching and joint training run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from edgebuild.errors import ModelError
from edgebuild.models.torch_models import flatten
from edgebuild.training.batches import Batch, call_on

if TYPE_CHECKING:
    from collections.abc import Sequence


class Tap:
    """Keeps what a layer last gave (and took), by name; ``close`` takes the tap off again."""

    def __init__(self, module: nn.Module, layer: str) -> None:
        self.layer = layer
        self.given: torch.Tensor | None = None
        self.taken: Any = None
        self._handle = find_layer(module, layer).register_forward_hook(self._keep)

    def _keep(self, layer: nn.Module, inputs: Any, output: Any) -> None:
        del layer
        self.taken, self.given = inputs, flatten(output)[0]

    def value(self) -> torch.Tensor:
        """Return the last result; raises ``ModelError`` where the layer hasn't run."""
        if self.given is None:
            raise ModelError(f"The layer {self.layer!r} didn't run in forward(), so it can't be matched.")
        return self.given

    def close(self) -> None:
        """Stop keeping."""
        self._handle.remove()
        self.given = self.taken = None


def find_layer(module: nn.Module, name: str) -> nn.Module:
    """Return a submodule by its dotted name; raises ``ModelError`` naming what there is."""
    layers = dict(module.named_modules())
    if name not in layers:
        near = ", ".join(sorted(layer for layer in layers if layer)[:8])
        raise ModelError(f"The model has no layer {name!r}.", hint=f"Its layers are: {near} …")
    layer: nn.Module = layers[name]
    return layer


class Hint(nn.Module):
    """L2 between the teacher's hint layer and the student's guided layer through a 1x1 regressor.

    Romero 2015, "FitNets", equation 3. The regressor is trained along and thrown away. Maps of another size are
    averaged down to the smaller one. ``example`` is a batch to find the widths with. Call ``close`` when done.
    """

    def __init__(
        self, student: nn.Module, student_layer: str, teacher: nn.Module, teacher_layer: str, example: Batch
    ) -> None:
        super().__init__()
        self._teacher = [teacher.eval()]  # in a list, so that its weights aren't this loss's
        self._taps = Tap(student, student_layer), Tap(teacher, teacher_layer)
        was_training = student.training
        student.eval()
        with torch.no_grad():
            call_on(student, example.inputs)
            call_on(teacher, example.inputs)
        student.train(was_training)
        guided, hint = (tap.value() for tap in self._taps)
        if guided.ndim != hint.ndim or guided.ndim not in (2, 3, 4):
            raise ModelError(
                f"The layers {student_layer!r} ({list(guided.shape)}) and {teacher_layer!r} ({list(hint.shape)}) "
                "can't be matched: they need two to four axes, the same number each."
            )
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            self.regressor: nn.Module = (
                nn.Conv2d(guided.shape[1], hint.shape[1], 1)
                if guided.ndim == 4
                else nn.Linear(guided.shape[-1], hint.shape[-1])
            )

    def forward(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """See ``train``."""
        del outputs
        guided = self._taps[0].value()
        self._teacher[0].to(guided.device)
        with torch.no_grad():
            call_on(self._teacher[0], batch.inputs)
        hint = self._taps[1].value()
        if guided.ndim == 4 and guided.shape[2:] != hint.shape[2:]:
            size = min(guided.shape[2], hint.shape[2]), min(guided.shape[3], hint.shape[3])
            guided, hint = (functional.adaptive_avg_pool2d(x, size) for x in (guided, hint))
        return functional.mse_loss(self.regressor(guided), hint)

    def close(self) -> None:
        """Take the taps off both nets."""
        for tap in self._taps:
            tap.close()


class Blockwise(nn.Module):
    """Runs the teacher, and each of the student's blocks on what the teacher's own block was given.

    ``pairs``: names of (student's block, teacher's block). The result is for ``losses.matched_pairs``. The student's
    blocks are the very ones of the student, so training this trains it, block by block, whatever the other blocks
    still do wrong (Li 2020, "Few sample knowledge distillation"; the idea behind swapping layers one by one).
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, pairs: Sequence[tuple[str, str]]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(find_layer(student, name) for name, _ in pairs)
        self._teacher = [teacher.eval()]
        self._taps = [Tap(teacher, name) for _, name in pairs]

    def forward(self, *inputs: Any, **named: Any) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
        """Return (student's, teacher's) features per block."""
        with torch.no_grad():
            self._teacher[0].to(next(iter([*inputs, *named.values()])).device)
            self._teacher[0](*inputs, **named)
        pairs = zip(self.blocks, self._taps, strict=True)
        return tuple((flatten(block(*tap.taken))[0], tap.value()) for block, tap in pairs)

    def close(self) -> None:
        """Take the taps off the teacher."""
        for tap in self._taps:
            tap.close()


class Pair(nn.Module):
    """Runs teacher and apprentice on the same inputs; freeze the teacher's parameters for schemes B and C."""

    def __init__(self, teacher: nn.Module, apprentice: nn.Module) -> None:
        super().__init__()
        self.teacher, self.apprentice = teacher, apprentice

    def forward(self, *inputs: Any, **named: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Return both logits."""
        return flatten(self.teacher(*inputs, **named))[0], flatten(self.apprentice(*inputs, **named))[0]


def freeze(module: nn.Module) -> nn.Module:
    """Return ``module`` with no parameter that learns; the loop then keeps it in eval mode, too."""
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    return module
