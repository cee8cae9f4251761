"""The project examples/emoji-categories: its splits, its head, and a sentence where a package isn't installed."""

from __future__ import annotations

import importlib
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors.numpy import load_file

from edgebuild.catalogue.callables import load_callable
from edgebuild.catalogue.project import load_project
from edgebuild.errors import EnvironmentGap
from edgebuild.techniques.registry import parameter_models

if TYPE_CHECKING:
    from types import ModuleType

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "emoji-categories"


@pytest.fixture(scope="module")
def data() -> ModuleType:
    """The project's module, imported as edgebuild imports it: apart from other projects' of the same name."""
    load_callable("data:samples", FOLDER)
    return importlib.import_module("data")


def test_every_emoji_is_in_one_split(data: ModuleType) -> None:
    assert sum(data.SHARES.values()) == 100
    counts = Counter(data.split_of(code) for code in range(0x1F300, 0x1F300 + 2000))
    assert counts.keys() == data.SHARES.keys()
    assert all(abs(counts[split] / 20 - share) < 5 for split, share in data.SHARES.items())


def test_the_head_is_of_these_categories(data: ModuleType) -> None:
    head = load_file(FOLDER / "head.safetensors")
    assert {name: array.shape for name, array in head.items()} == {
        "weight": (len(data.CATEGORIES), 1280),
        "bias": (len(data.CATEGORIES),),
    }


def test_a_package_that_is_missing_is_named(data: ModuleType) -> None:
    with pytest.raises(EnvironmentGap, match="package no-such-font, which brings the pictures") as raised:
        data.package_file("no_such_font", "x.ttf")
    assert raised.value.hint == "pip install --no-deps -r requirements.txt"


def test_pictures_are_the_same_each_time(data: ModuleType) -> None:
    for package in ("PIL", data.FONT[0], data.LIST[0]):
        if find_spec(package) is None:
            pytest.skip(f"{package} isn't installed: pip install --no-deps -r {FOLDER.name}/requirements.txt")
    project = load_project(FOLDER, techniques=parameter_models)
    one, again = (next(data.samples("validation")) for _ in range(2))
    assert np.array_equal(one.inputs["image"], again.inputs["image"])
    assert one.inputs["image"].shape == project.input_specs[0].shape[1:]
    assert {category for _, category in data.emoji()} == set(data.CATEGORIES)
