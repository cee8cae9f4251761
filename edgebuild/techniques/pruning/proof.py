"""The proof that a cut is what was meant: the cut net against the whole one that hears nothing of what was cut.

In the whole net the layers that read lost channels have zeros there, and a normalisation over channels takes its
statistics over the kept ones alone. Both nets must agree, at their outputs and behind every layer that has the same
shape in both: with the model's own weights, and with weights that were stirred, so that nothing agrees only because a
channel is dead, a normalisation is still the identity, or an output is saturated.

Imports torch: import it inside functions.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from edgebuild.errors import ModelError
from edgebuild.models.interpreter import apply_edits, copied, layer_at, layers
from edgebuild.models.narrowing import is_depthwise
from edgebuild.models.torch_models import flatten

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from edgebuild.models.edits import Edit
    from edgebuild.techniques.workspace import Workspace

    #: Entries of a layer that are lost, by its address and side: see ``channel_groups.Member``.
    Lost = Mapping[tuple[str, str | int], set[int]]

#: How far the two nets may be apart, relative to the largest number of the tensor that is compared.
TOLERANCE = 1e-3
#: What is nowhere larger than this is compared as if it were.
SMALLEST = 1e-6
#: How far weights are stirred, relative to their root mean square.
STIR = 0.3
#: Layers that compute over all their channels at once: without some of them the others change too.
ACROSS = (nn.GroupNorm, nn.LayerNorm)


def require_proven(
    work: Workspace, name: str, changes: Iterable[Edit], silence: Callable[[nn.Module], TorchFunctionMode | None]
) -> None:
    """Raise ``ModelError`` naming ``name`` unless the model with ``changes`` is the whole model, silenced.

    ``silence`` changes a copy of the whole model in place, and returns what has to be active while it runs, if any.
    """
    changes = tuple(changes)
    _require_same(work, work.tried(*changes), work.module, silence, name)
    stirred = _stirred(work.module)
    if _is_finite(work, stirred):
        narrow = apply_edits(copied(stirred), changes, work.code.module_maker)
        _require_same(work, narrow, stirred, silence, name)


def _require_same(
    work: Workspace,
    narrow: nn.Module,
    whole: nn.Module,
    silence: Callable[[nn.Module], TorchFunctionMode | None],
    name: str,
) -> None:
    silent = copied(whole)
    theirs: dict[str, list[torch.Tensor]] = {}
    with silence(silent) or nullcontext():
        outputs = _run(work, silent, lambda layer, tensor: theirs.setdefault(layer, []).append(tensor.clone()))

    def compare(layer: str, mine: torch.Tensor) -> None:
        # Compared while it runs, and let go: what large nets compute is gigabytes.
        waiting = theirs.get(layer)
        other = waiting.pop(0) if waiting else None
        if other is not None and other.shape == mine.shape and not _same(mine, other):
            raise _differ(name, f"behind {layer!r}")

    if not all(_same(a, b) for a, b in zip(_run(work, narrow, compare), outputs, strict=False)):
        raise _differ(name, "at its outputs")


def _differ(name: str, where: str) -> ModelError:
    return ModelError(
        f"{name!r}: without its channels the model isn't the one with them at zero, {where}.",
        hint="They reach the output by another way than through weights.",
    )


def _same(mine: torch.Tensor, theirs: torch.Tensor) -> bool:
    if mine.shape != theirs.shape:
        return False
    if mine.numel() == 0:
        return True
    if mine.is_floating_point() and mine.dtype == theirs.dtype:
        gap, most = (mine - theirs).abs().max(), theirs.abs().max()
        if bool(gap.isfinite() & most.isfinite()):
            return bool(gap <= TOLERANCE * most.clamp_min(SMALLEST))
    a, b = mine.double(), theirs.double()
    # Where both say infinity (a mask) or NaN their difference says nothing.
    alike = (a == b) | (a.isnan() & b.isnan())
    gap = torch.where(alike, 0.0, a - b).abs().max()
    finite = torch.where(b.isfinite(), b, 0.0).abs().max().clamp_min(SMALLEST)
    return bool(gap <= TOLERANCE * finite)


@torch.no_grad()
def _run(work: Workspace, module: nn.Module, take: Callable[[str, torch.Tensor], None]) -> list[torch.Tensor]:
    """Run a module on the examples and return its outputs; ``take`` is given what each layer makes, call after call.

    What it is given may be overwritten later.
    """

    def note(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(layer: nn.Module, args: Any, output: Any) -> None:
            del layer, args
            for part in flatten(output):
                if isinstance(part, torch.Tensor):
                    take(name, part)

        return hook

    handles = [
        layer.register_forward_hook(note(name))
        for name, layer in layers(module)
        if name and not any(True for _ in layer.children())
    ]
    try:
        return work.run(module, work.examples)
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def _stirred(module: nn.Module) -> nn.Module:
    """Return a copy whose weights, and running statistics, are off by seeded noise of their own size."""
    generator = torch.Generator().manual_seed(0)

    def noise(like: torch.Tensor) -> torch.Tensor:
        return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like.device)

    other = copied(module)
    for parameter in other.parameters():
        if parameter.is_floating_point() and parameter.numel():
            size = parameter.double().pow(2).mean().sqrt()
            parameter.copy_(parameter.double() + STIR * noise(parameter) * (size if size > 0 else 1.0))
    for part in other.modules():
        if isinstance(part, nn.modules.batchnorm._NormBase) and part.running_mean is not None:
            assert part.running_var is not None  # noqa: S101 - torch keeps both or none
            spread = part.running_var.double().sqrt()
            part.running_mean.add_(STIR * noise(spread) * spread)
            part.running_var.mul_(torch.exp(STIR * noise(spread)))
    return other


def _is_finite(work: Workspace, module: nn.Module) -> bool:
    """Whether stirred weights say anything; what is no number on them is proven by the model's own weights alone."""
    try:
        with torch.no_grad():
            return all(bool(part.isfinite().all()) for part in work.run(module, work.examples))
    except ModelError:
        return False


def silencing(lost: Lost) -> Callable[[nn.Module], TorchFunctionMode | None]:
    """Return what lets a model hear nothing of lost channels: see ``require_proven``."""

    def silence(module: nn.Module) -> TorchFunctionMode | None:
        kept: list[tuple[nn.Module, set[int]]] = []
        for (name, side), own in lost.items():
            if isinstance(side, int) or not own:
                continue
            layer = layer_at(module, name)
            if isinstance(layer, ACROSS):
                kept.append((layer, own))
            else:
                _silence(layer, side, sorted(own))
        return _OverKept(kept) if kept else None

    return silence


@torch.no_grad()
def _silence(layer: nn.Module, side: str, own: list[int]) -> None:
    """Let a reading layer read nothing from these channels."""
    if isinstance(layer, nn.LSTM | nn.GRU):
        _silence_gates(layer, side, own)
    elif side == "inputs" and isinstance(layer, nn.Linear):
        layer.weight[:, own] = 0
    elif side == "inputs" and isinstance(layer, nn.modules.conv._ConvNd) and not is_depthwise(layer):
        if isinstance(layer, nn.modules.conv._ConvTransposeNd):
            layer.weight[own] = 0
            return
        width, height = layer.in_channels // layer.groups, layer.out_channels // layer.groups
        for index in own:
            rows = slice(index // width * height, (index // width + 1) * height)
            layer.weight[rows, index % width] = 0


def _silence_gates(layer: nn.LSTM | nn.GRU, side: str, own: list[int]) -> None:
    for suffix, start in (("", 0), ("_reverse", layer.hidden_size)):
        if suffix and not layer.bidirectional:
            return
        if side == "inputs":
            getattr(layer, f"weight_ih_l0{suffix}")[:, own] = 0
        else:
            units = [i - start for i in own if start <= i < start + layer.hidden_size]
            getattr(layer, f"weight_hh_l0{suffix}")[:, units] = 0


class _OverKept(TorchFunctionMode):
    """While it is active, normalisations that lost channels take their statistics over the kept ones alone.

    It stands in for torch's functions while such a layer runs, so that a subclass which permutes first is followed. A
    lost channel comes out as zero: nothing reads it.
    """

    def __init__(self, lost: Iterable[tuple[nn.Module, set[int]]]) -> None:
        super().__init__()
        self._inside: list[set[int]] = []
        for layer, own in lost:
            layer.register_forward_pre_hook(lambda *_, own=own: self._inside.append(own))
            layer.register_forward_hook(lambda *_: self._leave())

    def _leave(self) -> None:
        self._inside.pop()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """See ``TorchFunctionMode``."""
        del types
        kwargs = kwargs or {}
        if self._inside and func is functional.layer_norm:
            return _layer_norm(self._inside[-1], *args, **kwargs)
        if self._inside and func is functional.group_norm:
            return _group_norm(self._inside[-1], *args, **kwargs)
        return func(*args, **kwargs)


def _layer_norm(
    lost: set[int],
    input: torch.Tensor,  # noqa: A002 - torch's name
    normalized_shape: Any,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
) -> torch.Tensor:
    kept = torch.tensor([i for i in range(normalized_shape[-1]) if i not in lost])
    values = input.index_select(-1, kept)
    variance, mean = torch.var_mean(values, dim=-1, correction=0, keepdim=True)
    values = (values - mean) / (variance + eps).sqrt()
    values = values if weight is None else values * weight[kept]
    values = values if bias is None else values + bias[kept]
    return torch.zeros_like(input).index_copy(-1, kept, values)


def _group_norm(
    lost: set[int],
    input: torch.Tensor,  # noqa: A002 - torch's name
    num_groups: int,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
) -> torch.Tensor:
    result, size = torch.zeros_like(input), input.shape[1] // num_groups
    ones = [1] * (input.dim() - 2)
    for start in range(0, input.shape[1], size):
        kept = torch.tensor([i for i in range(start, start + size) if i not in lost], dtype=torch.long)
        if not len(kept):
            continue
        values = input.index_select(1, kept)
        axes = tuple(range(1, input.dim()))
        variance, mean = torch.var_mean(values, dim=axes, correction=0, keepdim=True)
        values = (values - mean) / (variance + eps).sqrt()
        values = values if weight is None else values * weight[kept].view(1, -1, *ones)
        values = values if bias is None else values + bias[kept].view(1, -1, *ones)
        result.index_copy_(1, kept, values)
    return result
