"""One number per class that a student never saw, added where the model ends. Imports torch within functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgebuild.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from edgebuild.techniques.workspace import Workspace

BATCH = 64


def set_biases(work: Workspace, priors: Mapping[int, float]) -> None:
    """Add to the last layer's bias what makes each class be answered as often as ``priors`` say.

    It is chosen on the calibration data, whose labels nobody looks at. Raises ``ModelError`` where the model's output
    isn't that of a dense layer with a bias; the model is as before then.
    """
    import torch

    from edgebuild.training.priors import bias_for_priors

    with torch.no_grad():
        data = work.batches(work.dataset(train=False), BATCH)
        logits = torch.cat([work.run(work.module, inputs)[0] for inputs, _ in data])
        if logits.dim() != 2:
            raise _refusal(f"its output has shape {list(logits.shape)}")
        biases = bias_for_priors(logits.numpy(), priors)
        name, bias = _last_bias(work, logits.shape[1])
        wanted = work.run(work.module, work.examples)[0].clone()
        before = bias.clone()
        for label, number in biases.items():
            bias[label] += number
            wanted[:, label] += number
        if not torch.allclose(work.run(work.module, work.examples)[0], wanted, rtol=1e-4, atol=1e-4):
            bias.copy_(before)
            raise _refusal(f"{name!r}, its last dense layer, isn't where its output comes from")
    text = ", ".join(f"{number:+.3f} for class {label}" for label, number in biases.items())
    work.say(name, "its bias", text)


def _last_bias(work: Workspace, classes: int) -> tuple[str, nn.Parameter]:
    from torch import nn

    from edgebuild.models.interpreter import layers

    found = [(name, layer) for name, layer in layers(work.module) if isinstance(layer, nn.Linear)]
    fitting = [(name, layer) for name, layer in found if layer.out_features == classes and layer.bias is not None]
    if not fitting:
        raise _refusal(f"it has no dense layer with {classes} biases")
    return fitting[-1][0], fitting[-1][1].bias


def _refusal(why: str) -> ModelError:
    return ModelError(
        f"`priors` are put into the bias of the dense layer that a model ends in, and can't be here: {why}.",
        hint="Leave `priors` out, and add edgebuild.training.priors.bias_for_priors to the outputs yourself.",
    )
