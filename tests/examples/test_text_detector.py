"""The project examples/text-detector: its pictures, its reading of maps, and what must be installed."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from edgebuild.catalogue.callables import load_callable
from edgebuild.catalogue.project import load_project
from edgebuild.errors import EnvironmentGap
from edgebuild.techniques.registry import parameter_models

if TYPE_CHECKING:
    from types import ModuleType

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "text-detector"


@pytest.fixture(scope="module")
def data() -> ModuleType:
    """The project's module, imported as edgebuild imports it: apart from other projects' of the same name."""
    load_callable("data:samples", FOLDER)
    return importlib.import_module("data")


def test_what_hangs_together_is_a_box_grown_as_the_model_learnt_it(data: ModuleType) -> None:
    maps = np.zeros((2, 1, 40, 60), np.float32)
    maps[0, 0, 10:20, 10:40] = 0.9
    maps[0, 0, 30:32, 0:60] = 0.9  # narrower than any text
    maps[0, 0, 0:5, 50:60] = 0.4  # not sure enough
    first, second = data.postprocess({"map": maps})
    grown = 10 * 30 * 1.6 / (2 * (10 + 30))
    np.testing.assert_allclose(first, [[10 - grown, 10 - grown, 40 + grown, 20 + grown, 0.9]], rtol=1e-6)
    assert second.shape == (0, 5)


def test_boxes_stay_inside_the_picture(data: ModuleType) -> None:
    (found,) = data.postprocess({"map": np.ones((1, 1, 32, 64), np.float32)})
    np.testing.assert_array_equal(found, [[0, 0, 64, 32, 1]])


def test_a_package_that_is_missing_is_named(data: ModuleType) -> None:
    with pytest.raises(EnvironmentGap, match="package no-such-font, whose files") as raised:
        data.package_folder("no_such_font")
    assert raised.value.hint == "pip install --no-deps -r requirements.txt"


def test_the_packages_are_pinned(data: ModuleType) -> None:
    pinned = (FOLDER / "requirements.txt").read_text()
    packages = ["rapidocr_onnxruntime", *(package for package, _ in data.FONTS.values())]
    assert all(f"\n{package.replace('_', '-')}==" in pinned for package in packages)


def test_pictures_hold_what_their_boxes_say(data: ModuleType) -> None:
    for package in ("rapidocr_onnxruntime", "PIL", *(package for package, _ in data.FONTS.values())):
        if find_spec(package) is None:
            pytest.skip(f"{package} isn't installed: pip install --no-deps -r {FOLDER.name}/requirements.txt")
    project = load_project(FOLDER, techniques=parameter_models)
    sample = next(data.samples("calibration"))
    assert sample.inputs["x"].shape == (3, project.freeze["height"], project.freeze["width"])
    assert (sample.inputs["x"].min(), sample.inputs["x"].max()) >= (-1, -1)
    for number in range(20):
        image, boxes, dark = data.picture(np.random.default_rng([1, number]))
        again, _, _ = data.picture(np.random.default_rng([1, number]))
        np.testing.assert_array_equal(image, again)
        assert (image.mean() < 128) == dark
        assert boxes.shape[1] == 5
        assert boxes[:, :4].min() >= 0
        assert boxes[:, :4].max() <= data.SIZE
        assert all(not data.near(a, b) for i, a in enumerate(boxes) for b in boxes[:i])
