"""The project examples/text-recogniser: its texts, its reading, and a sentence where a package isn't installed."""

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

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "text-recogniser"


@pytest.fixture(scope="module")
def data() -> ModuleType:
    """The project's module, imported as edgebuild imports it: apart from other projects' of the same name."""
    load_callable("data:samples", FOLDER)
    return importlib.import_module("data")


def test_texts_are_short_and_of_known_words(data: ModuleType) -> None:
    assert len(data.words()) == 670
    texts = [data.line_of_text(np.random.default_rng([1, number])) for number in range(300)]
    assert all(0 < len(text) <= data.LONGEST and text == text.strip() for text in texts)
    assert len(set(texts)) > 290
    assert texts == [data.line_of_text(np.random.default_rng([1, number])) for number in range(300)]


def test_repeated_symbols_and_blanks_are_left_out(data: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "symbols", lambda: ("", "a", "b", " "))
    scores = np.eye(4)[[[0, 1, 1, 0, 1, 3, 2], [2, 2, 2, 2, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0]]]
    assert data.postprocess({"softmax_11.tmp_0": scores}) == ["aa b", "b", ""]


def test_a_package_that_is_missing_is_named(data: ModuleType) -> None:
    with pytest.raises(EnvironmentGap, match="package no-such-font, whose files") as raised:
        data.package_folder("no_such_font")
    assert raised.value.hint == "pip install --no-deps -r requirements.txt"


def test_the_packages_are_pinned(data: ModuleType) -> None:
    pinned = (FOLDER / "requirements.txt").read_text()
    packages = ["rapidocr_onnxruntime", *(package for package, _ in data.FONTS.values())]
    assert all(f"\n{package.replace('_', '-')}==" in pinned for package in packages)


def test_the_project_reads_what_it_renders(data: ModuleType) -> None:
    for package in ("rapidocr_onnxruntime", "PIL", *(package for package, _ in data.FONTS.values())):
        if find_spec(package) is None:
            pytest.skip(f"{package} isn't installed: pip install --no-deps -r {FOLDER.name}/requirements.txt")
    project = load_project(FOLDER, techniques=parameter_models)
    sample = next(data.samples("calibration"))
    assert sample.inputs["x"].shape == (3, project.freeze["height"], project.freeze["width"])
    assert (sample.inputs["x"].min(), sample.inputs["x"].max()) >= (-1, -1)
    assert len(data.symbols()) == 6625
