"""Canonical JSON and digests: equal values, equal bytes, on every machine."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from edgebuild.core.artifact import Artifact, Contract, FileEntry, Fp16Meaning, Int8Scheme, Precision, TensorSpec
from edgebuild.core.values import Value, canonical_json, digest_file, digest_json

if TYPE_CHECKING:
    from pathlib import Path

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(PLAIN)
def test_canonical_json_reads_back_and_is_stable(value: Any) -> None:
    text = canonical_json(value)
    assert json.loads(text) == value
    assert canonical_json(json.loads(text)) == text


@given(st.dictionaries(st.text(), st.integers(), min_size=2))
def test_the_order_of_keys_changes_nothing(value: dict[str, int]) -> None:
    backwards = dict(reversed(value.items()))
    assert digest_json(value) == digest_json(backwards)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_what_json_has_no_word_for_is_refused(number: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"x": number})


def test_a_file_digest_is_that_of_its_bytes(tmp_path: Path) -> None:
    data = bytes(range(256)) * 9000  # more than one chunk
    (tmp_path / "f").write_bytes(data)
    assert digest_file(tmp_path / "f") == hashlib.sha256(data).hexdigest()


class _Point(Value):
    x: int
    y: tuple[int, ...] = ()


def test_values_are_frozen_and_refuse_unknown_fields() -> None:
    point = _Point(x=1)
    with pytest.raises(ValidationError, match="frozen"):
        point.x = 2  # type: ignore[misc]
    with pytest.raises(ValidationError, match="Extra inputs"):
        _Point.model_validate({"x": 1, "z": 2})
    assert point.digest() == _Point.model_validate_json(point.to_json()).digest()
    assert point.digest() != _Point(x=2).digest()


def _artifact() -> Artifact:
    spec = TensorSpec(name="x", shape=(4, 3), dtype="float32")
    return Artifact(
        backend="onnxruntime",
        entry="model.onnx",
        files=(
            FileEntry(path="model.onnx", sha256="0" * 64, size_bytes=10),
            FileEntry(path="w", sha256="1" * 64, size_bytes=5),
        ),
        contract=Contract(inputs=(spec,), outputs=(spec,)),
        precision=Precision(kind="fp32"),
    )


def test_the_order_of_settings_is_no_part_of_an_artifact() -> None:
    left = _artifact().with_settings((("threads", 2), ("arena", True)))
    right = _artifact().with_settings((("arena", True), ("threads", 2)))
    assert left.digest() == right.digest()
    assert left.digest() != _artifact().with_settings((("threads", 1), ("arena", True))).digest()
    assert left.size_bytes == 15
    assert left.contract.batch == 4


@pytest.mark.parametrize(
    ("scheme", "label"),
    [
        (Int8Scheme(activations="uint8"), "u8s8"),
        (Int8Scheme(activations="int8"), "s8s8"),
        (Int8Scheme(activations="uint8", weights="uint8"), "u8u8"),
        (Int8Scheme(activations="uint8", reduce_range=True), "u8s8-7bit"),
    ],
)
def test_labels_of_schemes(scheme: Int8Scheme, label: str) -> None:
    assert Precision(kind="int8", scheme=scheme, quantiser="edgebuild").label == f"int8-edgebuild-{label}"


def test_a_precision_says_all_that_it_must() -> None:
    with pytest.raises(ValidationError, match="needs a scheme and a quantiser"):
        Precision(kind="int8")
    with pytest.raises(ValidationError, match="storage or compute"):
        Precision(kind="fp16")
    assert Precision(kind="fp16", fp16=Fp16Meaning.STORAGE).label == "fp16-storage"
