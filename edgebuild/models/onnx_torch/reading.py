"""Reads an ONNX file as a torch module, so that what trains and changes torch models works without their code.

Guarantees: layers with weights are torch's own, with the file's weights, trainable, and named after the file's nodes;
the batch stays free, also where the file was written for a batch of 1; all is deterministic. What isn't known to be the
same in torch is refused, with the node's name. Whether the module *is* the model is for a comparison on samples to say.
Imports torch.
"""

from __future__ import annotations

import types
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch
from onnx import inliner
from onnx.reference import ReferenceEvaluator
from torch import fx, nn

from edgebuild.core.artifact import BATCH_AXIS
from edgebuild.errors import EdgebuildError, ModelError
from edgebuild.models.onnx_graphs import bodies_of, label_of
from edgebuild.models.onnx_torch import arithmetic, elementwise, layers, recurrent, shaping
from edgebuild.models.onnx_torch.call import Call, torch_dtype
from edgebuild.models.onnx_torch.graph import Builder, Content, Unreadable

if TYPE_CHECKING:
    from collections.abc import Mapping

OPERATORS = {**elementwise.OPERATORS, **layers.OPERATORS, **shaping.OPERATORS, **recurrent.OPERATORS}
#: Constants that are computed while reading have at most this many numbers: a gigabyte in float32.
MOST_FOLDED = 1 << 28
#: Before this operator set, axes were broadcast by attributes.
LEAST_OPSET = 7
#: What to do about a file that can't be read.
HINT = "Recipes need a model that is read as a torch module; the candidates without a recipe don't."


class OnnxModule(nn.Module):
    """What was read. ``forward`` takes the file's inputs in order and returns its outputs: one, or a tuple."""

    def __init__(self, root: nn.Module, graph: fx.Graph) -> None:
        super().__init__()
        self._modules, self._parameters, self._buffers = root._modules, root._parameters, root._buffers
        code = graph.python_code("self")
        names = dict(code.globals)
        exec(code.src, names)  # noqa: S102 - written by torch.fx from the graph, whose names are identifiers
        # A plain method of this object: it is copied with it.
        self.forward = types.MethodType(names["forward"], self)


def read_module(model: Any) -> OnnxModule:
    """Return the model (an ``onnx.ModelProto`` as ``load_onnx`` gives it) as a torch module in eval mode.

    Inputs are those of the graph, in its order; the axis that is called ``batch`` is the batch. Raises ``ModelError``
    naming the node that can't be read.
    """
    if model.functions:
        model = inliner.inline_local_functions(model)
    with torch.random.fork_rng(devices=[]):
        return _Reader(model).read()


class _Reader:
    def __init__(self, model: Any) -> None:
        self.graph = model.graph
        self.opsets = list(model.opset_import)
        self.opset = max((o.version for o in self.opsets if o.domain in {"", "ai.onnx"}), default=1)
        self.outputs = [value.name for value in self.graph.output]
        reads = Counter(name for node in self.graph.node for name in node.input)
        reads.update(self.outputs)
        self.used = frozenset(reads)
        self.only = frozenset(name for name, count in reads.items() if count == 1)
        self.builder = Builder()
        self.values: dict[str, Content] = {
            tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in self.graph.initializer
        }

    def read(self) -> OnnxModule:
        if self.opset < LEAST_OPSET:
            raise ModelError(
                f"The ONNX file is of opset {self.opset}, and files can be read as torch from {LEAST_OPSET} on.",
                hint="Export it again, or convert it by onnx.version_converter.",
            )
        for value in self.graph.input:
            self.values[value.name] = self._input(value)
        for node in self.graph.node:
            self._put(node, self._read(node))
        missing = [name for name in self.outputs if name not in self.values]
        if missing:
            raise ModelError(f"Output {missing[0]!r} can't be read as torch: no node gives it.", hint=HINT)
        outputs = [self.builder.tensor(self.values[name], name) for name in self.outputs]
        self.builder.graph.output(outputs[0] if len(outputs) == 1 else tuple(outputs))
        self.builder.graph.eliminate_dead_code()
        _drop_unused(self.builder)
        return OnnxModule(self.builder.root, self.builder.graph).eval()

    def _input(self, value: Any) -> fx.Node:
        tensor = value.type.tensor_type
        if not tensor.HasField("shape"):
            raise ModelError(f"Of input {value.name!r} the file says no shape.", hint=HINT)
        shape = [dim.dim_value if dim.dim_value > 0 else dim.dim_param or "?" for dim in tensor.shape.dim]
        try:
            return self.builder.input(value.name, shape, torch_dtype(tensor.elem_type), BATCH_AXIS)
        except Unreadable as why:
            raise ModelError(f"Input {value.name!r} can't be read as torch: it {why}.", hint=HINT) from why

    def _put(self, node: Any, result: Any) -> None:
        results = result if isinstance(result, tuple) else (result,)
        for name, each in zip(node.output, results, strict=False):
            if name:
                self.values[name] = each

    def _read(self, node: Any) -> Any:
        unknown = [name for name in node.input if name and name not in self.values]
        if unknown:
            raise _refused(node, f"reads {unknown[0]!r}, which is neither an input of the project nor computed before")
        values = tuple(self.values[name] if name else None for name in node.input)
        call = Call(node=node, values=values, builder=self.builder, opset=self.opset, only=self.only)
        try:
            if node.domain not in {"", "ai.onnx"}:
                raise Unreadable(f"is an operator of {node.domain}")
            if all(value is None or isinstance(value, np.ndarray) for value in values) and not any(bodies_of(node)):
                return self._folded(node, values)
            on_sizes = arithmetic.on_sizes(call)
            if on_sizes is not None:
                return on_sizes
            if node.op_type not in OPERATORS:
                raise Unreadable("is an operator that isn't known")
            result = OPERATORS[node.op_type](call)
            if not isinstance(result, tuple):
                call.needs_one_output(self.used)
        except EdgebuildError:
            raise
        except Unreadable as why:
            raise _refused(node, str(why)) from why
        except Exception as error:  # torch's own, while a call is tried on shapes
            text = str(error).splitlines()[0][:200] if str(error) else ""
            raise _refused(node, f"fails in torch: {type(error).__name__}: {text}") from error
        return result

    def _folded(self, node: Any, values: tuple[Any, ...]) -> tuple[np.ndarray[Any, Any], ...]:
        """Return what a node makes of constants."""
        if node.op_type == "ConstantOfShape" and np.prod(values[0], dtype=np.float64) > MOST_FOLDED:
            raise Unreadable("makes a constant that is too large")
        known: Mapping[str, Any] = dict(zip(node.input, values, strict=True))
        stored = [onnx.numpy_helper.from_array(value, name) for name, value in known.items() if name]
        outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
        graph = onnx.helper.make_graph([node], "constant", [], outputs, stored)
        model = onnx.helper.make_model(graph, opset_imports=self.opsets)
        results = iter(ReferenceEvaluator(model).run(None, {}))
        return tuple(np.asarray(next(results)) if name else np.zeros(0) for name in node.output)


def _refused(node: Any, why: str) -> ModelError:
    return ModelError(f"Node {label_of(node)!r}, a {node.op_type}, can't be read as torch: it {why}.", hint=HINT)


def _drop_unused(builder: Builder) -> None:
    """Take away weights of what nothing reads."""
    used = {str(node.target) for node in builder.graph.nodes if node.op in {"call_module", "get_attr"}}
    root = builder.root
    for held in (root._modules, root._parameters, root._buffers):
        for name in set(held) - used:
            del held[name]
