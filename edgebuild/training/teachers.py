"""Who a student learns from: a net, the average of several, or a generalist corrected by specialists."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from edgebuild.errors import ModelError, UsageError
from edgebuild.models.torch_models import flatten
from edgebuild.training.batches import Batch, call_on
from edgebuild.training.losses import Teacher, same_shape

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Rounds of the fixed point below; each lessens the distance to the best distribution.
SPECIALIST_ROUNDS = 50


class LiveTeacher:
    """A net that is asked for every batch, in eval mode, without gradients, on the batch's device."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module.eval()

    def __call__(self, batch: Batch) -> tuple[torch.Tensor, ...]:
        """See ``Teacher``."""
        device = _device(batch.inputs)
        if device is not None:
            self.module.to(device)
        try:
            with torch.no_grad():
                return tuple(flatten(call_on(self.module, batch.inputs)))
        except (RuntimeError, TypeError, ValueError) as error:
            raise ModelError(
                f"The teacher failed on a training batch: {type(error).__name__}: {str(error).splitlines()[0][:300]}",
                hint="The teacher must take the same inputs as the student.",
            ) from error


class Ensemble:
    """The mean of several teachers' outputs (logits: Ba and Caruana 2014; Hinton 2015)."""

    def __init__(self, teachers: Sequence[Teacher]) -> None:
        if not teachers:
            raise UsageError("An ensemble needs at least one teacher.")
        self.teachers = tuple(teachers)

    def __call__(self, batch: Batch) -> tuple[torch.Tensor, ...]:
        """See ``Teacher``."""
        results = [teacher(batch) for teacher in self.teachers]
        for result in results[1:]:
            if len(result) != len(results[0]):
                raise ModelError("The teachers of an ensemble have different numbers of outputs.")
            for one, other in zip(result, results[0], strict=True):
                same_shape(one, other)
        return tuple(torch.stack(parts).mean(0) for parts in zip(*results, strict=True))


class Specialists:
    """A generalist, corrected by specialists on the samples that belong to them.

    Hinton 2015, section 5. A specialist knows the ``classes`` given with it and a last "dustbin" output for all others.
    It is heard where the generalist's likeliest class is one of its own. The result are log-probabilities, which serve
    as logits; one output each.
    """

    def __init__(self, generalist: Teacher, specialists: Sequence[tuple[Teacher, Sequence[int]]]) -> None:
        self.generalist = generalist
        self.specialists = [(teacher, tuple(classes)) for teacher, classes in specialists]

    def __call__(self, batch: Batch) -> tuple[torch.Tensor, ...]:
        """See ``Teacher``."""
        logits = self.generalist(batch)[0]
        likeliest = logits.argmax(1)
        heard: list[tuple[torch.Tensor, tuple[int, ...], torch.Tensor]] = []
        for teacher, classes in self.specialists:
            if not all(0 <= each < logits.shape[1] for each in classes):
                raise ModelError(
                    f"A specialist knows the classes {list(classes)}, and the model has {logits.shape[1]}.",
                    hint="Classes are counted from 0.",
                )
            own = torch.isin(likeliest, torch.tensor(classes, device=logits.device))
            answer = teacher(batch)[0]
            if answer.shape[1] != len(classes) + 1:
                raise ModelError(
                    f"A specialist for {len(classes)} classes has {answer.shape[1]} outputs.",
                    hint="It needs one for each of its classes and a last one for all others.",
                )
            heard.append((answer, classes, own))
        return (combine(logits, heard),)


def combine(
    generalist: torch.Tensor, specialists: Sequence[tuple[torch.Tensor, Sequence[int], torch.Tensor]]
) -> torch.Tensor:
    """Return log q that minimises KL(p_g ‖ q) + Σ KL(p_m ‖ q seen by m) per sample (Hinton 2015, equation 5).

    ``specialists``: logits (own classes, then the dustbin), class numbers, and the samples (bool) they are heard on.
    Expectation-maximisation: a dustbin's probability is shared among the classes it stands for as q shares them; the
    objective is convex in q, and every round lessens it.
    """
    certain = functional.softmax(generalist, dim=1)
    dustbins: list[tuple[torch.Tensor, torch.Tensor]] = []
    for logits, classes, heard in specialists:
        p = functional.softmax(logits, dim=1) * heard[:, None]
        certain = certain.index_add(1, torch.tensor(list(classes), device=p.device), p[:, :-1])
        others = torch.ones(generalist.shape[1], dtype=torch.bool, device=p.device)
        others[list(classes)] = False
        dustbins.append((p[:, -1:], others))
    q = certain / certain.sum(1, keepdim=True)
    for _ in range(SPECIALIST_ROUNDS if dustbins else 0):
        mass = certain
        for share, others in dustbins:
            outside = q * others
            mass = mass + share * outside / outside.sum(1, keepdim=True).clamp(min=1e-30)
        q = mass / mass.sum(1, keepdim=True)
    return q.clamp(min=1e-30).log()


def specialist_target(target: torch.Tensor, classes: Sequence[int]) -> torch.Tensor:
    """Return the targets that a specialist for ``classes`` learns: its own numbering, all others the dustbin."""
    result = torch.full_like(target, len(classes))
    for number, label in enumerate(classes):
        result[target == label] = number
    return result


def _device(inputs: Any) -> torch.device | None:
    for tensor in flatten(inputs):
        if isinstance(tensor, torch.Tensor):
            return tensor.device
    return None
