"""Names in the graphs that we write: checked at the one place where they are saved, and always free."""

from __future__ import annotations

import ast
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import edgebuild
from edgebuild.backends.trt import typed
from edgebuild.core.artifact import Int8Scheme
from edgebuild.errors import ModelError
from edgebuild.models import qdq
from edgebuild.models.exits import cut
from edgebuild.models.host_session import HostSession
from edgebuild.models.onnx_graphs import Names, fault_of, graphs_of, save, serialised, settle, tidy
from edgebuild.quantisers.fp16_storage import to_half_storage
from edgebuild.quantisers.own.arithmetic import affine, encode, weight_scale
from edgebuild.quantisers.own.graph import Graph
from edgebuild.quantisers.own.placement import place
from edgebuild.quantisers.own.simulator import QuantisationState, Simulator, float_numbers
from edgebuild.quantisers.own.writer import write
from tests.models import nets
from tests.models.test_exits import head, whole
from tests.techniques.nets import residual_net, stateful_net, token_net

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

#: Who may turn a graph into bytes.
SAVER = "models/onnx_graphs.py"


class TestFaults:
    def two_initialisers(self) -> Any:
        net = nets.dense()
        net.graph.initializer.append(nets.tensor("w", 6, 2, seed=1))
        return net

    def made_twice(self) -> Any:
        net = nets.dense()
        net.graph.node.append(helper.make_node("Relu", ["x"], ["y"]))
        return net

    def hides_an_initialiser(self) -> Any:
        net = nets.dense()
        net.graph.node.insert(0, helper.make_node("Relu", ["x"], ["w"]))
        return net

    def two_nodes(self) -> Any:
        net = nets.dense()
        net.graph.node.append(helper.make_node("Relu", ["y"], ["z"], name="dense"))
        return net

    def listed_as_input(self) -> Any:
        net = nets.dense()
        net.graph.input.append(nets.value("w", [6, 2]))
        return net

    def read_from_nowhere(self) -> Any:
        net = nets.dense()
        net.graph.node[0].input[0] = "elsewhere"
        return net

    def read_too_early(self) -> Any:
        net = nets.dense()
        net.graph.node.insert(0, helper.make_node("Relu", ["y"], ["z"]))
        return net

    def nothing_made(self) -> Any:
        net = nets.dense()
        net.graph.output[0].name = "z"
        return net

    def hidden_in_a_branch(self) -> Any:
        net = nets.branching()
        net.graph.node[2].attribute[0].g.initializer[0].name = "x"
        return net

    def hidden_in_a_body(self) -> Any:
        net = nets.looping()
        net.graph.node[2].attribute[0].g.input[0].name = "x"
        return net

    def hidden_in_a_function(self) -> Any:
        net = nets.dense()
        nodes = [helper.make_node("Add", ["a", "a"], ["b"]), helper.make_node("Neg", ["a"], ["b"])]
        net.functions.append(helper.make_function("f", "F", ["a"], ["b"], nodes, [helper.make_opsetid("", 17)]))
        return net

    @pytest.mark.parametrize(
        ("make", "words"),
        [
            (two_initialisers, "two values are named 'w'"),
            (made_twice, "two values are named 'y'"),
            (hides_an_initialiser, "two values are named 'w'"),
            (two_nodes, "two nodes are named 'dense'"),
            (listed_as_input, "two values are named 'w'"),
            (read_from_nowhere, "node 'dense' reads 'elsewhere', which nothing before it makes"),
            (read_too_early, "node 'Relu of z' reads 'y', which nothing before it makes"),
            (nothing_made, "nothing makes the output 'z'"),
            (hidden_in_a_branch, "two values are named 'x'"),
            (hidden_in_a_body, "two values are named 'x'"),
            (hidden_in_a_function, "two values are named 'b'"),
        ],
    )
    def test_a_fault_is_never_written_and_says_whose_it_is(self, make: Any, words: str, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="someone wrote a graph") as caught:
            save(make(self), tmp_path / "m.onnx", writer="someone")
        assert words in caught.value.message
        assert "someone's" in caught.value.hint
        assert not (tmp_path / "m.onnx").exists()

    @pytest.mark.parametrize("make", [nets.dense, nets.conv, nets.branching, nets.looping, stateful_net])
    def test_sound_graphs_have_none(self, make: Callable[[], Any]) -> None:
        assert fault_of(make()) is None

    @pytest.mark.parametrize("make", [listed_as_input, two_nodes, read_too_early])
    def test_what_is_only_form_is_mended(self, make: Any, tmp_path: Path) -> None:
        net = make(self)
        feeds = {"x": np.ones((1, 6), np.float32)}
        expected = HostSession(nets.dense())(feeds)["y"]
        onnx.save(net, str(tmp_path / "m.onnx"))
        settle(tmp_path / "m.onnx", writer="someone")
        written = onnx.load(str(tmp_path / "m.onnx"))
        assert fault_of(written) is None
        assert np.array_equal(HostSession(written)(feeds)["y"], expected)

    def test_nodes_in_a_circle_stay_a_fault(self) -> None:
        nodes = [helper.make_node("Relu", ["b"], ["a"]), helper.make_node("Relu", ["a"], ["b"])]
        assert fault_of(tidy(nets.model(nodes, [nets.value("x", [1])], [nets.value("b", [1])]))) is not None

    def test_a_sound_file_of_another_s_is_left_as_it_is(self, tmp_path: Path) -> None:
        path = tmp_path / "m.onnx"
        onnx.save(nets.conv(), str(path))
        before = path.read_bytes(), path.stat().st_mtime_ns
        settle(path, writer="someone")
        assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_nobody_else_turns_a_graph_into_bytes() -> None:
    package = Path(edgebuild.__file__).parent
    found = [
        f"{path.relative_to(package)}:{call.lineno}"
        for path in sorted(package.rglob("*.py"))
        if str(path.relative_to(package)) != SAVER
        for call in writing_calls(ast.parse(path.read_text("utf-8")))
    ]
    assert found == []


def writing_calls(tree: ast.AST) -> list[ast.Call]:
    """Calls of onnx.save and SerializeToString, but for copies: ``FromString(….SerializeToString())``."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    named = {id(call): call.func.attr for call in calls if isinstance(call.func, ast.Attribute)}
    copied = {id(arg) for call in calls if named[id(call)] == "FromString" for arg in call.args}
    return [
        call
        for call in calls
        if (named[id(call)] == "SerializeToString" and id(call) not in copied)
        or (named[id(call)] in {"save", "save_model"} and ast.unparse(call.func).startswith("onnx."))
    ]


def test_names_are_given_as_asked_while_they_are_free() -> None:
    names = Names(nets.branching())
    assert [names.value("y") for _ in range(2)] == ["y_2", "y_3"]
    assert names.value("by_twice") == "by_twice_2"  # a name in a branch
    assert [names.value("new") for _ in range(2)] == ["new", "new_2"]
    assert names.node("new") == "new"  # nodes and values have names apart


# Every writer, on models whose own names are the ones that the writer would make up.

SCHEME = Int8Scheme(activations="uint8", weights="int8", per_channel=True, symmetric_activations=False)


def values_of(model: Any) -> list[str]:
    """Every value's name, in order."""
    found: dict[str, None] = {}
    for graph in graphs_of(model.graph):
        for name in [v.name for v in graph.input] + [t.name for t in graph.initializer]:
            found[name] = None
        for node in graph.node:
            found.update(dict.fromkeys(node.output))
    found.pop("", None)
    return list(found)


def nodes_of(model: Any) -> list[str]:
    return [node.name for graph in graphs_of(model.graph) for node in graph.node if node.name]


def renamed(model: Any, values: Mapping[str, str], nodes: Mapping[str, str]) -> Any:
    """A copy with other names."""
    copy = type(model).FromString(model.SerializeToString())
    for graph in graphs_of(copy.graph):
        for each in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
            each.name = values.get(each.name, each.name)
        for node in graph.node:
            node.name = nodes.get(node.name, node.name)
            node.input[:] = [values.get(name, name) for name in node.input]
            node.output[:] = [values.get(name, name) for name in node.output]
    return copy


def clashing(model: Any, written: Any, seed: int) -> Any:
    """The model with some of its names (not its inputs' and outputs') taken from those that a writer made up."""
    chance = random.Random(seed)
    ends = {value.name for value in (*model.graph.input, *model.graph.output)}

    def mapping(own: list[str], made: list[str]) -> dict[str, str]:
        fresh = sorted(set(made) - set(own) - ends)
        moved = chance.sample(own, min(len(own), len(fresh), chance.randint(1, len(own)))) if own and fresh else []
        return dict(zip(moved, chance.sample(fresh, len(moved)), strict=True))

    values = mapping([name for name in values_of(model) if name not in ends], values_of(written))
    return renamed(model, values, mapping(nodes_of(model), nodes_of(written)))


def quantised(model: Any) -> Any:
    graph = Graph(onnx.shape_inference.infer_shapes(model))
    placement = place(graph, SCHEME)
    return write(graph, placement, numbers_of(graph, placement), SCHEME)


def numbers_of(graph: Graph, placement: Any) -> QuantisationState:
    numbers = float_numbers(graph, placement)
    codes = {
        op.name: encode(
            numbers.weights[op.name], weight_scale(numbers.weights[op.name], op.axis, SCHEME, 0.0), op.axis, SCHEME
        )
        for op in placement.ops
    }
    return QuantisationState(
        weights=numbers.weights,
        float_biases=numbers.float_biases,
        biases=numbers.biases,
        ranges={group: affine(-4.0, 4.0, SCHEME) for group in placement.groups},
        codes=codes,
    )


def halves(model: Any) -> Any:
    copy = qdq.copy_of(model)
    to_half_storage(copy)
    return copy


def typed_halves(model: Any) -> Any:
    copy = qdq.copy_of(model)
    typed.to_half(copy)
    return copy


def shown(model: Any) -> Any:
    graph = qdq.QdqGraph(model)
    return qdq.with_shown(graph, dict.fromkeys(graph.quantised, (1,)))


def nudged(model: Any) -> Any:
    graph = qdq.QdqGraph(model)
    return qdq.with_nudges(graph, graph.quantised)


def given(model: Any) -> Any:
    graph = qdq.QdqGraph(model)
    return qdq.with_given(graph, graph.quantised)


def feeds_of(model: Any) -> dict[str, Any]:
    """Random inputs; what a variant adds to them (codes, nudges) is zero."""
    chance = np.random.default_rng(5)
    feeds = {}
    for value in model.graph.input:
        kind, dims = value.type.tensor_type.elem_type, [d.dim_value or 1 for d in value.type.tensor_type.shape.dim]
        if kind == TensorProto.FLOAT:
            feeds[value.name] = chance.standard_normal(dims).astype(np.float32)
        else:
            feeds[value.name] = chance.integers(0, 4, dims).astype(helper.tensor_dtype_to_np_dtype(kind))
    return feeds


def answers(model: Any, original: Any) -> list[Any]:
    """What a written model gives for the original's outputs."""
    fed = feeds_of(original)
    shapes = qdq.shapes_of(model)
    for value in model.graph.input:
        if value.name not in fed:
            kind = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
            source = next(n for n in shapes if value.name in (f"{n} given", f"{n} nudge") or value.name.startswith(n))
            fed[value.name] = np.zeros(shapes[source], kind)
    found = HostSession(model)(fed)
    return [found[value.name] for value in original.graph.output]


WRITERS: dict[str, tuple[Callable[[Any], Any], Callable[[], Any]]] = {
    "quantise-residual": (quantised, residual_net),
    "quantise-tokens": (quantised, token_net),
    "quantise-branches": (quantised, stateful_net),
    "half": (halves, residual_net),
    "half-branches": (halves, stateful_net),
    "typed": (typed_halves, stateful_net),
    "typed-residual": (typed_halves, residual_net),
    "shown": (shown, lambda: quantised(residual_net())),
}


@pytest.mark.parametrize("case", WRITERS)
def test_a_model_s_own_names_never_collide_with_made_up_ones(case: str) -> None:
    writer, make = WRITERS[case]
    model = make()
    written = writer(model)
    assert set(values_of(written)) - set(values_of(model)), "it makes up no names"
    expected = answers(written, model)
    for seed in range(12):
        other = writer(clashing(model, written, seed))
        serialised(other)
        for got, right in zip(answers(other, model), expected, strict=True):
            np.testing.assert_array_equal(got, right, err_msg=f"seed {seed}")


@pytest.mark.parametrize("writer", [nudged, given])
def test_what_the_cross_check_adds_never_collides(writer: Callable[[Any], Any]) -> None:
    model = quantised(residual_net())
    written = writer(model)
    for seed in range(12):
        other = writer(clashing(model, written, seed))
        assert len(serialised(other)) > 0
        assert len(HostSession(other).inputs) == len(written.graph.input)


def test_the_simulator_s_names_never_collide() -> None:
    model = onnx.shape_inference.infer_shapes(residual_net())

    def run(net: Any) -> tuple[Any, Any]:
        graph = Graph(net)
        placement = place(graph, SCHEME)
        simulator = Simulator(graph, placement, SCHEME)
        return simulator, simulator.run(numbers_of(graph, placement), feeds_of(model))["logits"]

    simulator, expected = run(model)
    made = nets.model([helper.make_node("Identity", ["x"], [name]) for name in simulator._slots.names], [], [])
    for seed in range(12):
        np.testing.assert_array_equal(run(clashing(model, made, seed))[1], expected)


def test_exits_never_collide() -> None:
    model = whole()
    heads = (head("a", confidence="entropy"), head("b", confidence="entropy"))
    parts = cut(model, heads)

    def run(parts: Any) -> list[Any]:
        values = {"x": np.ones((1, 6), np.float32)}
        found = []
        for part in parts:
            session = HostSession(part.model)
            values.update(session({name: values[name] for name in session.inputs}))
            found += [values[name] for name in (part.output, part.confidence) if name]
        return [*found, values["logits"]]

    made = nets.model(
        [helper.make_node("Identity", ["x"], [name]) for part in parts for name in values_of(part.model)], [], []
    )
    for seed in range(12):
        for got, right in zip(run(cut(clashing(model, made, seed), heads)), run(parts), strict=True):
            np.testing.assert_array_equal(got, right)
