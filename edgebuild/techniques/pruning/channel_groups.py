"""Which channels hang together: our own small protocol, over Torch-Pruning's dependency graph.

Torch-Pruning only says which indices of which layers belong to a channel; what is taken out, and how, are edits of
ours. Imports torch and torch_pruning: import it inside functions.
"""

from __future__ import annotations

import contextlib
import warnings
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from edgebuild.errors import EnvironmentGap, ModelError
from edgebuild.models.edits import Edit, KeepChannels, KeepEntries
from edgebuild.models.interpreter import body_of, layer_at, layers
from edgebuild.models.weight_views import is_viewed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

#: Layers that ``KeepChannels`` knows.
NARROWABLE = (
    nn.modules.conv._ConvNd,
    nn.Linear,
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.PReLU,
    nn.Embedding,
    nn.LSTM,
    nn.GRU,
)
#: Layers whose outputs a group starts from.
ROOTS = (nn.modules.conv._ConvNd, nn.Linear)

#: Indices that a group may have in one layer are bounded by four times the widest layer, and by no less than this.
LEAST_BOUND = 1 << 13


@dataclass(frozen=True, kw_only=True)
class Member:
    """Indices of one side of a layer that a group's channels reach: entry ``i`` belongs to channel ``roots[i]``.

    ``side`` is ``outputs`` or ``inputs``, or the axis of a parameter that no layer owns.
    """

    layer: str
    side: str | int
    indices: tuple[int, ...]
    roots: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Group:
    """Channels that can only go together in all members. ``refusal`` says why none can go at all."""

    name: str
    width: int
    members: tuple[Member, ...]
    sections: int = 1
    refusal: str = ""


class ChannelGroups(Protocol):
    """Finds the groups of a module and what taking channels out of one means."""

    def groups(self) -> tuple[Group, ...]:
        """Return the groups, in the order of the model's layers."""
        ...

    def edits(self, removed: Iterable[tuple[Group, Sequence[int]]]) -> tuple[Edit, ...]:
        """Return the edits that take channels out of groups, all at once."""
        ...


class _Bounded(list[Any]):
    """The library's mappings of one dependency. Ever more indices are an error: following them would never end."""

    def __init__(self, mappings: Iterable[Any], most: int) -> None:
        super().__init__(mappings)
        self._most = most

    def __iter__(self) -> Iterator[Any]:
        return (mapping and self._bounded(mapping) for mapping in super().__iter__())

    def _bounded(self, mapping: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def bounded(indices: Any) -> Any:
            if len(indices) > self._most:
                raise ValueError(f"its channels become more than {self._most} indices, without end")
            return mapping(indices)

        return bounded


class DependencyGroups:
    """``ChannelGroups`` by Torch-Pruning (Fang et al. 2023, "DepGraph")."""

    def __init__(self, module: nn.Module, examples: tuple[torch.Tensor, ...]) -> None:
        try:
            import torch_pruning
        except ImportError as error:
            raise EnvironmentGap("torch-pruning is not installed.", hint="pip install 'edgebuild[compress]'") from error
        self._module = module
        self._names = _names(module)
        self._calls = _calls(module, examples)
        self._library = torch_pruning
        frozen = [p for p in module.parameters() if not p.requires_grad]
        try:
            # Gradients are what the library follows; a frozen part would end its graph.
            for parameter in frozen:
                parameter.requires_grad_(True)
            with _quiet():
                self._graph = torch_pruning.DependencyGraph().build_dependency(module, examples, verbose=False)
        except Exception as error:  # the library raises whatever its insides raise
            raise ModelError(
                f"Torch-Pruning can't follow the model: {type(error).__name__}: {str(error).splitlines()[:1]}",
                hint="Leave prune-structured out, or name the part that confuses it as a module of its own.",
            ) from error
        finally:
            for parameter in frozen:
                parameter.requires_grad_(False)
        widest = max((size for layer in self._names if isinstance(layer, ROOTS) for size in sizes(layer)), default=0)
        for node in self._graph.module2node.values():
            for dependency in node.dependencies:
                dependency.index_mapping = _Bounded(dependency.index_mapping, max(4 * widest, LEAST_BOUND))

    def groups(self) -> tuple[Group, ...]:
        """See ``ChannelGroups``."""
        reached: set[str] = set()
        made = []
        for name, layer in layers(self._module):
            if isinstance(layer, ROOTS) and name not in reached and layer in self._graph.module2node:
                group = self._group(name, layer)
                reached |= {member.layer for member in group.members if member.side == "outputs"}
                made.append(group)
        return tuple(made)

    def _group(self, name: str, root: nn.Module) -> Group:
        width = sizes(root)[0]
        pruner = self._graph.get_pruner_of_module(root)
        try:
            with _quiet():
                found = self._graph.get_pruning_group(root, pruner.prune_out_channels, list(range(width)))
        except Exception as error:  # noqa: BLE001 - the library raises whatever its insides raise
            why = f"Torch-Pruning can't follow its channels ({type(error).__name__}: {error})"
            return Group(name=name, width=width, members=(), refusal=why)
        members = tuple(self._member(item) for item in found if self._is_layer(item))
        refusal, sections = self._refusal(found, members), self._sections(found, width)
        if not refusal and not sections:
            refusal = "its channels are grouped in ways that don't fit each other"
        return Group(name=name, width=width, members=members, sections=sections or 1, refusal=refusal)

    def _is_layer(self, item: Any) -> bool:
        return item.dep.target.module in self._names

    def _member(self, item: Any) -> Member:
        target = item.dep.target.module
        side: str | int = "outputs" if self._graph.is_out_channel_pruning_fn(item.dep.handler) else "inputs"
        if isinstance(target, nn.Parameter):
            side = self._axis(target)
        return Member(
            layer=self._names[target], side=side, indices=tuple(item.idxs), roots=tuple(item.root_idxs or item.idxs)
        )

    def _axis(self, parameter: nn.Parameter) -> int:
        axes = [axis for axis, size in enumerate(parameter.shape) if size > 1]
        return axes[-1] if axes else parameter.dim() - 1

    def _refusal(self, found: Any, members: tuple[Member, ...]) -> str:
        """Say why the group's channels can't go, or nothing."""
        for item in found:
            target = item.dep.target.module
            if type(target).__name__ == "_OutputOp":
                return "its channels are outputs of the model"
            if target not in self._names or isinstance(target, nn.Parameter):
                continue
            name = self._names[target]
            if not isinstance(target, NARROWABLE):
                return f"its channels reach {name!r}, a {type(target).__name__}"
            if is_viewed(target):
                return f"{name!r} is masked, shares weights or is quantised already"
            if self._calls[name] > 1:
                return f"{name!r} is used {self._calls[name]} times"
            size = sizes(target)[0 if self._graph.is_out_channel_pruning_fn(item.dep.handler) else 1]
            if item.idxs and max(item.idxs) >= size:
                return f"Torch-Pruning takes it for {max(item.idxs) + 1} channels of {name!r}, which has {size}"
        outputs = [m for m in members if m.side == "outputs"]
        consumed = any(m.side == "inputs" and not self._is_per_channel(m.layer) for m in members)
        return "" if outputs and consumed else "no layer with weights reads its channels"

    def _is_per_channel(self, name: str) -> bool:
        layer = layer_at(self._module, name)
        return not isinstance(layer, nn.modules.conv._ConvNd | nn.Linear | nn.LSTM | nn.GRU)

    def _sections(self, found: Any, width: int) -> int:
        """Return into how many equal sections the channels fall, each of which must keep as many; 0 if they don't."""
        sections = 1
        for item in found:
            target = item.dep.target.module
            groups = target.num_groups if isinstance(target, nn.GroupNorm) else getattr(target, "groups", 1)
            if not isinstance(target, nn.GroupNorm | nn.modules.conv._ConvNd) or groups == 1:
                continue
            if isinstance(target, nn.modules.conv._ConvNd) and groups == target.in_channels == target.out_channels:
                continue
            plain = tuple(item.idxs) == tuple(item.root_idxs or item.idxs) == tuple(range(width))
            if not plain or width % groups or (sections != 1 and groups != sections):
                return 0
            sections = groups
        return sections

    def edits(self, removed: Iterable[tuple[Group, Sequence[int]]]) -> tuple[Edit, ...]:
        """See ``ChannelGroups``; the indices are those of the module as it was given."""
        return tuple(self._edits(self.lost(removed)))

    def lost(self, removed: Iterable[tuple[Group, Sequence[int]]]) -> dict[tuple[str, str | int], set[int]]:
        """Return what each side of each layer loses when channels are taken out of groups: see ``Member``."""
        gone: dict[tuple[str, str | int], set[int]] = {}
        for group, channels in removed:
            if not channels:
                continue
            lost = set(channels)
            for member in group.members:
                own = {i for i, root in zip(member.indices, member.roots, strict=True) if root in lost}
                gone.setdefault((member.layer, member.side), set()).update(own)
        return gone

    def _edits(self, gone: dict[tuple[str, str | int], set[int]]) -> Iterator[Edit]:
        for name in dict.fromkeys(layer for layer, _ in gone):
            sides = {side: lost for (layer, side), lost in gone.items() if layer == name and lost}
            axes = [side for side in sides if isinstance(side, int)]
            if axes:
                value = dict(body_of(self._module).named_parameters())[name]
                size = value.shape[axes[0]]
                yield KeepEntries(parameter=name, axis=axes[0], kept=_without(size, sides[axes[0]]))
                continue
            layer = layer_at(self._module, name)
            outputs, inputs = sizes(layer)
            kept_out = _without(outputs, sides["outputs"]) if "outputs" in sides else None
            kept_in = _without(inputs, sides["inputs"]) if "inputs" in sides else None
            if kept_out is not None or kept_in is not None:
                yield KeepChannels(module=name, outputs=kept_out, inputs=kept_in)


def sizes(layer: nn.Module) -> tuple[int, int]:
    """Return how many outputs and inputs a layer has, as ``KeepChannels`` counts them."""
    if isinstance(layer, nn.modules.conv._ConvNd):
        return layer.out_channels, layer.in_channels
    if isinstance(layer, nn.Linear):
        return layer.out_features, layer.in_features
    if isinstance(layer, nn.LSTM | nn.GRU):
        return layer.hidden_size * (2 if layer.bidirectional else 1), layer.input_size
    if isinstance(layer, nn.Embedding):
        return layer.embedding_dim, layer.num_embeddings
    for name in ("num_features", "num_channels", "num_parameters"):
        if hasattr(layer, name):
            return (int(getattr(layer, name)),) * 2
    if isinstance(layer, nn.LayerNorm):
        return (layer.normalized_shape[-1],) * 2
    raise ModelError(f"A {type(layer).__name__} has no channels.", hint="This is a bug in edgebuild.")


def _without(size: int, lost: set[int]) -> tuple[int, ...]:
    return tuple(index for index in range(size) if index not in lost)


def _names(module: nn.Module) -> dict[Any, str]:
    named: dict[Any, str] = {layer: name for name, layer in layers(module) if name}
    return named | {parameter: name for name, parameter in body_of(module).named_parameters()}


def _calls(module: nn.Module, examples: tuple[torch.Tensor, ...]) -> Counter[str]:
    """Count how often each layer runs in one forward pass."""
    counts: Counter[str] = Counter()

    def counting(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def note(layer: nn.Module, args: Any, output: Any) -> None:
            del layer, args, output
            counts[name] += 1

        return note

    handles = [layer.register_forward_hook(counting(name)) for name, layer in layers(module) if name]
    try:
        with torch.no_grad():
            module(*examples)
    finally:
        for handle in handles:
            handle.remove()
    return counts


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
