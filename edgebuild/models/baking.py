"""What a model computes its weights from (weight or spectral normalisation, leftover pruning masks, parametrisations of
the user's own) made plain weights: at deployment they are constants.

Imports torch: import it inside functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.utils import parametrize, prune

from edgebuild.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def bake(module: nn.Module) -> tuple[str, ...]:
    """Make every parametrised tensor of a model a plain one, in place, and return their names.

    The model is set to eval mode before. Guarantees that each tensor keeps its value bit for bit, so that the model
    keeps its outputs. Raises ``ModelError`` naming the tensor where that can't be: it changes from one time to the next
    or can't be computed.
    """
    module.eval()
    done = []
    for where, layer in list(module.named_modules()):
        for name, make_plain in _computed(layer):
            full = f"{where}.{name}".lstrip(".")
            try:
                _bake(layer, name, make_plain)
            except ModelError as error:
                raise ModelError(f"{full} of the model {error.message}", hint=error.hint) from error
            except Exception as error:  # whatever the user's parametrisation raises
                raise ModelError(
                    f"{full} of the model can't be computed: {type(error).__name__}: {error}",
                    hint="Let the factory make it a plain weight (parametrize.remove_parametrizations).",
                ) from error
            done.append(full)
    return tuple(done)


def _bake(layer: nn.Module, name: str, make_plain: Callable[[], None]) -> None:
    value, learns = _value(layer, name)
    if not _equal(value, _value(layer, name)[0]):
        raise ModelError(
            "changes from one time it is computed to the next.",
            hint="Let its parametrisation do the same every time in eval mode.",
        )
    buffer = _is_buffer(layer, name)
    make_plain()
    layer._buffers.pop(name, None)
    if buffer:
        layer.register_buffer(name, value)
        return
    # A new parameter: what was left may still hang on what it was computed from, and can't be copied then.
    layer._parameters.pop(name, None)
    layer.__dict__.pop(name, None)
    layer.register_parameter(name, nn.Parameter(value, requires_grad=learns))
    if isinstance(layer, nn.RNNBase):
        layer._init_flat_weights()


def _is_buffer(layer: nn.Module, name: str) -> bool:
    """Whether a tensor is computed from buffers alone."""
    if not parametrize.is_parametrized(layer, name):
        return False
    held: Any = layer.parametrizations[name]  # type: ignore[index]
    return not held._parameters and not list(held.parameters())


@torch.enable_grad()
def _value(layer: nn.Module, name: str) -> tuple[torch.Tensor, bool]:
    """Return a tensor as the layer would compute with it now, and whether it learns."""
    for hook in layer._forward_pre_hooks.values():
        if _name_of(hook) == name:
            hook(layer, ())
    value: torch.Tensor = getattr(layer, name)
    return value.detach().clone(), value.requires_grad


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a.nan_to_num(), b.nan_to_num())


def _computed(layer: nn.Module) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yield the name of each tensor that a layer computes before it runs, and what takes away how."""
    if parametrize.is_parametrized(layer):
        assert isinstance(layer.parametrizations, nn.ModuleDict)  # noqa: S101 - torch says so
        for name in list(layer.parametrizations):
            yield name, lambda name=name: _without_parametrisation(layer, name)  # type: ignore[misc]
    for key, hook in list(layer._forward_pre_hooks.items()):
        if name := _name_of(hook):
            yield name, lambda key=key, hook=hook: _without_hook(layer, key, hook)  # type: ignore[misc]


def _without_parametrisation(layer: nn.Module, name: str) -> None:
    parametrize.remove_parametrizations(layer, name, leave_parametrized=True)


#: The older spelling of such things: hooks that set a tensor before each call, and the endings of what it is made of.
_ENDINGS = {
    "torch.nn.utils.weight_norm": ("_g", "_v"),
    "torch.nn.utils.spectral_norm": ("_orig", "_u", "_v"),
    "torch.nn.utils.prune": ("_orig", "_mask"),
}


def _name_of(hook: Any) -> str:
    """Return the tensor that a hook of torch's own sets before each call; nothing for other hooks."""
    kind = type(hook)
    if isinstance(hook, prune.BasePruningMethod):
        return str(hook._tensor_name)
    return str(hook.name) if kind.__module__ in _ENDINGS and hasattr(hook, "name") else ""


def _without_hook(layer: nn.Module, key: int, hook: Any) -> None:
    name = _name_of(hook)
    kind = "torch.nn.utils.prune" if isinstance(hook, prune.BasePruningMethod) else type(hook).__module__
    del layer._forward_pre_hooks[key]
    for held in (layer._parameters, layer._buffers):
        for ending in _ENDINGS[kind]:
            held.pop(f"{name}{ending}", None)
    # Spectral normalisation also has hooks that look after what it writes to and reads from files.
    for hooks in (layer._state_dict_hooks, layer._load_state_dict_pre_hooks):
        for other in [k for k, h in hooks.items() if type(getattr(h, "hook", h)).__module__ == kind]:
            del hooks[other]
