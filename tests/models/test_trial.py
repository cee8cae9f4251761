from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from edgebuild.core.artifact import TensorSpec
from edgebuild.models.trial import try_module


class Two(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(10, 4)
        self.head = torch.nn.Linear(4, 3)

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor, scale: float = 1.0) -> dict[str, torch.Tensor]:
        hidden = self.embed(tokens) * mask[..., None] * scale
        return {"scores": self.head(hidden.mean(dim=1)), "hidden": hidden}


SAMPLE = {"tokens": np.arange(5), "mask": np.ones(5, np.float32)}


def test_a_sample_tells_inputs_and_outputs() -> None:
    tried = try_module(Two(), dict(reversed(SAMPLE.items())))
    assert tried.inputs == (
        TensorSpec(name="tokens", shape=("batch", 5), dtype="int64"),
        TensorSpec(name="mask", shape=("batch", 5), dtype="float32"),
    )
    assert [spec.shape for spec in tried.outputs] == [("batch", 3), ("batch", 5, 4)]
    assert (tried.guessed, tried.problem) == ((), "")


@pytest.mark.parametrize(
    ("layer", "shape", "dtype"),
    [
        (torch.nn.Conv2d(3, 8, 3), ("batch", 3, "height", "width"), "float32"),
        (torch.nn.Linear(16, 2), ("batch", 16), "float32"),
        (torch.nn.Embedding(10, 4), ("batch", "length"), "int64"),
        (torch.nn.Tanh(), ("batch", "length"), "float32"),
    ],
)
def test_without_a_sample_the_first_layer_is_a_guess(layer: Any, shape: tuple[Any, ...], dtype: str) -> None:
    tried = try_module(torch.nn.Sequential(torch.nn.Identity(), layer), {})
    assert tried.inputs == (TensorSpec(name="input", shape=shape, dtype=dtype),)
    assert (tried.guessed, tried.outputs) == (("input",), ())


class OwnConv(torch.nn.Conv2d):
    """As libraries derive their own layers, for padding as TensorFlow pads."""


def test_a_layer_derived_from_a_known_one_is_known_and_one_input_has_the_samples_name() -> None:
    module = torch.nn.Sequential(OwnConv(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(4 * 6 * 6, 2))
    assert try_module(module, {}).inputs[0].shape == ("batch", 3, "height", "width")
    tried = try_module(module, {"image": np.zeros((3, 8, 8), np.float32)})
    assert (tried.problem, tried.guessed) == ("", ())
    assert tried.inputs == (TensorSpec(name="image", shape=("batch", 3, 8, 8), dtype="float32"),)
    assert [spec.shape for spec in tried.outputs] == [("batch", 2)]


def test_a_sample_of_another_model_or_shape_is_said() -> None:
    assert try_module(Two(), {"image": 1}).problem == "forward() takes tokens, mask, and a sample has image"
    wrong = try_module(Two(), {**SAMPLE, "mask": np.ones(7, np.float32)})
    assert wrong.problem.startswith("it can't be run on a sample: RuntimeError: ")
    assert wrong.outputs == ()
