"""What a factory gives is known by all its arrays, wherever its layers hold them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgebuild.models.digests import module_digest


class Anchors(nn.Module):
    """A layer that holds numbers as detectors often do: as plain attributes."""

    def __init__(self, shift: float, place: str) -> None:
        super().__init__()
        held: dict[str, Any] = {"tensor": torch.zeros(3), "array": np.zeros(3), "list": [torch.zeros(3)]}
        held["nested"] = {"a": (np.zeros(3, np.float32),)}
        if place == "nested":
            held["nested"]["a"][0][1] += shift
        elif place == "list":
            held["list"][0][1] += shift
        else:
            held[place][1] += shift
        self.kept, self.lists, self.array, self.nested = held["tensor"], held["list"], held["array"], held["nested"]
        self.head = nn.Linear(3, 2)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)


@pytest.mark.parametrize("place", ["tensor", "array", "list", "nested"])
def test_arrays_that_are_plain_attributes_count(place: str) -> None:
    assert module_digest(Anchors(0.0, place)) == module_digest(Anchors(0.0, place))
    assert module_digest(nn.Sequential(Anchors(0.0, place))) != module_digest(nn.Sequential(Anchors(0.5, place)))
