"""One ONNX node as the operators see it: its attributes and its inputs in the form that each needs. Imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch
from torch import fx

from edgebuild.models.onnx_graphs import label_of
from edgebuild.models.onnx_torch.graph import Content, Unreadable, is_known, sizes_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgebuild.models.onnx_torch.graph import Builder, Entry


@dataclass(frozen=True)
class Call:
    """A node with its inputs' values; None for one that is left out. ``only`` are values that a single node reads."""

    node: Any
    values: tuple[Content | None, ...]
    builder: Builder
    opset: int
    only: frozenset[str]

    @property
    def label(self) -> str:
        """The node's name, for people and for layers."""
        return label_of(self.node) if self.node.name else self.node.output[0]

    def get(self, name: str, default: Any = None) -> Any:
        """Return an attribute, text as ``str``."""
        for attribute in self.node.attribute:
            if attribute.name == name:
                value = onnx.helper.get_attribute_value(attribute)
                return value.decode() if isinstance(value, bytes) else value
        return default

    def refuse(self, name: str, *allowed: Any) -> None:
        """Raise ``Unreadable`` unless an attribute has one of these values, the first being its default."""
        value = self.get(name, allowed[0])
        if value not in allowed:
            raise Unreadable(f"has {name} = {value!r}")

    def has(self, index: int) -> bool:
        """Whether an input is given."""
        return index < len(self.values) and self.values[index] is not None

    def value(self, index: int) -> Content:
        """Return an input's value."""
        value = self.values[index] if index < len(self.values) else None
        if value is None:
            raise Unreadable(f"has no input {index}")
        return value

    def array(self, index: int) -> NDArray[Any]:
        """Return an input that is the same in every call."""
        value = self.value(index)
        if not isinstance(value, np.ndarray):
            raise Unreadable(f"computes its input {index} ({self.node.input[index]}), which has to be a constant")
        return value

    def tensor(self, index: int) -> fx.Node:
        """Return an input as a tensor."""
        return self.builder.tensor(self.value(index), self.node.input[index])

    def tensors(self) -> list[fx.Node]:
        """Return all inputs as tensors."""
        return [self.tensor(index) for index in range(len(self.values)) if self.has(index)]

    def operand(self, index: int) -> fx.Node | float:
        """Return an input as a tensor; as a number where it is one and known, and others decide about the shape."""
        value = self.value(index)
        ranks = [self.builder.rank(other) for other in self.values if isinstance(other, fx.Node)]
        if isinstance(value, np.ndarray) and value.size == 1 and value.ndim <= max(ranks, default=-1):
            return value.item()  # type: ignore[no-any-return]
        return self.tensor(index)

    def entries(self, name: str, index: int | None = None) -> tuple[Entry, ...] | None:
        """Return numbers that are an attribute, or an input in later opsets; None where neither is given."""
        value = self.get(name)
        if value is not None:
            return tuple(value) if isinstance(value, list | tuple) else (value,)
        if index is None or not self.has(index):
            return None
        found = sizes_of(self.value(index))
        if found is None:
            raise Unreadable(f"computes its {name} from data")
        return found.entries

    def known(self, name: str, index: int | None = None) -> tuple[Any, ...] | None:
        """Return such numbers where all are known."""
        entries = self.entries(name, index)
        if entries is not None and not all(is_known(entry) for entry in entries):
            raise Unreadable(f"computes its {name} from the sizes of dynamic axes")
        return entries

    def axis(self, default: int, x: fx.Node) -> int:
        """Return the axis that it works on, counted from the front."""
        return int(self.get("axis", default)) % self.builder.rank(x)

    def dtype(self, name: str, default: int) -> torch.dtype:
        """Return an element type that is an attribute."""
        return torch_dtype(self.get(name, default))

    def key(self, start: int = 1) -> tuple[object, ...]:
        """Return what makes a layer: nodes of one key share their weights, the inputs from ``start`` on."""
        attributes = sorted((each.name, str(each)) for each in self.node.attribute)
        return (self.node.op_type, tuple(self.node.input[start:]), tuple(attributes))

    def needs_one_output(self, used: frozenset[str]) -> None:
        """Raise ``Unreadable`` where something reads another output than the first."""
        for name in self.node.output[1:]:
            if name in used:
                raise Unreadable(f"has a second output that is used ({name})")


def torch_dtype(kind: int) -> torch.dtype:
    """Return ONNX's element type as torch's."""
    if kind == onnx.TensorProto.BFLOAT16:
        return torch.bfloat16
    try:
        return torch.from_numpy(np.zeros(0, onnx.helper.tensor_dtype_to_np_dtype(kind))).dtype
    except (KeyError, TypeError) as error:
        raise Unreadable(f"works on {onnx.TensorProto.DataType.Name(kind)}") from error
