"""Triton's model repository, its configuration read by a strict reader: no Triton ever loaded one of these."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from hypothesis import given
from hypothesis import strategies as st

from edgebuild.core.artifact import ConstantInput, Contract, DType, StateLink, TensorSpec
from edgebuild.errors import ReleaseError
from edgebuild.releasing.exporting.pbtxt import TYPES, config_text, quoted
from tests import needs
from tests.cli.example import CLASSES, SHAPE, classifier, classifier_weights
from tests.releasing.board.bundles import Maker, tiny_files

from .samples import CONTRACT, TENSORS, artifact_files, bundle_of, exported, said

if TYPE_CHECKING:
    from collections.abc import Mapping

_FIELD = descriptor_pb2.FieldDescriptorProto
_STRING, _INT64, _INT32, _MESSAGE, _ENUM = (
    _FIELD.TYPE_STRING, _FIELD.TYPE_INT64, _FIELD.TYPE_INT32, _FIELD.TYPE_MESSAGE, _FIELD.TYPE_ENUM,
)  # fmt: skip
#: The part of Triton's model_config.proto that is written here, by its published names: a * marks lists.
SCHEMA: dict[str, dict[str, int | str]] = {
    "Reshape": {"shape*": _INT64},
    "Input": {"name": _STRING, "data_type": "DataType", "dims*": _INT64, "reshape": "Reshape"},
    "Output": {"name": _STRING, "data_type": "DataType", "dims*": _INT64, "reshape": "Reshape"},
    "Group": {"count": _INT32, "kind": "Kind"},
    "Config": {
        "name": _STRING, "backend": _STRING, "default_model_filename": _STRING, "max_batch_size": _INT32,
        "input*": "Input", "output*": "Output", "instance_group*": "Group",
    },
}  # fmt: skip
ENUMS = {
    "DataType": [
        "TYPE_INVALID",
        "TYPE_BOOL",
        *(f"TYPE_{sign}INT{bits}" for sign in ("U", "") for bits in (8, 16, 32, 64)),
    ]
    + [f"TYPE_FP{bits}" for bits in (16, 32, 64)],
    "Kind": ["KIND_AUTO", "KIND_GPU", "KIND_CPU", "KIND_MODEL"],
}


def _config_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="config.proto", package="t", syntax="proto3")
    for name, values in ENUMS.items():
        enum = file.enum_type.add(name=name)
        for number, value in enumerate(values):
            enum.value.add(name=value, number=number)
    for name, fields in SCHEMA.items():
        message = file.message_type.add(name=name)
        for number, (field, kind) in enumerate(fields.items(), 1):
            label = _FIELD.LABEL_REPEATED if field.endswith("*") else _FIELD.LABEL_OPTIONAL
            added = message.field.add(name=field.rstrip("*"), number=number, label=label)
            if isinstance(kind, str):
                added.type, added.type_name = (_ENUM if kind in ENUMS else _MESSAGE), f".t.{kind}"
            else:
                added.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Config"))


CONFIG = _config_class()


def parsed(path: Path) -> Any:
    """Parse a configuration: unknown fields, values and a field given twice are errors."""
    return text_format.Parse(path.read_text(encoding="ascii"), CONFIG())


def tensors(side: Any) -> list[tuple[str, str, list[int]]]:
    return [(each.name, ENUMS["DataType"][each.data_type], list(each.dims)) for each in side]


def test_an_onnx_artifact_goes_along_as_it_is(tmp_path: Path) -> None:
    files = artifact_files({"model.onnx": b"model", "weights/0.bin": b"weights"})
    notes = exported(bundle_of(tmp_path / "bundle", files=files), "triton", tmp_path / "out")
    assert "the artifact that was measured" in notes[0]
    there = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert there == {"doors/config.pbtxt", "doors/1/model.onnx", "doors/1/weights/0.bin"}
    assert (tmp_path / "out/doors/1/model.onnx").read_bytes() == b"model"
    config = parsed(tmp_path / "out/doors/config.pbtxt")
    assert (config.name, config.backend, config.default_model_filename) == ("doors", "onnxruntime", "model.onnx")
    assert config.max_batch_size == 0
    assert tensors(config.input) == tensors(config.output) == [("x", "TYPE_FP32", [1, 3])]
    assert [ENUMS["Kind"][each.kind] for each in config.instance_group] == ["KIND_CPU"]


def test_openvinos_files_go_along(tmp_path: Path) -> None:
    files = artifact_files({"model.bin": b"b", "model.xml": b"x"}, backend="openvino", entry="model.xml")
    exported(bundle_of(tmp_path / "bundle", files=files), "triton", tmp_path / "out", name="scores")
    config = parsed(tmp_path / "out/scores/config.pbtxt")
    assert (config.name, config.backend, config.default_model_filename) == ("scores", "openvino", "model.xml")
    assert sorted(path.name for path in (tmp_path / "out/scores/1").iterdir()) == ["model.bin", "model.xml"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"load": (("optimized", True),)}, "was optimised for one version"),
        ({"load": (("libraries", "model.onnx"),)}, "native libraries"),
        ({"load": (("disabled", "Fusion"),)}, "is wrong with the optimisations"),
        ({"load": (("bf16", True),)}, "bf16 only by an option"),
        ({"load": (("unpack", True),)}, "only stored in 8 bits"),
        ({"load": (("weights", "model.onnx"),)}, "a file of edgebuild's"),
        ({"backend": "tensorrt", "entry": "model.onnx"}, "no backend that opens what was compiled for tensorrt"),
        ({"backend": "openvino", "entry": "model.onnx"}, "isn't what its backend opens"),
    ],
)  # fmt: skip
def test_what_a_server_would_open_otherwise_stays_behind_and_the_fallback_goes(
    changes: Mapping[str, Any], reason: str, tmp_path: Path
) -> None:
    model = classifier(classifier_weights()).SerializeToString()
    files = {**artifact_files({"model.onnx": b"other"}, **changes), "fallback/model.onnx": model}
    notes = exported(bundle_of(tmp_path / "bundle", files=files), "triton", tmp_path / "out")
    assert reason in notes[0]
    assert (tmp_path / "out/doors/1/model.onnx").read_bytes() == model
    config = parsed(tmp_path / "out/doors/config.pbtxt")
    assert config.backend == "onnxruntime"
    # Of the file itself: what its artifact takes may have another shape.
    assert [name for name, _, _ in tensors(config.input)] == ["image"]
    assert tensors(config.input)[0][2][1:] == list(SHAPE)
    assert tensors(config.output)[0][2][1:] == [CLASSES]
    session = onnxruntime.InferenceSession(str(tmp_path / "out/doors/1/model.onnx"), providers=["CPUExecutionProvider"])
    assert session.run(None, {"image": np.zeros((1, *SHAPE), np.float32)})[0].shape == (1, CLASSES)


def test_a_release_without_what_is_needed_is_refused(tmp_path: Path) -> None:
    files = artifact_files({"model.onnx": b"other"}, load=(("optimized", True),))
    with pytest.raises(ReleaseError, match="lacks files in fallback/"):
        exported(bundle_of(tmp_path / "none", files=files), "triton", tmp_path / "out")
    bad = bundle_of(tmp_path / "bad", files={**files, "fallback/model.onnx": b"none"})
    with pytest.raises(ReleaseError, match="fallback model can't be read"):
        exported(bad, "triton", tmp_path / "out")
    listed = artifact_files({"model.onnx": b"model", "more": b""})
    del listed["artifact/more"]
    with pytest.raises(ReleaseError, match="lacks files in artifact/"):
        exported(bundle_of(tmp_path / "listed", files=listed), "triton", tmp_path / "out")
    other = {**artifact_files({"model.onnx": b"model"}), "artifact/model.onnx": b"Model"}
    with pytest.raises(ReleaseError, match="isn't what the artifact lists"):
        exported(bundle_of(tmp_path / "other", files=other), "triton", tmp_path / "out")
    with pytest.raises(ReleaseError, match="can't be read"):
        exported(bundle_of(tmp_path / "plain"), "triton", tmp_path / "out")
    assert not list(tmp_path.glob("*export*"))


@pytest.mark.parametrize("place", ["../../outside", "OUTSIDE", "artifact/../artifact", ""])
def test_an_artifact_elsewhere_is_neither_read_nor_removed(place: str, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "artifact.json").write_bytes(artifact_files({"model.onnx": b"m"})["artifact/artifact.json"])
    place = place.replace("OUTSIDE", str(outside))
    files = {**tiny_files(), **artifact_files({"model.onnx": b"m"})}
    bundle = Maker({"pi": (files, said(artifact=place))}).make(tmp_path / "bundle")
    with pytest.raises(ReleaseError, match="has no artifact where it says"):
        exported(bundle, "triton", tmp_path / "out")
    assert (outside / "artifact.json").exists()


def test_states_and_constants_are_the_clients(tmp_path: Path) -> None:
    contract = Contract(
        inputs=TENSORS,
        outputs=(TensorSpec(name="y", shape=(), dtype="bool"),),
        constants=(ConstantInput(name="c", dtype="int64", value=1),),
        state=(StateLink(input="h", output="h2"),),
        state_specs=(TensorSpec(name="h", shape=("batch", 4), dtype="float16"),),
    )
    files = artifact_files({"model.onnx": b"model"}, contract=contract)
    notes = exported(bundle_of(tmp_path / "bundle", files=files), "triton", tmp_path / "out")
    assert sum("client" in note for note in notes) == 2
    config = parsed(tmp_path / "out/doors/config.pbtxt")
    assert tensors(config.input) == [("x", "TYPE_FP32", [1, 3]), ("c", "TYPE_INT64", [1]), ("h", "TYPE_FP16", [-1, 4])]
    assert tensors(config.output) == [("y", "TYPE_BOOL", [1]), ("h2", "TYPE_FP16", [-1, 4])]
    assert [each.HasField("reshape") for each in config.input] == [False, True, False]
    assert list(config.input[1].reshape.shape) == []


def test_a_model_that_cant_be_is_refused(tmp_path: Path) -> None:
    twice = Contract(inputs=(*TENSORS, *TENSORS), outputs=TENSORS)
    empty = CONTRACT.model_copy(update={"inputs": (TensorSpec(name="x", shape=(0,), dtype="int8"),)})
    huge = CONTRACT.model_copy(update={"inputs": (TensorSpec(name="x", shape=(1 << 63,), dtype="int8"),)})
    unknown = CONTRACT.model_copy(update={"state": (StateLink(input="h", output="y"),)})
    for number, contract in enumerate((twice, empty, huge, unknown)):
        bundle = bundle_of(tmp_path / str(number), files=artifact_files({"model.onnx": b"m"}, contract=contract))
        with pytest.raises(
            ReleaseError, match=r"two of the same name|axis of no size|state of the model|can't be read"
        ):
            exported(bundle, "triton", tmp_path / "out")


def test_a_name_too_long_for_a_file_is_an_error_of_ours(tmp_path: Path) -> None:
    from edgebuild.errors import EdgebuildError

    files = artifact_files({"model.onnx": b"model", "x" * 300: b""})
    with pytest.raises(EdgebuildError, match="too long"):
        exported(bundle_of(tmp_path / "bundle", files=files), "triton", tmp_path / "out")
    long = "/".join(["y" * 100] * 8)
    files = artifact_files({"model.onnx": b"model", long: b"z"})
    exported(bundle_of(tmp_path / "long", files=files), "triton", tmp_path / "out")
    assert (tmp_path / "out/doors/1" / long).read_bytes() == b"z"


_types: Any = st.sampled_from(sorted(TYPES))


@given(
    name=st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    kind=_types,
    more=st.text(st.characters(exclude_categories=["Cs"]), max_size=3),
)
def test_any_name_is_a_name_and_nothing_else(name: str, kind: DType, more: str) -> None:
    spec = TensorSpec(name=name, shape=("batch", 3), dtype=kind)
    text = config_text(name="m", backend="b", filename=f'"{more}', inputs=(spec,), outputs=(spec,))
    assert text.isascii()
    found = text_format.Parse(text, CONFIG())
    assert tensors(found.input) == [(name, f"TYPE_{TYPES[kind]}", [-1, 3])]
    assert len(found.output) == 1


def test_hostile_names_dont_leave_their_quotes() -> None:
    assert quoted('a"\nb\\€') == '"a\\042\\012b\\134\\342\\202\\254"'


@needs.marked(needs.module("tritonclient", "tritonclient==2.60.0"))
def test_tritons_own_schema_reads_it(tmp_path: Path) -> None:
    # Loaded by its file: the package around it wants grpc.
    package = importlib.util.find_spec("tritonclient")
    assert package is not None
    assert package.submodule_search_locations
    file = Path(package.submodule_search_locations[0]) / "grpc/model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", file)
    assert spec is not None
    assert spec.loader is not None
    theirs: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(theirs)
    names = {
        "Reshape": "ModelTensorReshape",
        "Input": "ModelInput",
        "Output": "ModelOutput",
        "Group": "ModelInstanceGroup",
        "Config": "ModelConfig",
    }
    for ours, name in names.items():
        fields = {each.name for each in getattr(theirs, name).DESCRIPTOR.fields}
        assert {field.rstrip("*") for field in SCHEMA[ours]} <= fields
    contract = Contract(
        inputs=tuple(TensorSpec(name=each, shape=(), dtype=each) for each in _dtypes()), outputs=TENSORS
    )
    files = artifact_files({"model.onnx": b"model"}, contract=contract)
    exported(bundle_of(tmp_path / "bundle", files=files), "triton", tmp_path / "out")
    text = (tmp_path / "out/doors/config.pbtxt").read_text()
    config = text_format.Parse(text, theirs.ModelConfig())
    assert [each.name for each in config.input] == sorted(TYPES)
    assert all(each.data_type != theirs.TYPE_INVALID for each in config.input)
    assert config.instance_group[0].kind == theirs.ModelInstanceGroup.KIND_CPU


def _dtypes() -> list[Any]:
    return sorted(TYPES)
