"""The one interpreter of edits. Imports torch: import it inside functions.

Guarantees: carrying out ``a + b`` is carrying out ``a``, then ``b``; equal edits on equal modules give equal modules
(new weights are seeded); an edit that doesn't fit raises ``ModelError`` naming the layer. ``apply_edits`` changes its
module in place and may have changed a part of it when it raises: throw it away then.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from edgebuild.errors import ModelError
from edgebuild.models import edits, narrowing, resizing, weight_views
from edgebuild.models.narrowing import refuse
from edgebuild.models.replacements import Head, Heads, WithHeads, replacement

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


def copied(module: nn.Module) -> nn.Module:
    """Return a copy that shares nothing; raises ``ModelError`` for a module that can't be copied."""
    try:
        return copy.deepcopy(module)
    except Exception as error:  # whatever the parts of a user's module raise
        raise ModelError(
            f"The model can't be copied, which compressing it needs: {type(error).__name__}: {error}",
            hint="Keep locks, files, generators and tensors with a history out of the module.",
        ) from error


def no_user_code(reference: str) -> Callable[..., Any]:
    """Refuse every reference: for edits that call no code of the user's."""
    raise ModelError(f"The edits name {reference}, which the project doesn't.", hint="Name it in a recipe.")


def apply_edits(
    model: nn.Module, changes: Iterable[edits.Edit], user: Callable[[str], Callable[..., Any]] = no_user_code
) -> nn.Module:
    """Carry out edits in order and return the model, another object where a head was added.

    ``user`` gives the function that a reference of a ``UserModule`` names.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for edit in changes:
            model = _apply(model, edit, user)
    return model


def body_of(model: nn.Module) -> nn.Module:
    """Return the user's model inside one with heads."""
    return model.body if isinstance(model, WithHeads) else model


def layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the address and module of everything that an edit can name, the user's model (``""``) first."""
    yield from body_of(model).named_modules()
    if isinstance(model, WithHeads):
        for name, head in model.heads.items():
            for inside, module in head.named_modules():
                yield f"@{name}.{inside}".rstrip("."), module


def layer_at(model: nn.Module, where: str) -> nn.Module:
    """Return the module of that address; raises ``ModelError`` where there is none."""
    parent, leaf = _parent(model, where)
    found = parent if not leaf else parent._modules.get(leaf)
    if found is None:
        raise refuse(where, "the model has no such layer")
    return found


def _parent(model: nn.Module, where: str) -> tuple[nn.Module, str]:
    """Return the module that holds what an address names, and its name there."""
    found: nn.Module = body_of(model)
    path = where.split(".")
    if where.startswith("@"):
        head = model.heads[path[0][1:]] if isinstance(model, WithHeads) and path[0][1:] in model.heads else None
        if head is None:
            raise refuse(where, "the model has no such head")
        if len(path) == 1:
            return head, ""
        found, path = head, path[1:]
    for name in path[:-1]:
        inside = found._modules.get(name)
        if inside is None:
            raise refuse(where, "the model has no such layer")
        found = inside
    return found, path[-1]


def _apply(model: nn.Module, edit: edits.Edit, user: Callable[[str], Callable[..., Any]]) -> nn.Module:
    match edit:
        case edits.AddHead():
            return _add_head(model, edit)
        case edits.KeepEntries():
            _keep_entries(model, edit)
            return model
        case edits.ResizeInput():
            if isinstance(model, WithHeads):
                raise refuse("the model", "it has heads, which read what lies at the size before")
            resizing.resize_input(model, edit)
            return model
        case edits.ReplaceModule(module=""):
            return _replace_all(model, edit, user)
    layer = layer_at(model, edit.module)
    _refuse_shared(model, layer, edit.module)
    match edit:
        case edits.KeepChannels():
            _refuse_viewed(layer, edit.module)
            narrowing.keep_channels(layer, edit.module, edit.outputs, edit.inputs)
        case edits.SetStride():
            resizing.set_stride(layer, edit)
        case edits.KeepHeads():
            _refuse_viewed(layer, edit.module)
            _keep_heads(model, layer, edit)
        case edits.ReplaceModule():
            _refuse_viewed(layer, edit.module)
            _put(model, edit.module, replacement(layer, edit.module, edit.by, user), layer)
        case edits.Quantise():
            weight_views.add_grids(layer, edit.module, weight=edit.weight, input=edit.input, output=edit.output)
        case edits.Mask():
            weight_views.add_mask(layer, edit.parameter, edit.module)
        case edits.Codebook():
            weight_views.add_codebook(layer, edit.parameter, edit.module, entries=edit.entries, zero=edit.zero)
    return model


def _refuse_viewed(layer: nn.Module, where: str) -> None:
    """A weight's mask, codebook and grid have its shape and place: structure comes first."""
    if any(weight_views.is_viewed(inside) for inside in layer.modules()):
        raise refuse(where, "it is masked, shares weights or is quantised already, and structure has to change before")


def _refuse_shared(model: nn.Module, layer: nn.Module, where: str) -> None:
    """Changing one of two layers with the same weights would untie them."""
    own = {id(module) for module in layer.modules()}
    weights = {id(parameter) for parameter in layer.parameters()}
    for name, other in layers(model):
        if other is layer and name != where:
            raise refuse(where, f"the same layer is also {name!r}")
        if id(other) not in own and any(id(p) in weights for p in other._parameters.values() if p is not None):
            raise refuse(where, f"it shares its weights with {name!r}")
    names = [name for name, module in body_of(model).named_modules(remove_duplicate=False) if module is layer]
    if len(names) > 1:
        raise refuse(where, f"the same layer is also {next(name for name in names if name != where)!r}")


def _put(model: nn.Module, where: str, new: nn.Module, old: nn.Module) -> None:
    parent, leaf = _parent(model, where)
    if not leaf:
        raise refuse(where, "a whole head can't be replaced")
    like = next(old.parameters(), None)
    if like is not None:
        new.to(device=like.device, dtype=like.dtype if like.is_floating_point() else None)
    parent._modules[leaf] = new.train(old.training)


def _replace_all(model: nn.Module, edit: edits.ReplaceModule, user: Callable[[str], Callable[..., Any]]) -> nn.Module:
    if isinstance(model, WithHeads):
        raise refuse("the model", "it has heads, which another model in its place would lose")
    if resizing.resized(model) is not None:
        raise refuse("the model", "its input is resized, which another model in its place would lose")
    new = replacement(model, "the model", edit.by, user)
    return new.train(model.training)


def _keep_heads(model: nn.Module, layer: nn.Module, edit: edits.KeepHeads) -> None:
    if isinstance(layer, nn.MultiheadAttention):
        heads = Heads.of(layer, edit.module)
        _put(model, edit.module, heads, layer)
    elif isinstance(layer, Heads):
        heads = layer
    else:
        raise refuse(edit.module, f"a {type(layer).__name__} has no heads to take out")
    if edit.heads[-1] >= heads.heads:
        raise refuse(edit.module, f"head {edit.heads[-1]} is to be kept, and it has {heads.heads}")
    width = heads.head_width
    kept = tuple(head * width + i for head in edit.heads for i in range(width))
    for part in ("query", "key", "value"):
        narrowing.keep_channels(getattr(heads, part), f"{edit.module}.{part}", kept, None)
    narrowing.keep_channels(heads.out, f"{edit.module}.out", None, kept)
    heads.heads = len(edit.heads)


def _keep_entries(model: nn.Module, edit: edits.KeepEntries) -> None:
    parent, leaf = _parent(model, edit.parameter)
    value: torch.Tensor | None = parent._parameters.get(leaf)
    value = value if value is not None else parent._buffers.get(leaf)
    if value is None:
        raise refuse(edit.parameter, "the model has no such parameter")
    if edit.axis >= value.dim() or edit.kept[-1] >= value.shape[edit.axis]:
        raise refuse(edit.parameter, f"entry {edit.kept[-1]} of axis {edit.axis} is to be kept of {list(value.shape)}")
    if sum(value is other for _, other in body_of(model).named_parameters(remove_duplicate=False)) > 1:
        raise refuse(edit.parameter, "it is shared with another layer")
    narrowing.select(parent, leaf, edit.axis, edit.kept)


def _add_head(model: nn.Module, edit: edits.AddHead) -> nn.Module:
    layer_at(model, edit.after)
    root = model if isinstance(model, WithHeads) else WithHeads(model).train(model.training)
    if edit.name in root.heads:
        raise refuse(f"@{edit.name}", "the model has a head of that name")
    if edit.after.startswith("@"):
        raise refuse(edit.after, "a head can't stand behind another one")
    head = Head(edit.features, edit.outputs, edit.hidden, edit.grid)
    like = next(model.parameters(), None)
    if like is not None and like.is_floating_point():
        head.to(device=like.device, dtype=like.dtype)
    root.heads[edit.name] = head.train(model.training)
    root.after[edit.name] = edit.after
    return root
