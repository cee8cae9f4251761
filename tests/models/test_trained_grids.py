from __future__ import annotations

import numpy as np
import onnx

from edgebuild.models import trained_grids


def test_a_file_with_other_words_under_that_name_carries_nothing() -> None:
    model = onnx.ModelProto()
    for text in ("", "[1]", '{"a": 3}', '{"a": [1]}', "{", '{"a": ["x", 2]}'):
        onnx.helper.set_model_props(model, {trained_grids.KEY: text})
        assert trained_grids.read(model) == {}


def test_what_is_attached_is_read_and_other_properties_stay() -> None:
    model = onnx.ModelProto()
    onnx.helper.set_model_props(model, {"author": "somebody", trained_grids.KEY: '{"a": [-1.5, 2], "b": null}'})
    assert trained_grids.read(model) == {"a": (-1.5, 2.0), "b": None}
    trained_grids.detach(model)
    assert [(entry.key, entry.value) for entry in model.metadata_props] == [("author", "somebody")]


def test_codes_are_found_again_whatever_scaled_the_rows() -> None:
    generator = np.random.default_rng(0)
    codes = generator.integers(-127, 128, (16, 36)).astype(np.int16)
    codes[3] = 0
    signs = np.where(np.arange(16) % 2, 1, -1).astype(np.float32)
    rows = codes * (generator.uniform(0.001, 2, 16).astype(np.float32) * signs)[:, None]
    found = trained_grids.row_codes(rows)
    assert found is not None
    assert trained_grids.digest(found[0]) == trained_grids.digest(codes)
    np.testing.assert_allclose(found[0] * found[1][:, None], rows, rtol=1e-5)
    assert trained_grids.row_codes(generator.standard_normal((4, 30))) is None
