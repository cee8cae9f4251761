"""ONNX Runtime's fusions and 8 bits: which one must stay off for a model, and which products still run in float."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

#: MatMul + Add becomes a Gemm, and a Gemm has an 8-bit kernel only where its bias is dequantised from int32.
MATMUL_ADD = "MatMulAddFusion"
PRODUCTS = ("Conv", "Gemm", "MatMul")


def harmful(model: Any) -> tuple[str, ...]:
    """Return the optimisers that would take a product of the model out of 8 bits."""
    made = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    int32 = {t.name for t in model.graph.initializer if t.data_type == t.INT32}
    products, biases = set(), {name for name, codes in made.items() if codes in int32}
    for node in model.graph.node:
        if node.op_type == "MatMul" and made.keys() >= set(node.input):
            products.add(node.output[0])
        if node.op_type == "Add" and products.intersection(node.input) and not biases.intersection(node.input):
            return (MATMUL_ADD,)
    return ()


def float_products(model: Any) -> tuple[str, ...]:
    """Return the convolutions and matrix products of an optimised model that compute with dequantised weights."""
    return tuple(sorted(_float_products(model.graph)))


def _float_products(graph: Any) -> Iterator[str]:
    stored = {tensor.name for tensor in graph.initializer}
    weights = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in stored}
    for node in graph.node:
        if node.op_type.endswith(PRODUCTS) and not weights.isdisjoint(node.input[:2]):
            yield node.name or node.output[0]
