"""What a student is asked for: losses over a module's outputs and a batch, each with its source.

Functions take logits or maps with axis 0 the samples (classes on axis 1) and return a scalar. Classes make of them what
``train`` takes: ``loss(outputs, batch)``. A target of -1 (NaN for real numbers) is unknown: it has no share in a loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.nn import functional

from edgebuild.core.classes import is_class_row
from edgebuild.errors import ModelError, UsageError
from edgebuild.models.torch_models import flatten
from edgebuild.training.batches import Batch

#: Gives the teacher's outputs on a batch, in the order of its outputs, without gradients.
Teacher: TypeAlias = Callable[[Batch], tuple[torch.Tensor, ...]]
#: Compares a student's output with the teacher's.
Match: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
#: A weight, or a function of the share of the run that is done.
Weight: TypeAlias = "float | Callable[[float], float]"

UNKNOWN = -1
#: How far probabilities may add up to another number than 1, by rounding.
SUM_TOLERANCE = 1e-3


# -- one output against the teacher's


def soft_targets(student: torch.Tensor, teacher: torch.Tensor, temperature: float = 4.0) -> torch.Tensor:
    """Return T² · KL(softmax(teacher/T) ‖ softmax(student/T)), the mean over samples (and pixels).

    Hinton, Vinyals, Dean 2015, "Distilling the knowledge in a neural network", section 2: T² keeps the gradients' size.
    """
    same_shape(student, teacher)
    if student.ndim < 2 or student.shape[1] < 2:
        raise ModelError(
            f"An output of shape {list(student.shape)} has no classes on axis 1 to compare softly.",
            hint="Compare it by l2, l1 or binary-kl.",
        )
    expected = functional.log_softmax(as_logits(teacher) / temperature, dim=1)
    got = functional.log_softmax(as_logits(student) / temperature, dim=1)
    divergence = (expected.exp() * (expected - got)).sum(dim=1)
    return temperature**2 * divergence.mean()


def as_logits(outputs: torch.Tensor) -> torch.Tensor:
    """Return probabilities over axis 1, as a model that ends in a softmax gives them, as logits; others as they are.

    Their logarithms are the logits but for a constant, which no softmax over them sees.
    """
    values = outputs.detach()
    if values.ndim < 2 or values.shape[1] < 2 or bool((values < 0).any()):
        return outputs
    if bool(((values.sum(dim=1) - 1.0).abs() > SUM_TOLERANCE).any()):
        return outputs
    return outputs.clamp_min(torch.finfo(outputs.dtype).tiny).log()


def soft_steps(student: torch.Tensor, teacher: torch.Tensor, temperature: float = 4.0) -> torch.Tensor:
    """Return ``soft_targets`` of outputs (samples, steps, classes): recognisers of text or speech, read by CTC."""
    return soft_targets(student.movedim(-1, 1), teacher.movedim(-1, 1), temperature)


def are_steps(outputs: torch.Tensor) -> bool:
    """Whether outputs are probabilities of classes at each of several steps, (samples, steps, classes)."""
    if outputs.ndim != 3 or outputs.shape[-1] < 2 or not outputs.is_floating_point():
        return False
    return bool((outputs >= 0).all()) and bool(((outputs.sum(dim=-1) - 1.0).abs() <= SUM_TOLERANCE).all())


def l2(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Return the mean squared difference: regression, boxes, logits (Ba and Caruana 2014), features."""
    same_shape(student, teacher)
    return functional.mse_loss(student, teacher)


def l1(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Return the mean absolute difference: regression and boxes with outliers."""
    same_shape(student, teacher)
    return functional.l1_loss(student, teacher)


def binary_kl(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Return the KL of independent logits (objectness, multi-label, one-channel masks), the mean over all of them."""
    same_shape(student, teacher)
    probability = torch.sigmoid(teacher)
    entropy = functional.binary_cross_entropy_with_logits(teacher, probability)
    return functional.binary_cross_entropy_with_logits(student, probability) - entropy


#: What a user can choose per output; "kl" is softened with the temperature, over axis 1, per pixel where there are any.
MATCHES: Mapping[str, Match] = {"kl": soft_targets, "l2": l2, "l1": l1, "binary-kl": binary_kl}


class StandardisedL2:
    """L2 on logits standardised with the teacher's mean and deviation over the training data, per output.

    Ba and Caruana 2014, "Do deep nets really need to be deep?", section 2.2: without it, classes whose logits vary much
    decide the loss. An output that never varies is compared as it is.
    """

    def __init__(self, deviation: torch.Tensor) -> None:
        self.deviation = torch.where(deviation > 0, deviation, torch.ones_like(deviation))

    def __call__(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Return the loss; the means cancel in the difference."""
        same_shape(student, teacher)
        return (((student - teacher) / self.deviation.to(student.device)) ** 2).mean()


def same_shape(student: torch.Tensor, teacher: torch.Tensor) -> None:
    """Raise ``ModelError`` where the outputs can't be compared."""
    if student.shape != teacher.shape:
        raise ModelError(
            f"The teacher's output has shape {list(teacher.shape)}, the student's {list(student.shape)}.",
            hint="Teacher and student must give the same outputs in the same order; choose another teacher or output.",
        )


# -- what the labels say


def cross_entropy(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy over the samples (or pixels) whose class is known; 0 where none is."""
    classes = target.long()
    if is_class_row(logits.shape) and classes.numel() == len(classes):
        logits, classes = logits.flatten(1), classes.flatten()
    loss = functional.cross_entropy(as_logits(logits), classes, ignore_index=UNKNOWN)
    # The mean over nothing is NaN. Counting the known ones of every batch would be felt by small nets.
    if math.isnan(float(loss.detach())) and bool((classes == UNKNOWN).all()):
        return logits.sum() * 0.0
    return loss


def known_l2(outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the mean squared error over the targets that aren't NaN; 0 where all are."""
    target = target.reshape(outputs.shape).to(outputs.dtype)
    known = ~torch.isnan(target)
    squares = (outputs - torch.where(known, target, outputs.detach())) ** 2
    return (squares * known).sum() / known.sum().clamp(min=1)


def fits(shape: Sequence[int], target: Sequence[int], *, whole: bool) -> bool:
    """Whether ``cross_entropy`` reads ``whole`` targets of that shape, ``known_l2`` others, beside outputs of a shape.

    Class numbers, one for each place of the output, or numbers, as many as the output has. What a metric of texts,
    boxes or rows of symbols reads is neither.
    """
    own = tuple(target[1:])
    if not whole:
        return math.prod(own) == math.prod(shape[1:])
    if is_class_row(shape):
        return math.prod(own) == 1
    return len(shape) > 2 and shape[1] >= 2 and own == tuple(shape[2:])


class Supervised:
    """A loss of an output and the target, such as the user's own: ``function(output, target)``.

    ``output`` is the number of the output; None hands the module's whole result over.
    """

    def __init__(self, function: Callable[[Any, Any], torch.Tensor] = cross_entropy, output: int | None = 0) -> None:
        self.function, self.output = function, output

    def __call__(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """See ``train``."""
        if batch.target is None:
            raise UsageError(
                "The loss needs targets, and the training data has none.",
                hint="Label the data, or distil with hard_weight = 0.",
            )
        return self.function(outputs if self.output is None else flatten(outputs)[self.output], batch.target)


class Distil(nn.Module):
    """The teacher's outputs, and a share of the labels: Σ match(student, teacher) + hard_weight · hard(outputs, batch).

    ``matches``: one per output, None for one that isn't compared; a single one serves all outputs. With
    ``hard_weight`` 0 no label is looked at; unknown labels of a partly labelled set have no share (see above).
    """

    def __init__(
        self,
        teacher: Teacher,
        matches: Match | Sequence[Match | None] = soft_targets,
        *,
        hard: Callable[[Any, Batch], torch.Tensor] | None = None,
        hard_weight: Weight = 0.0,
    ) -> None:
        super().__init__()
        self.teacher, self.matches = teacher, matches
        self.hard, self.hard_weight = hard or Supervised(), hard_weight

    def forward(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """See ``train``."""
        student, expected = flatten(outputs), self.teacher(batch)
        if len(student) != len(expected):
            raise ModelError(
                f"The teacher has {len(expected)} output(s), the student {len(student)}.",
                hint="Teacher and student must give the same outputs in the same order.",
            )
        matches = self.matches if isinstance(self.matches, Sequence) else [self.matches] * len(student)
        if len(matches) != len(student):
            raise UsageError(f"{len(matches)} losses are chosen for {len(student)} output(s).")
        parts = [m(s, t) for m, s, t in zip(matches, student, expected, strict=True) if m is not None]
        weight = weigh(self.hard_weight, batch)
        if weight:
            parts.append(weight * self.hard(outputs, batch))
        if not parts:
            raise UsageError("The distillation compares no output and looks at no label.")
        return torch.stack(parts).sum()


class Sum(nn.Module):
    """A weighted sum of losses; a weight may change along the run."""

    def __init__(self, parts: Sequence[tuple[Weight, Callable[[Any, Batch], torch.Tensor]]]) -> None:
        super().__init__()
        self.parts = list(parts)
        self.modules_of = nn.ModuleList(part for _, part in parts if isinstance(part, nn.Module))

    def forward(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """See ``train``."""
        return torch.stack([weigh(weight, batch) * part(outputs, batch) for weight, part in self.parts]).sum()


class Apprentice:
    """L = α·H(y, p_T) + β·H(y, p_A) + γ·H(z_T, p_A) for a teacher T and its low-precision apprentice A.

    Mishra and Marr 2018, "Apprentice", equation 1 with α = 1, β = γ = 0.5. The module's result is (teacher's logits,
    apprentice's logits), see ``pairs.Pair``. Scheme A trains both from the start; B has a trained teacher, which is
    frozen, so that its term is a constant and falls away; C is B with an apprentice that starts from trained weights.
    The teacher learns from its own labels only: no gradient of the third term reaches it.
    """

    def __init__(self, *, alpha: float = 1.0, beta: float = 0.5, gamma: float = 0.5) -> None:
        self.alpha, self.beta, self.gamma = alpha, beta, gamma

    def __call__(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """See ``train``."""
        teacher, apprentice = flatten(outputs)
        same_shape(apprentice, teacher)
        soft = functional.cross_entropy(as_logits(apprentice), functional.softmax(as_logits(teacher.detach()), dim=1))
        loss = self.beta * cross_entropy(apprentice, batch.target) + self.gamma * soft
        return loss + self.alpha * cross_entropy(teacher, batch.target) if teacher.requires_grad else loss


def matched_pairs(outputs: Any, batch: Batch) -> torch.Tensor:
    """Return the mean over blocks of L2 between (student's, teacher's) features, each over the teacher's power.

    For ``pairs.Blockwise``. Relative, so that a block with large activations doesn't decide alone.
    """
    del batch
    parts = []
    for student, teacher in outputs:
        same_shape(student, teacher)
        parts.append(functional.mse_loss(student, teacher) / teacher.pow(2).mean().clamp(min=1e-12))
    return torch.stack(parts).mean()


def weigh(weight: Weight, batch: Batch) -> float:
    """Return a weight at the batch's place in the run."""
    return weight(batch.done) if callable(weight) else weight


def linear(start: float, end: float) -> Callable[[float], float]:
    """Return a weight that goes from ``start`` to ``end`` along the run (FitNets' annealed teacher term)."""
    return lambda done: start + (end - start) * done
