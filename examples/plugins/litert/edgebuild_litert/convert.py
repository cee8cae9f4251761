"""ONNX to .tflite for small float models: Conv, Gemm, MatMul, Add, Relu, Flatten; what else there is, is refused.

The schema is the one that ai-edge-litert brings, so no converter is needed. ONNX is channels first and LiteRT channels
last: each convolution stands between two transpositions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgebuild.plugins import ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

TO_LAST = (0, 2, 3, 1)
TO_FIRST = (0, 3, 1, 2)


def convert(model: Any) -> bytes:
    """Return the .tflite file of a frozen float model; raises ``ModelError`` with the node that can't be converted."""
    import flatbuffers
    from onnx import shape_inference

    writer = Writer(shape_inference.infer_shapes(model).graph)
    for node in model.graph.node:
        make = {
            "Conv": writer.conv,
            "Gemm": writer.dense,
            "MatMul": writer.dense,
            "Add": writer.add,
            "Relu": writer.relu,
            "Flatten": writer.flatten,
        }.get(node.op_type)
        if make is None:
            raise _refused(node, "isn't among the operators that this example converts")
        make(node, _attributes(node))
    builder = flatbuffers.Builder()
    builder.Finish(writer.model().Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


class Writer:
    """Collects tensors and operators in the order of the ONNX graph."""

    def __init__(self, graph: Any) -> None:
        from ai_edge_litert import schema_py_generated as schema
        from onnx import numpy_helper

        self._schema = schema
        self._graph = graph
        self._weights = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
        self._shapes = {
            each.name: tuple(dim.dim_value for dim in each.type.tensor_type.shape.dim)
            for each in (*graph.input, *graph.value_info, *graph.output)
        }
        self._buffers = [schema.BufferT()]
        self._tensors: list[Any] = []
        self._index: dict[str, int] = {}
        self._operators: list[Any] = []
        self._codes: list[int] = []

    def add(self, node: Any, attributes: dict[str, Any]) -> None:
        """Add, with numpy's broadcasting."""
        del attributes
        self._operator("ADD", [self._named(name) for name in node.input], node.output[0], "AddOptions")

    def relu(self, node: Any, attributes: dict[str, Any]) -> None:
        """Relu."""
        del attributes
        self._operator("RELU", [self._named(node.input[0])], node.output[0])

    def flatten(self, node: Any, attributes: dict[str, Any]) -> None:
        """Flatten is a reshape to the shape that ONNX infers."""
        del attributes
        shape = self._constant(_int32(self._shapes[node.output[0]]))
        self._operator("RESHAPE", [self._named(node.input[0]), shape], node.output[0], "ReshapeOptions")

    def dense(self, node: Any, attributes: dict[str, Any]) -> None:
        """Gemm and MatMul of a matrix with constant weights, which LiteRT wants as (outputs, inputs)."""
        weights = self._weights.get(node.input[1])
        plain = attributes.get("alpha", 1.0) == attributes.get("beta", 1.0) == 1.0 and not attributes.get("transA", 0)
        if weights is None or weights.ndim != 2 or len(self._shapes[node.input[0]]) != 2 or not plain:
            raise _refused(node, "isn't a matrix times constant weights")
        turned = weights if attributes.get("transB", 0) else weights.T
        bias = self._named(node.input[2]) if len(node.input) > 2 else -1
        inputs = [self._named(node.input[0]), self._constant(turned), bias]
        self._operator("FULLY_CONNECTED", inputs, node.output[0], "FullyConnectedOptions")

    def conv(self, node: Any, attributes: dict[str, Any]) -> None:
        """Conv in two dimensions, with its padding made explicit."""
        import numpy as np

        weights = self._weights.get(node.input[1])
        if weights is None or weights.ndim != 4 or attributes.get("group", 1) != 1 or "auto_pad" in attributes:
            raise _refused(node, "isn't a plain convolution in two dimensions with constant weights")
        batch, channels, height, width = self._shapes[node.input[0]]
        top, left, bottom, right = attributes.get("pads", (0, 0, 0, 0))
        last = self._transposed(self._named(node.input[0]), TO_LAST, (batch, height, width, channels))
        padded = self._tensor((batch, height + top + bottom, width + left + right, channels))
        pads = self._constant(_int32([[0, 0], [top, bottom], [left, right], [0, 0]]))
        self._operator("PAD", [last, pads], padded, "PadOptions")
        out = [self._shapes[node.output[0]][axis] for axis in TO_LAST]
        kernel = self._constant(np.ascontiguousarray(weights.transpose(0, 2, 3, 1)))
        bias = (
            self._named(node.input[2])
            if len(node.input) > 2
            else self._constant(np.zeros(weights.shape[0], dtype=np.float32))
        )
        result = self._tensor(out)
        strides, dilations = attributes.get("strides", (1, 1)), attributes.get("dilations", (1, 1))
        options = {
            "padding": self._schema.Padding.VALID,
            "strideH": strides[0],
            "strideW": strides[1],
            "dilationHFactor": dilations[0],
            "dilationWFactor": dilations[1],
        }
        self._operator("CONV_2D", [padded, kernel, bias], result, "Conv2DOptions", options)
        self._transposed(result, TO_FIRST, self._shapes[node.output[0]], name=node.output[0])

    def model(self) -> Any:
        """Return the whole model in the schema's object form."""
        schema = self._schema
        inputs = [each.name for each in self._graph.input if each.name not in self._weights]
        graph = schema.SubGraphT(
            tensors=self._tensors,
            inputs=[self._named(name) for name in inputs],
            outputs=[self._named(each.name) for each in self._graph.output],
            operators=self._operators,
            name="main",
        )
        codes = [
            schema.OperatorCodeT(deprecatedBuiltinCode=min(code, 127), builtinCode=code, version=1)
            for code in self._codes
        ]
        return schema.ModelT(version=3, operatorCodes=codes, subgraphs=[graph], buffers=self._buffers)

    def _named(self, name: str) -> int:
        if name not in self._index:
            weights = self._weights.get(name)
            self._index[name] = (
                self._tensor(self._shapes[name], name=name) if weights is None else self._constant(weights)
            )
        return self._index[name]

    def _tensor(self, shape: Sequence[int], *, name: str = "", data: NDArray[Any] | None = None) -> int:
        import numpy as np

        kind = "INT32" if data is not None and data.dtype == np.int32 else "FLOAT32"
        buffer = 0
        if data is not None:
            buffer = len(self._buffers)
            self._buffers.append(self._schema.BufferT(data=np.frombuffer(data.tobytes(), dtype=np.uint8)))
        self._tensors.append(
            self._schema.TensorT(
                shape=list(shape),
                type=getattr(self._schema.TensorType, kind),
                buffer=buffer,
                name=name or f"edgebuild/{len(self._tensors)}",
            )
        )
        return len(self._tensors) - 1

    def _constant(self, data: NDArray[Any]) -> int:
        return self._tensor(data.shape, data=data)

    def _transposed(self, source: int, axes: Sequence[int], shape: Sequence[int], *, name: str = "") -> int:
        result = self._named(name) if name else self._tensor(shape)
        self._operator("TRANSPOSE", [source, self._constant(_int32(axes))], result, "TransposeOptions")
        return result

    def _operator(
        self,
        code: str,
        inputs: list[int],
        output: str | int,
        options: str = "NONE",
        fields: dict[str, Any] | None = None,
    ) -> None:
        schema = self._schema
        number = getattr(schema.BuiltinOperator, code)
        if number not in self._codes:
            self._codes.append(number)
        self._operators.append(
            schema.OperatorT(
                opcodeIndex=self._codes.index(number),
                inputs=inputs,
                outputs=[self._named(output) if isinstance(output, str) else output],
                builtinOptionsType=getattr(schema.BuiltinOptions, options),
                builtinOptions=None if options == "NONE" else getattr(schema, f"{options}T")(**(fields or {})),
            )
        )


def _attributes(node: Any) -> dict[str, Any]:
    from onnx import helper

    return {each.name: helper.get_attribute_value(each) for each in node.attribute}


def _int32(values: Any) -> NDArray[Any]:
    import numpy as np

    return np.array(values, dtype=np.int32)


def _refused(node: Any, why: str) -> ModelError:
    return ModelError(
        f"LiteRT: the node {node.name or node.output[0]!r} ({node.op_type}) {why}.",
        hint="Build this model for ONNX Runtime, or extend edgebuild_litert/convert.py.",
    )
