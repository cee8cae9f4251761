"""ONNX files as they come from the world."""

from __future__ import annotations

import importlib.util
import os
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgebuild.catalogue.starter import starter_from_onnx
from edgebuild.core.artifact import ConstantInput, Contract, StateLink, TensorSpec
from edgebuild.errors import ModelError
from edgebuild.models.freezing import freeze, shipped_contract, simplify
from edgebuild.models.host_session import HostSession
from edgebuild.models.onnx_files import (
    OnnxFacts,
    count_macs,
    custom_domains,
    external_files,
    load_onnx,
    read_facts,
)
from tests import needs
from tests.models import nets

if TYPE_CHECKING:
    from collections.abc import Callable


def saved(model: Any, path: Path) -> Path:
    onnx.save(model, str(path))
    return path


def refused(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load_onnx(path)
    assert caught.value.hint
    return caught.value.message


def run(model: Any, folder: Path, **feeds: Any) -> dict[str, Any]:
    return HostSession(saved(model, folder / "run.onnx"))({k: np.asarray(v) for k, v in feeds.items()})


class TestLoading:
    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        assert refused(tmp_path / "no.onnx") == f"{tmp_path / 'no.onnx'}: no such model file."
        assert refused(tmp_path) == f"{tmp_path}: is no regular file."

    @pytest.mark.parametrize("junk", [b"hello, I am a text file\n", b"<!DOCTYPE html>", b"version https://git-lfs"])
    def test_a_file_that_is_something_else(self, junk: bytes, tmp_path: Path) -> None:
        path = tmp_path / "model.onnx"
        path.write_bytes(junk)
        assert f"{path} can't be read as ONNX" in refused(path)

    @pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
    def test_a_truncated_file(self, share: float, tmp_path: Path) -> None:
        whole = nets.conv().SerializeToString()
        (path := tmp_path / "model.onnx").write_bytes(whole[: int(len(whole) * share)])
        assert str(path) in refused(path)

    def test_a_file_larger_than_onnx_allows(self, tmp_path: Path) -> None:
        path = tmp_path / "model.onnx"
        with path.open("wb") as file:
            file.truncate(1 << 31)
        assert refused(path) == f"{path} is larger than the 2 GB that an ONNX file can have."

    def test_an_empty_file_and_an_empty_graph(self, tmp_path: Path) -> None:
        (path := tmp_path / "model.onnx").write_bytes(b"")
        assert refused(path) == f"{path} holds no operators."
        saved(nets.model([], [nets.value("x", [1])], [nets.value("x", [1])]), path)
        assert refused(path) == f"{path} holds no operators."

    def test_an_operator_that_its_opset_lacks_is_named_with_its_node(self, tmp_path: Path) -> None:
        node = helper.make_node("Frobnicate", ["x"], ["y"], name="n1")
        path = saved(nets.model([node], [nets.value("x", [1])], [nets.value("y", [1])]), tmp_path / "m.onnx")
        assert "node 'n1' is a 'Frobnicate', which opset 17 of 'ai.onnx' doesn't have" in refused(path)

    def test_an_unknown_operator_inside_a_branch_is_found(self, tmp_path: Path) -> None:
        net = nets.branching()
        net.graph.node[2].attribute[0].g.node[0].op_type = "Frobnicate"
        assert "'Frobnicate'" in refused(saved(net, tmp_path / "m.onnx"))

    def test_operators_of_other_domains_are_told_and_left_to_who_knows_them(self, tmp_path: Path) -> None:
        nodes = [
            helper.make_node("Foo", ["x"], ["a"], domain="my.ops"),
            helper.make_node("Gelu", ["a"], ["y"], domain="com.microsoft"),
        ]
        net = nets.model(nodes, [nets.value("x", [1])], [nets.value("y", [1])], domains=["my.ops", "com.microsoft"])
        assert custom_domains(read_facts(load_onnx(saved(net, tmp_path / "m.onnx")))) == ("my.ops",)

    def test_a_function_of_the_model_is_no_unknown_operator(self, tmp_path: Path) -> None:
        net = nets.model(
            [helper.make_node("Twice", ["x"], ["y"], domain="")], [nets.value("x", [1])], [nets.value("y", [1])]
        )
        body = [helper.make_node("Add", ["a", "a"], ["b"])]
        net.functions.append(helper.make_function("", "Twice", ["a"], ["b"], body, [helper.make_opsetid("", 17)]))
        load_onnx(saved(net, tmp_path / "m.onnx"))


class TestExternalData:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        folder = tmp_path / "model"
        folder.mkdir()
        onnx.save(nets.dense(), str(folder / "m.onnx"), save_as_external_data=True, location="m.bin", size_threshold=0)
        return folder / "m.onnx"

    def moved_to(self, path: Path, location: str) -> Path:
        net = onnx.load(str(path), load_external_data=False)
        entry = next(e for e in net.graph.initializer[0].external_data if e.key == "location")
        entry.value = location
        path.write_bytes(net.SerializeToString())
        return path

    def test_it_is_listed_and_taken_in(self, path: Path) -> None:
        assert external_files(path) == (path.parent / "m.bin",)
        (weight,) = load_onnx(path).graph.initializer
        assert onnx.numpy_helper.to_array(weight).shape == (6, 2)
        assert weight.data_location == TensorProto.DEFAULT

    @pytest.mark.parametrize("where", ["constant", "branch"])
    def test_it_is_listed_and_taken_in_wherever_the_model_holds_it(self, where: str, tmp_path: Path) -> None:
        net = nets.conv() if where == "constant" else nets.branching()
        node = net.graph.node[0 if where == "constant" else 2]
        weight = node.attribute[0].t if where == "constant" else node.attribute[0].g.initializer[0]
        data = weight.raw_data
        (tmp_path / "weight.bin").write_bytes(data)
        onnx.external_data_helper.set_external_data(weight, "weight.bin")
        weight.ClearField("raw_data")
        path = saved(net, tmp_path / "m.onnx")
        assert external_files(path) == (tmp_path / "weight.bin",)
        assert data in load_onnx(path).SerializeToString()

    def test_it_is_missing(self, path: Path) -> None:
        (path.parent / "m.bin").unlink()
        assert f"{path}: its external data can't be read" in refused(path)
        assert external_files(path) == ()

    def test_it_is_cut_short(self, path: Path) -> None:
        data = (path.parent / "m.bin").read_bytes()
        (path.parent / "m.bin").write_bytes(data[:20])
        assert f"{path}: its external data can't be read" in refused(path)

    def test_it_is_larger_than_one_file_can_be_and_is_not_read(self, path: Path) -> None:
        net = onnx.load(str(path), load_external_data=False)
        net.graph.initializer.append(net.graph.initializer[0])
        net.graph.initializer[1].dims[:] = [1 << 15, 1 << 14]
        path.write_bytes(net.SerializeToString())
        (path.parent / "m.bin").unlink()
        assert refused(path) == f"{path} and its external data are larger than 2 GB."

    @pytest.mark.parametrize("location", ["../m.bin", "sub/../../m.bin", "{outside}"])
    def test_it_never_leaves_the_model_s_folder(self, location: str, path: Path) -> None:
        outside = path.parent.parent / "m.bin"
        outside.write_bytes((path.parent / "m.bin").read_bytes())
        (path.parent / "sub").mkdir()
        moved = self.moved_to(path, location.format(outside=outside))
        assert "external data can't be read" in refused(moved)

    def test_links_of_the_file_system_are_followed_as_in_caches_of_blobs(self, path: Path) -> None:
        blobs, snapshot = path.parent.parent / "blobs", path.parent.parent / "snapshot"
        for folder in (blobs, snapshot):
            folder.mkdir()
        for blob, file in (("0a", path), ("0b", path.parent / "m.bin")):
            file.rename(blobs / blob)
            (snapshot / file.name).symlink_to(Path("..") / "blobs" / blob)
        (weight,) = load_onnx(snapshot / "m.onnx").graph.initializer
        assert onnx.numpy_helper.to_array(weight).shape == (6, 2)
        assert external_files(snapshot / "m.onnx") == (snapshot / "m.bin",)

    def test_it_lies_beside_what_the_model_is_a_link_to(self, path: Path) -> None:
        (link := path.parent.parent / "linked.onnx").symlink_to(path)
        assert load_onnx(link).graph.initializer[0].raw_data
        assert external_files(link) == (path.parent / "m.bin",)

    @pytest.mark.parametrize("kind", ["fifo", "folder", "device"])
    def test_only_a_regular_file_is_read(self, kind: str, path: Path) -> None:
        data = path.parent / "m.bin"
        data.unlink()
        if kind == "fifo":
            os.mkfifo(data)
        elif kind == "folder":
            data.mkdir()
        else:
            data.symlink_to("/dev/zero")
        assert "isn't a regular file" in refused(path)
        assert external_files(path) == ()

    @pytest.mark.parametrize("key", ["offset", "length"])
    @pytest.mark.parametrize("wrong", ["-1", "x", "", "99999999999999999999", "\u00b2"])
    def test_a_place_that_means_nothing_is_refused(self, key: str, wrong: str, path: Path) -> None:
        net = onnx.load(str(path), load_external_data=False)
        next(e for e in net.graph.initializer[0].external_data if e.key == key).value = wrong
        path.write_bytes(net.SerializeToString())
        assert "external data can't be read" in refused(path)


class TestFacts:
    def test_weights_in_constant_nodes_count(self) -> None:
        facts = read_facts(nets.conv())
        assert facts.parameters == 4 * 3 * 9 + 4 * 2 * 9 + 5 * 4 + 4 * 4
        assert facts.weight_bytes == 4 * facts.parameters
        assert facts.inputs == (TensorSpec(name="x", shape=("batch", 3, 8, 8), dtype="float32"),)
        assert facts.outputs == (TensorSpec(name="y", shape=("batch", 5), dtype="float32"),)
        assert (facts.opset, facts.control_flow, dict(facts.ops)["Conv"]) == (17, False, 2)

    def test_weights_in_branches_count(self) -> None:
        facts = read_facts(nets.branching())
        assert facts.control_flow
        assert dict(facts.ops) == {"Constant": 1, "Equal": 1, "If": 1, "Mul": 2}
        assert facts.parameters == 3
        assert facts.weight_bytes == 2 * 4 + 8

    def test_integer_inputs_and_several_of_them(self) -> None:
        tokens, bias = read_facts(nets.embedding()).inputs
        assert tokens == TensorSpec(name="tokens", shape=("batch", "length"), dtype="int32")
        assert bias.name == "bias"

    def test_initializers_listed_as_inputs_are_no_inputs(self) -> None:
        net = nets.dense()
        net.graph.input.append(nets.value("w", [6, 2]))
        assert [spec.name for spec in read_facts(net).inputs] == ["x"]

    def test_an_axis_without_a_name_or_of_size_minus_one_is_dynamic(self) -> None:
        net = nets.dense()
        dims = net.graph.input[0].type.tensor_type.shape.dim
        dims[0].Clear()
        dims[1].dim_value = -1
        assert read_facts(net).inputs[0].shape == ("axis0", "axis1")

    @pytest.mark.parametrize(
        ("kind", "words"),
        [
            (TensorProto.STRING, "element type string"),
            (TensorProto.BFLOAT16, "element type bfloat16"),
            (TensorProto.UNDEFINED, "element type that ONNX doesn't define"),
        ],
    )
    def test_an_input_that_nobody_can_feed_is_named(self, kind: int, words: str) -> None:
        node = helper.make_node("Identity", ["words"], ["y"])
        net = nets.model([node], [nets.value("words", [1], kind)], [nets.value("y", [1], kind)])
        with pytest.raises(ModelError, match=f"'words' has (an|the) {words}"):
            read_facts(net)

    def test_an_input_without_a_shape_is_told(self) -> None:
        net = nets.dense()
        net.graph.input[0].type.tensor_type.ClearField("shape")
        facts = read_facts(net)
        assert facts.unranked == ("x",)
        starter = starter_from_onnx("p", "m.onnx", facts.inputs, facts.outputs, unranked=facts.unranked)
        assert 'shape = ["batch"]               # FILL IN: the file doesn\'t say the shape' in starter
        assert "batch = 1" in starter
        tomllib.loads(starter)

    def test_a_model_that_is_quantised_already_is_recognised(self) -> None:
        facts = read_facts(partly_quantised())
        assert facts.quantisable == 1
        (note,) = facts.notes
        assert "quantised already (1 DequantizeLinear)" in note

    @pytest.mark.parametrize("op", ["QLinearConv", "MatMulInteger", "DynamicQuantizeLinear"])
    def test_integer_arithmetic_is_recognised(self, op: str) -> None:
        net = nets.dense()
        net.graph.node.append(helper.make_node(op, [], []))
        assert f"1 {op}" in read_facts(net).notes[0]

    @pytest.mark.parametrize(
        ("kind", "counted", "words"),
        [(TensorProto.FLOAT16, 1, "float16: widened to float32"), (TensorProto.BFLOAT16, 0, "bfloat16: layers that")],
    )
    def test_half_weights_are_told_and_counted_where_they_are_widened(
        self, kind: int, counted: int, words: str
    ) -> None:
        net = nets.dense()
        net.graph.initializer[0].CopyFrom(helper.make_tensor("w", kind, [6, 2], [0.5] * 12))
        facts = read_facts(net)
        assert (facts.quantisable, facts.dense_bytes) == (counted, counted * 24)
        assert facts.notes[0].startswith(f"12 of the model's weights are {words}")

    def test_a_sequence_is_no_tensor(self) -> None:
        sequence = helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, [2])
        node = helper.make_node("SequenceLength", ["s"], ["y"])
        with pytest.raises(ModelError, match="'s' is a sequence, not a tensor"):
            read_facts(nets.model([node], [sequence], [nets.value("y", [], TensorProto.INT64)]))

    def test_an_output_that_is_text_can_be_left_out_where_there_are_others(self) -> None:
        net = nets.dense()
        net.graph.output.append(nets.value("label", ["batch"], TensorProto.STRING))
        with pytest.raises(ModelError, match="'label' has the element type string") as caught:
            read_facts(net)
        assert "extract_model('MODEL.onnx', 'NEW.onnx', ['x'], ['y'])" in caught.value.hint


def partly_quantised() -> Any:
    """A matrix product whose weight is stored in 8 bits, then a float one."""
    net = nets.dense()
    codes = numpy_helper.from_array(np.arange(4, dtype=np.int8).reshape(2, 2), "codes")
    net.graph.initializer.extend(
        [codes, numpy_helper.from_array(np.array(0.5, np.float32), "scale"), nets.tensor("v", 2, 3)]
    )
    net.graph.node.extend(
        [
            helper.make_node("DequantizeLinear", ["codes", "scale"], ["kernel"]),
            helper.make_node("MatMul", ["y", "kernel"], ["h"], name="stored"),
            helper.make_node("MatMul", ["h", "v"], ["z"], name="float"),
        ]
    )
    net.graph.node.remove(net.graph.node[0])
    net.graph.node.insert(0, helper.make_node("Identity", ["x"], ["y"]))
    net.graph.input[0].CopyFrom(nets.value("x", [1, 2]))
    net.graph.output[0].CopyFrom(nets.value("z", [1, 3]))
    return net


class TestMacs:
    def test_convolutions_groups_and_gemm_by_hand(self) -> None:
        frozen = freeze(nets.conv(), shapes={"x": (2, 3, 8, 8)}, constants=())
        stem, grouped, head = 2 * 4 * 4 * 4 * 3 * 9, 2 * 4 * 2 * 2 * 2 * 9, 2 * 5 * 4
        assert count_macs(frozen) == read_facts(frozen).macs == stem + grouped + head

    def test_matrix_products_by_hand(self) -> None:
        assert count_macs(nets.dense(7)) == 7 * 6 * 2

    def test_gemm_without_transposition(self) -> None:
        node = helper.make_node("Gemm", ["x", "w"], ["y"])
        net = nets.model([node], [nets.value("x", [3, 6])], [nets.value("y", [3, 2])], [nets.tensor("w", 6, 2)])
        assert count_macs(net) == 3 * 6 * 2

    @pytest.mark.parametrize("shape", [["batch", 2], None])
    def test_an_unknown_shape_gives_none_and_no_guess(self, shape: list[int | str] | None) -> None:
        net = nets.dense(7)
        net.graph.output[0].CopyFrom(nets.value("y", shape))
        assert count_macs(net) is None


def is_static(facts: OnnxFacts) -> bool:
    return all(isinstance(size, int) and size > 0 for spec in (*facts.inputs, *facts.outputs) for size in spec.shape)


class TestFreezing:
    def test_batch_normalisation_and_constants_are_folded_and_the_meaning_stays(self, tmp_path: Path) -> None:
        frozen = freeze(nets.conv(), shapes={"x": (2, 3, 8, 8)}, constants=())
        ops = dict(read_facts(frozen).ops)
        assert "BatchNormalization" not in ops
        assert "Constant" not in ops
        assert is_static(read_facts(frozen))
        x = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
        before, after = run(nets.conv(), tmp_path, x=x), run(frozen, tmp_path, x=x)
        np.testing.assert_allclose(after["y"], before["y"], rtol=1e-4, atol=1e-5)

    def test_the_given_model_is_left_as_it_is(self) -> None:
        net = nets.conv()
        before = net.SerializeToString(deterministic=True)
        freeze(net, shapes={"x": (2, 3, 8, 8)}, constants=())
        assert net.SerializeToString(deterministic=True) == before

    @pytest.mark.parametrize(("rate", "factor"), [(16, 2.0), (8, 0.5)])
    def test_a_constant_input_decides_its_branch(self, rate: int, factor: float, tmp_path: Path) -> None:
        constant = ConstantInput(name="rate", dtype="int64", value=rate)
        frozen = freeze(nets.branching(), shapes={"x": (1, 4)}, constants=(constant,))
        facts = read_facts(frozen)
        assert [spec.name for spec in facts.inputs] == ["x"]
        assert not facts.control_flow
        assert is_static(facts)
        assert run(frozen, tmp_path, x=np.ones((1, 4), np.float32))["y"].tolist() == [[factor] * 4]

    def test_a_loop_stays_right(self, tmp_path: Path) -> None:
        frozen = freeze(nets.looping(), shapes={"x": (1, 4)}, constants=())
        assert run(frozen, tmp_path, x=np.ones((1, 4), np.float32))["y"].tolist() == [[4.0] * 4]

    def test_a_name_keeps_an_axis_dynamic(self) -> None:
        facts = read_facts(freeze(nets.dense(), shapes={"x": ("batch", 6)}, constants=()))
        assert facts.inputs[0].shape == ("batch", 6)
        assert facts.outputs[0].shape == ("batch", 2)

    def test_several_inputs_of_other_types(self, tmp_path: Path) -> None:
        frozen = freeze(nets.embedding(), shapes={"tokens": (2, 5), "bias": (2, 4)}, constants=())
        assert is_static(read_facts(frozen))
        feeds = {"tokens": np.arange(10, dtype=np.int32).reshape(2, 5), "bias": np.ones((2, 4), np.float32)}
        np.testing.assert_allclose(
            run(frozen, tmp_path, **feeds)["y"], run(nets.embedding(), tmp_path, **feeds)["y"], rtol=1e-5
        )

    @pytest.mark.parametrize("shape", [(1, 5, 8, 8), (1, 3, 8), (1, 3, 8, 8, 1), ()])
    def test_a_shape_that_contradicts_the_input_s_own_is_refused(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ModelError) as caught:
            freeze(nets.conv(), shapes={"x": shape}, constants=())
        own = "['batch', 3, 8, 8]"
        assert caught.value.message == f"Input 'x' has shape {own} in the model and can't be frozen to {list(shape)}."

    def test_a_size_that_a_layer_can_t_take_is_refused_with_the_layer_named(self) -> None:
        net = nets.dense()
        net.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "features"
        with pytest.raises(ModelError, match=r"Node \(dense\) Op \(MatMul\)") as caught:
            freeze(net, shapes={"x": (1, 7)}, constants=())
        assert "/tmp" not in caught.value.message, "where the scratch file lay helps nobody"  # noqa: S108
        assert "[freeze]" in caught.value.hint

    def test_an_operator_without_a_library_is_refused_by_its_name(self) -> None:
        node = helper.make_node("Foo", ["x"], ["y"], domain="my.ops")
        net = nets.model([node], [nets.value("x", [1])], [nets.value("y", [1])], domains=["my.ops"])
        with pytest.raises(ModelError, match=r"my\.ops:Foo"):
            freeze(net, shapes={}, constants=())

    @pytest.mark.parametrize("net", [nets.conv, nets.embedding, nets.branching, nets.looping, nets.counting])
    def test_only_standard_operators_are_left(self, net: Callable[[], Any]) -> None:
        simplified = simplify(net())
        assert set(read_facts(simplified).domains) <= {"", "ai.onnx"}
        assert [entry.domain for entry in simplified.opset_import] == [""]
        onnx.checker.check_model(simplified, full_check=True)

    def test_states_are_neither_inputs_nor_outputs_of_the_contract(self) -> None:
        frozen = freeze(nets.counting(), shapes={"x": (1, 3), "h": (1, 1)}, constants=())
        given = Contract(
            inputs=(TensorSpec(name="x", shape=("batch", 3), dtype="float32"),),
            outputs=(TensorSpec(name="y", shape=("batch", 1), dtype="float32"),),
            state=(StateLink(input="h", output="hn"),),
            preprocess="data:pre",
        )
        shipped = shipped_contract(read_facts(frozen), given)
        assert shipped.inputs == (TensorSpec(name="x", shape=(1, 3), dtype="float32"),)
        assert shipped.outputs == (TensorSpec(name="y", shape=(1, 1), dtype="float32"),)
        assert shipped.state_specs == (TensorSpec(name="h", shape=(1, 1), dtype="float32"),)
        assert (shipped.state, shipped.preprocess) == (given.state, given.preprocess)


def installed(package: str, inside: str) -> Path:
    needs.skip_without(needs.module(package, package.replace("_", "-")))
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(next(iter(spec.submodule_search_locations))) / inside


class TestModelsOfTheWorld:
    """With their real control flow, LSTMs and integer inputs."""

    def shapes(self, model: Any) -> list[tuple[str, str]]:
        """Every value whose shape is not fully known, subgraphs included."""
        known = {
            value.name
            for value in [*model.graph.value_info, *model.graph.output, *model.graph.input]
            if value.type.tensor_type.HasField("shape")
            and all(dim.HasField("dim_value") for dim in value.type.tensor_type.shape.dim)
        }
        return [(node.op_type, name) for node in model.graph.node for name in node.output if name and name not in known]

    def test_silero_vad_freezes_to_a_static_graph(self) -> None:
        model = load_onnx(installed("silero_vad", "data/silero_vad_16k_op15.onnx"))
        assert read_facts(model).control_flow
        frozen = freeze(
            model,
            shapes={"input": (1, 576), "state": (2, 1, 128)},
            constants=(ConstantInput(name="sr", dtype="int64", value=16000),),
        )
        facts = read_facts(frozen)
        assert not facts.control_flow
        assert is_static(facts)
        assert self.shapes(frozen) == []
        assert set(facts.domains) <= {""}
        assert {spec.name for spec in facts.inputs} == {"input", "state"}
        assert facts.macs is not None
        assert facts.macs > 100_000

    def test_magika_freezes_to_a_static_graph(self) -> None:
        model = load_onnx(installed("magika", "models/standard_v3_3/model.onnx"))
        (tokens,) = read_facts(model).inputs
        assert tokens.dtype == "int32"
        frozen = freeze(model, shapes={tokens.name: (1, 2048)}, constants=())
        facts = read_facts(frozen)
        assert is_static(facts)
        assert self.shapes(frozen) == []
        assert set(facts.domains) <= {"", "ai.onnx.ml"}
        assert facts.macs is not None
        assert facts.macs > 1_000_000
