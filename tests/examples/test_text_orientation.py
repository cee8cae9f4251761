"""The project examples/text-orientation: its pictures, and what must be installed."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from edgebuild.catalogue.callables import load_callable
from edgebuild.catalogue.project import load_project
from edgebuild.techniques.registry import parameter_models

if TYPE_CHECKING:
    from types import ModuleType

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "text-orientation"


@pytest.fixture(scope="module")
def data() -> ModuleType:
    """The project's module, imported as edgebuild imports it: apart from other projects' of the same name."""
    load_callable("data:samples", FOLDER)
    return importlib.import_module("data")


def need(*packages: str) -> None:
    """Skip where a package of the example's isn't installed."""
    for package in packages:
        if find_spec(package) is None:
            pytest.skip(f"{package} isn't installed: pip install --no-deps -r {FOLDER.name}/requirements.txt")


def test_a_line_that_is_short_is_padded_and_one_that_is_long_cut_off(data: ModuleType) -> None:
    need("PIL")
    for width in (10, 1000):
        made = data.preprocess(np.full((48, width, 3), 255, np.uint8))
        assert made.shape == (3, data.HEIGHT, data.WIDTH)
        assert (made[:, :, : min(width, data.WIDTH)] == 1).all()
        assert not made[:, :, width:].any()


def test_lines_are_the_same_at_each_call_and_half_of_them_upside_down(data: ModuleType) -> None:
    need("rapidocr_onnxruntime", "PIL")
    load_project(FOLDER, techniques=parameter_models)
    samples, again = list(data.samples("calibration")), data.samples("calibration")
    assert {sample.target for sample in samples} == {0, 1}
    for sample, other in zip(samples[:10], again, strict=False):
        np.testing.assert_array_equal(sample.inputs["x"], other.inputs["x"])
        assert np.abs(sample.inputs["x"]).max() <= 1
