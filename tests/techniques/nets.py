"""Small nets and data for the quantisers' tests, made with fixed seeds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgebuild.core.artifact import Contract, Int8Scheme, StateLink, TensorSpec
from edgebuild.core.data import Sample
from edgebuild.core.steps import NoProgress, StepContext, never_stop
from edgebuild.models.dataset import write_dataset

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

U8S8 = Int8Scheme(activations="uint8")


@dataclass
class Builder:
    """Adds nodes one after another; weights are seeded normals."""

    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(7))
    nodes: list[Any] = field(default_factory=list)
    weights: list[Any] = field(default_factory=list)
    constants_as_nodes: bool = False

    def constant(self, name: str, value: NDArray[Any]) -> str:
        if self.constants_as_nodes:
            self.nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value)))
        else:
            self.weights.append(numpy_helper.from_array(value, name))
        return name

    def weight(self, name: str, *shape: int, spread: float = 0.0) -> str:
        fan_in = max(int(np.prod(shape[1:])), 1)
        value = self.rng.normal(size=shape) / np.sqrt(fan_in)
        value *= np.exp(self.rng.normal(size=(shape[0], *[1] * (len(shape) - 1))) * spread)
        return self.constant(name, value.astype(np.float32))

    def add(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def conv(self, x: str, name: str, cin: int, cout: int, *, k: int = 3, groups: int = 1, spread: float = 0.0) -> str:
        w = self.weight(f"{name}_w", cout, cin // groups, k, k, spread=spread)
        b = self.constant(f"{name}_b", self.rng.normal(size=cout, scale=0.2).astype(np.float32))
        pad = k // 2
        return self.add("Conv", [x, w, b], name, kernel_shape=[k, k], pads=[pad] * 4, group=groups)

    def model(self, inputs: dict[str, Any], outputs: dict[str, list[Any]], *, opset: int = 17) -> Any:
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info(n, t, s) for n, (t, s) in inputs.items()],
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs.items()],
            initializer=self.weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
        onnx.checker.check_model(model, full_check=True)
        return model


IMAGE = {"image": (TensorProto.FLOAT, [1, 3, 8, 8])}


def residual_net(*, constants_as_nodes: bool = False, batch: int | str = 1) -> Any:
    """Conv, two residual convolutions, pooling, a classifier: what a ResNet has."""
    b = Builder(constants_as_nodes=constants_as_nodes)
    x = b.add("Relu", [b.conv("image", "stem", 3, 16)], "stem_relu")
    y = b.add("Relu", [b.conv(x, "c1", 16, 16)], "c1_relu")
    y = b.conv(y, "c2", 16, 16)
    x = b.add("Relu", [b.add("Add", [y, x], "sum")], "sum_relu")
    x = b.add("Flatten", [b.add("GlobalAveragePool", [x], "pool")], "flat")
    bias = b.constant("fc_b", b.rng.normal(size=5).astype(np.float32))
    b.add("Gemm", [x, b.weight("fc_w", 5, 16), bias], "logits", transB=1)
    return b.model({"image": (TensorProto.FLOAT, [batch, 3, 8, 8])}, {"logits": [batch, 5]})


def depthwise_net(*, clip: bool = False) -> Any:
    """Wide, depthwise, narrow; the depthwise channels differ in range by orders of magnitude."""
    b = Builder()

    def act(x: str, name: str) -> str:
        if not clip:
            return b.add("Relu", [x], name)
        return b.add("Clip", [x, "zero", "six"], name)

    if clip:
        b.constant("zero", np.array(0, np.float32))
        b.constant("six", np.array(6, np.float32))
    x = act(b.conv("image", "wide", 3, 16, k=1, spread=1.5), "wide_relu")
    x = act(b.conv(x, "deep", 16, 16, groups=16, spread=1.0), "deep_relu")
    x = b.conv(x, "narrow", 16, 8, k=1)
    x = b.add("Flatten", [b.add("GlobalAveragePool", [x], "pool")], "flat")
    b.add("MatMul", [x, b.weight("fc_w", 8, 4)], "logits")
    return b.model(IMAGE, {"logits": [1, 4]})


def token_net() -> Any:
    """Integer ids through an embedding, and a second float input; softmax at the end."""
    b = Builder()
    table = b.weight("table", 32, 8)
    x = b.add("Gather", [table, "ids"], "embedded")
    x = b.add("MatMul", [x, b.weight("up_w", 8, 16)], "up")
    x = b.add("Add", [x, b.constant("up_b", b.rng.normal(size=(1, 1, 16)).astype(np.float32))], "up_biased")
    x = b.add("ReduceMax", [b.add("Tanh", [x], "act")], "best", axes=[1], keepdims=0)
    x = b.add("Concat", [x, "extra"], "both", axis=1)
    x = b.add("Gemm", [x, b.weight("fc_w", 20, 6)], "scores")
    b.add("Softmax", [x], "probabilities", axis=-1)
    inputs = {"ids": (TensorProto.INT32, [1, 12]), "extra": (TensorProto.FLOAT, [1, 4])}
    return b.model(inputs, {"probabilities": [1, 6]})


def stateful_net() -> Any:
    """A state that leaks and is fed by a convolution; an If whose body holds a convolution of its own."""
    b = Builder()
    x = b.add("Relu", [b.conv("frame", "enc", 2, 4)], "enc_relu")
    x = b.add("Flatten", [b.add("GlobalAveragePool", [x], "pool")], "flat")
    half = b.constant("half", np.array(0.5, np.float32))
    x = b.add("Add", [b.add("Mul", ["state", half], "leak"), x], "state_out")
    total = b.add("ReduceSum", [x], "total", keepdims=0)
    condition = b.add("Greater", [total, half], "positive")
    body = [helper.make_node("MatMul", [x, "fc_w"], ["then_out"])]
    other = [helper.make_node("Neg", [x], ["n"]), helper.make_node("MatMul", ["n", "fc_w"], ["else_out"])]
    b.weight("fc_w", 4, 2)
    branches = {
        f"{kind}_branch": helper.make_graph(
            nodes, kind, [], [helper.make_tensor_value_info(f"{kind}_out", TensorProto.FLOAT, [1, 2])]
        )
        for kind, nodes in (("then", body), ("else", other))
    }
    b.add("If", [condition], "score", **branches)
    inputs = {"frame": (TensorProto.FLOAT, [1, 2, 5, 5]), "state": (TensorProto.FLOAT, [1, 4])}
    return b.model(inputs, {"score": [1, 2], "state_out": [1, 4]})


def _spec(value: Any) -> TensorSpec:
    kind = value.type.tensor_type
    shape = tuple(d.dim_param or d.dim_value for d in kind.shape.dim)
    return TensorSpec(name=value.name, shape=shape, dtype=helper.tensor_dtype_to_np_dtype(kind.elem_type).name)


def contract_of(model: Any, state: tuple[tuple[str, str], ...] = ()) -> Contract:
    links = tuple(StateLink(input=i, output=o) for i, o in state)
    inputs, outputs = [_spec(v) for v in model.graph.input], [_spec(v) for v in model.graph.output]
    return Contract(
        inputs=tuple(s for s in inputs if s.name not in {i for i, _ in state}),
        outputs=tuple(s for s in outputs if s.name not in {o for _, o in state}),
        state=links,
        state_specs=tuple(s for s in inputs if s.name in {i for i, _ in state}),
    )


def random_array(spec: TensorSpec, rng: np.random.Generator, steps: int | None = None) -> NDArray[Any]:
    shape = [d if isinstance(d, int) else 1 for d in spec.shape[1:]]
    if steps is not None:
        shape = [steps, *shape]
    if spec.dtype.startswith("int"):
        return rng.integers(0, 32, size=shape).astype(spec.dtype)
    return (rng.normal(size=shape) + 0.3).astype(spec.dtype)


def write_project(
    folder: Path, model: Any, *, state: tuple[tuple[str, str], ...] = (), samples: int = 30
) -> tuple[dict[str, Path], Contract]:
    """Write model and calibration data as a quantiser step takes them."""
    (folder / "model").mkdir(parents=True)
    (folder / "calibration").mkdir()
    onnx.save(model, str(folder / "model" / "model.onnx"))
    contract = contract_of(model, state)
    rng = np.random.default_rng(3)
    steps = 6 if state else None
    data = (Sample(inputs={s.name: random_array(s, rng, steps) for s in contract.inputs}) for _ in range(samples))
    write_dataset(
        data,
        folder / "calibration",
        specs=contract.inputs,
        stateful=bool(state),
        source="calibration",
        task=NoProgress(),
        check=never_stop,
    )
    return {"model": folder / "model", "calibration": folder / "calibration"}, contract


def context(folder: Path) -> StepContext:
    return StepContext(progress=NoProgress(), check=never_stop, seed=0, scratch=folder)


def run_model(path: Path, feeds: dict[str, NDArray[Any]], *, optimised: bool = False) -> list[NDArray[Any]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    outputs: list[NDArray[Any]] = session.run(None, feeds)
    return outputs


def optimised_ops(path: Path, target: Path) -> list[str]:
    """The ops that onnxruntime really runs."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(target)
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(str(target)).graph.node]


def sqnr_db(expected: NDArray[Any], got: NDArray[Any]) -> float:
    noise = float(np.sum((expected.astype(np.float64) - got) ** 2))
    return float("inf") if noise == 0 else 10 * float(np.log10(np.sum(expected.astype(np.float64) ** 2) / noise))
