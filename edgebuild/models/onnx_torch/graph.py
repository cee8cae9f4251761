"""The torch module that is being read: its layers, tensors and calls, each tried at two batch sizes without data.

A value of the ONNX graph is one of three things. An array is the same in every call. ``Sizes`` are whole numbers that
follow from the shapes of the inputs, such as what a Reshape is given; they stay Python numbers, so that the batch stays
free. All else is a tensor: a node of the ``torch.fx`` graph. Imports torch.
"""

from __future__ import annotations

import keyword
import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.node import map_arg

from edgebuild.models.onnx_torch import functions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

#: A number: known, or a node that gives it in each call.
Entry: TypeAlias = "int | float | bool | fx.Node"

#: Every call is tried with these batches: what is the same for both doesn't follow from the batch.
BATCHES = (2, 3)
#: Sizes of other dynamic axes that calls are tried with: pooling and striding five times leaves something of each.
OTHERS = (256, 320)


class Unreadable(Exception):
    """Why a node can't be read: the end of a sentence that begins with its name."""


@dataclass(frozen=True)
class Sizes:
    """Numbers that follow from the inputs' shapes: a vector, or a scalar with one entry."""

    entries: tuple[Entry, ...]
    scalar: bool = False


#: A value of the ONNX graph: see the module.
Content: TypeAlias = "NDArray[Any] | Sizes | fx.Node"


def is_known(entry: Entry) -> bool:
    """Whether a number is known."""
    return not isinstance(entry, fx.Node)


def sizes_of(value: object) -> Sizes | None:
    """Return a scalar or vector as numbers; None for other values."""
    if isinstance(value, np.ndarray) and value.ndim <= 1:
        return Sizes(tuple(value.reshape(-1).tolist()), scalar=value.ndim == 0)
    return value if isinstance(value, Sizes) else None


def settled(sizes: Sizes) -> Content:
    """Return numbers as an array where all are known."""
    if not all(is_known(entry) for entry in sizes.entries):
        return sizes
    array = np.array(sizes.entries)
    kind = {"f": np.float32, "b": np.bool_}.get(array.dtype.kind, np.int64) if array.size else np.int64
    return array.astype(kind).reshape(() if sizes.scalar else (-1,))


def _tried(args: Any, index: int) -> Any:
    """Return arguments with what each node gave for one of ``BATCHES`` in its place."""
    return map_arg(args, lambda node: node.meta["tried"][index])


class Builder:
    """Puts the module together. Whatever torch raises while something is tried passes: it is about the node at hand."""

    def __init__(self) -> None:
        self.root = nn.Module()
        self.graph = fx.Graph(owning_module=self.root)  # type: ignore[arg-type]
        self.calls: Counter[str] = Counter()
        self._names: set[str] = set(dir(self.root))
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        self._shared: dict[object, str] = {}
        self._sizes: dict[tuple[fx.Node, int], fx.Node] = {}

    def name(self, wanted: str) -> str:
        """Return a free Python identifier that resembles a name."""
        found = re.sub(r"\W+", "_", wanted, flags=re.ASCII).strip("_") or "value"
        found = f"n{found}" if found[0].isdigit() or keyword.iskeyword(found) else found
        name, number = found, 2
        while name in self._names:
            name, number = f"{found}_{number}", number + 1
        self._names.add(name)
        return name

    def input(self, name: str, shape: Sequence[int | str], dtype: torch.dtype, batch: str) -> fx.Node:
        """Add an input of the module; ``batch`` names the batch axis, other names are dynamic axes."""
        node = self.graph.placeholder(self.name(name))
        with self._mode:
            node.meta["tried"] = tuple(
                torch.empty(
                    [axis if isinstance(axis, int) else (BATCHES if axis == batch else OTHERS)[i] for axis in shape],
                    dtype=dtype,
                )
                for i in range(len(BATCHES))
            )
        return node

    def call(self, function: Callable[..., Any], *args: Any, **named: Any) -> fx.Node:
        """Add the call of a function."""
        node = self.graph.call_function(function, args, named)
        return self._tried(node, function)

    def method(self, name: str, x: fx.Node, *args: Any, **named: Any) -> fx.Node:
        """Add the call of a tensor's method."""
        node = self.graph.call_method(name, (x, *args), named)
        return self._tried(node, lambda x, *args, **named: getattr(x, name)(*args, **named))

    def layer(self, wanted: str, make: Callable[[], nn.Module], *args: Any, key: object = None) -> fx.Node:
        """Add the call of a layer. Layers of one ``key`` are one: their weights stay tied."""
        target = self._shared.get(key) if key is not None else None
        if target is None:
            target = self.name(wanted)
            self.root.add_module(target, make().eval())
            if key is not None:
                self._shared[key] = target
        self.calls[target] += 1
        module = self.root.get_submodule(target)
        return self._tried(self.graph.call_module(target, args), module)

    def held(self, array: NDArray[Any], wanted: str) -> fx.Node:
        """Add a tensor that the module holds: a parameter if it can learn, one number or whole numbers can't."""
        key = ("held", wanted)
        target = self._shared.get(key)
        if target is None:
            target = self._shared[key] = self.name(wanted)
            value = torch.from_numpy(np.array(array))
            if value.is_floating_point() and value.numel() > 1:
                self.root.register_parameter(target, nn.Parameter(value))
            else:
                self.root.register_buffer(target, value)
        node = self.graph.get_attr(target)
        value = getattr(self.root, target)
        node.meta["tried"] = (value, value)
        return node

    def number(self, function: Callable[..., Any], *entries: Entry) -> Entry:
        """Return what a function of numbers gives: known, where it is the same for both batches."""
        results = [function(*_tried(entries, i)) for i in range(len(BATCHES))]
        if results[0] == results[1]:
            return results[0]  # type: ignore[no-any-return]
        return self.call(function, *entries)

    def size(self, x: fx.Node, axis: int) -> Entry:
        """Return the size of an axis: known where it doesn't follow from a dynamic one."""
        axis %= self.rank(x)
        known = self.dims(x)[axis]
        if known is not None:
            return known
        if (x, axis) not in self._sizes:
            self._sizes[x, axis] = self.method("size", x, axis)
        return self._sizes[x, axis]

    def shapes(self, x: fx.Node) -> tuple[tuple[int, ...], ...]:
        """Return the shape of a tensor for each of ``BATCHES``."""
        return tuple(tuple(tried.shape) for tried in x.meta["tried"])

    def dims(self, x: fx.Node) -> tuple[int | None, ...]:
        """Return the shape of a tensor; None for sizes that aren't always the same."""
        return tuple(a if a == b else None for a, b in zip(*self.shapes(x), strict=True))

    def rank(self, x: fx.Node) -> int:
        """Return how many axes a tensor has."""
        return len(self.shapes(x)[0])

    def follows_batch(self, x: fx.Node, axis: int) -> bool:
        """Whether the size of an axis is the batch."""
        return tuple(shape[axis : axis + 1] for shape in self.shapes(x)) == tuple((batch,) for batch in BATCHES)

    def tensor(self, value: Content, wanted: str) -> fx.Node:
        """Return any value as a tensor."""
        if isinstance(value, Sizes):
            return self.call(functions.numbers, list(value.entries), value.scalar)
        return self.held(value, wanted) if isinstance(value, np.ndarray) else value

    def add_bias(self, x: fx.Node, bias: NDArray[Any]) -> bool:
        """Make what is added to a layer without bias its bias, if it is one number per channel; say whether."""
        if x.op != "call_module" or self.calls[str(x.target)] != 1:
            return False
        layer: Any = self.root.get_submodule(str(x.target))
        axis = -1 if isinstance(layer, nn.Linear) else 1 - self.rank(x)
        if not isinstance(layer, nn.Linear | nn.modules.conv._ConvNd) or layer.bias is not None:
            return False
        width = self.shapes(x)[0][axis]
        if bias.size != width or bias.ndim < -axis or bias.ndim > self.rank(x) or bias.shape[axis] != width:
            return False
        layer.bias = nn.Parameter(torch.from_numpy(np.array(bias.reshape(-1))))
        self._shared = {key: target for key, target in self._shared.items() if target != x.target}
        return True

    def _tried(self, node: fx.Node, function: Callable[..., Any]) -> fx.Node:
        with self._mode, torch.no_grad():
            node.meta["tried"] = tuple(
                function(*_tried(node.args, i), **_tried(node.kwargs, i)) for i in range(len(BATCHES))
            )
        return node
