"""One number per class that a student never saw, added where the model ends. Imports torch within functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgebuild.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import nn

    from edgebuild.techniques.workspace import Workspace

BATCH = 64
#: The share of samples for which logits and answers must name one class.
ALIKE = 0.99


def set_biases(work: Workspace, priors: Mapping[int, float]) -> None:
    """Add to the last layer's bias what makes each class be answered as often as ``priors`` say.

    It is chosen on the calibration data, whose labels nobody looks at, from what the layer gives: a softmax may follow.
    Raises ``ModelError`` where the model's answer isn't the class for which a dense layer with a bias gives
    most; the model is as before then.
    """
    import torch

    from edgebuild.training.priors import bias_for_priors

    with torch.no_grad():
        answers = work.run(work.module, work.examples)[0]
        if answers.dim() != 2:
            raise _refusal(f"its output has shape {list(answers.shape)}")
        name, layer = _last_dense(work, answers.shape[1])
        logits, answers = _given(work, layer)
        biases = bias_for_priors(logits.numpy(), priors) if logits.shape == answers.shape else {}
        before = layer.bias.clone()
        for label, number in biases.items():
            layer.bias[label] += number
        if not (biases and _decides(logits, answers) and _decides(*_given(work, layer))):
            layer.bias.copy_(before)
            raise _refusal(f"{name!r}, its last dense layer, isn't where its output comes from")
    text = ", ".join(f"{number:+.3f} for class {label}" for label, number in biases.items())
    work.say(name, "its bias", text)


def _given(work: Workspace, layer: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what a layer and the model give for the calibration data."""
    import torch

    logits: list[torch.Tensor] = []
    hook = layer.register_forward_hook(lambda _, __, given: logits.append(given.clone()))
    try:
        data = work.batches(work.dataset(train=False), BATCH)
        answers = [work.run(work.module, inputs)[0] for inputs, _ in data]
    finally:
        hook.remove()
    return torch.cat(logits), torch.cat(answers)


def _decides(logits: torch.Tensor, answers: torch.Tensor) -> bool:
    """Whether a model answers the class with the highest logit, but for rounding."""
    return logits.shape == answers.shape and float((logits.argmax(1) == answers.argmax(1)).float().mean()) >= ALIKE


def _last_dense(work: Workspace, classes: int) -> tuple[str, nn.Linear]:
    from torch import nn

    from edgebuild.models.interpreter import layers

    found = [(name, layer) for name, layer in layers(work.module) if isinstance(layer, nn.Linear)]
    fitting = [(name, layer) for name, layer in found if layer.out_features == classes and layer.bias is not None]
    if not fitting:
        raise _refusal(f"it has no dense layer with {classes} biases")
    return fitting[-1]


def _refusal(why: str) -> ModelError:
    return ModelError(
        f"`priors` are put into the bias of the dense layer that a model ends in, and can't be here: {why}.",
        hint="Leave `priors` out, and add edgebuild.training.priors.bias_for_priors to the outputs yourself.",
    )
