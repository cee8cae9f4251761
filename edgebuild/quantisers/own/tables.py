"""Embedding tables in 8 bits, a scale per row: codes are looked up first and made real behind the look-up.

In that order no runtime can fold the table back to float, and only the rows that are read are computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgebuild.quantisers.own.graph import add_constant, attribute, is_kept

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from numpy.typing import NDArray

    from edgebuild.models.onnx_graphs import Names
    from edgebuild.quantisers.own.graph import Graph

#: Tables with fewer numbers stay float: what they would save is no reason for two more operators.
LEAST_SIZE = 16_384
LEVELS = 127


@dataclass(frozen=True, kw_only=True)
class Table:
    """A constant matrix whose rows are looked up: its initialiser, and the Gather nodes that read it."""

    weight: str
    readers: tuple[int, ...]


def find_tables(graph: Graph, weighted: Collection[int], keep_float: Iterable[str]) -> tuple[Table, ...]:
    """Return the tables that nothing else needs in float; what the nodes ``weighted`` read has codes of its own."""
    kept = frozenset(keep_float)
    found: list[Table] = []
    for name in graph.constants:
        readers = tuple(dict.fromkeys(graph.consumers.get(name, ())))
        lookups = tuple(i for i in readers if _looks_up(graph, i, name))
        if not lookups or name in graph.outputs or not set(readers) - set(lookups) <= set(weighted):
            continue
        if any(is_kept(graph.names[i], "Gather", kept) for i in lookups):
            continue
        value = graph.constant(name)
        if value is not None and value.ndim == 2 and value.size >= LEAST_SIZE and np.isfinite(value).all():
            found.append(Table(weight=name, readers=lookups))
    return tuple(found)


def _looks_up(graph: Graph, index: int, name: str) -> bool:
    node = graph.nodes[index]
    return bool(node.op_type == "Gather" and node.input[0] == name and attribute(node, "axis", 0) == 0)


def store(target: Any, graph: Graph, table: Table, names: Names) -> tuple[str, str]:
    """Add the codes, int8 (rows, width), and the scales, float32 (rows, 1), to a graph; return their names."""
    weight = graph.constant(table.weight)
    assert weight is not None  # noqa: S101 - ``find_tables`` looked
    scale = scales(weight)
    codes = np.rint(weight / scale).astype(np.int8)
    stored = names.value(f"{table.weight}_quantized"), names.value(f"{table.weight}_scale")
    for name, value in zip(stored, (codes, scale), strict=True):
        add_constant(target, name, value)
    return stored


def scales(weight: NDArray[Any]) -> NDArray[np.float32]:
    """Return the scale of each row, (rows, 1): it reaches the row's largest number, and is never subnormal."""
    reach = np.abs(weight).max(axis=1, keepdims=True).astype(np.float64) / LEVELS
    return np.where(reach > np.finfo(np.float32).tiny, reach, 1.0).astype(np.float32)


def look_up(node: Any, stored: tuple[str, str], names: Names) -> list[Any]:
    """Make a Gather look up codes instead, and return the nodes to stand behind it, which make its output real."""
    from onnx import TensorProto, helper

    result, label = node.output[0], node.name or "Gather"
    node.name = names.node(f"{label}_codes")
    codes, reals, scale = (names.value(f"{result}_{part}") for part in ("quantized", "unscaled", "scale"))
    node.input[0], node.output[0] = stored[0], codes
    return [
        helper.make_node("Gather", [stored[1], node.input[1]], [scale], name=names.node(f"{label}_scale"), axis=0),
        helper.make_node("Cast", [codes], [reals], name=names.node(f"{label}_Cast"), to=TensorProto.FLOAT),
        helper.make_node("Mul", [reals, scale], [result], name=names.node(f"{label}_Mul")),
    ]
