"""What inspection finds in a model before anything ran."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edgebuild.building.inspect import inspect_model
from edgebuild.catalogue.project import load_project
from tests.cli.example import write_project

if TYPE_CHECKING:
    from pathlib import Path

#: A module, and how many of its tensors a product may be quantised for, whoever multiplies by them.
MODULES = {
    "layers": ("nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))", 2),
    "a layer of the user's": ("Own()", 1),
    "attention": ("nn.MultiheadAttention(8, 2)", 2),
    "recurrent": ("nn.Sequential(nn.Embedding(9, 8), nn.GRU(8, 8))", 0),
}
CODE = """\
import torch
from torch import nn


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.kernel = nn.Parameter(torch.ones(8, 2))
        self.bias = nn.Parameter(torch.ones(2))

    def forward(self, image):
        return image.flatten(1) @ self.kernel + self.bias


def build():
    return {made}
"""


@pytest.mark.parametrize("name", MODULES)
def test_what_a_torch_module_multiplies_by_is_counted(name: str, tmp_path: Path) -> None:
    made, count = MODULES[name]
    (write_project(tmp_path, {"model": 'factory = "net:build"'}) / "net.py").write_text(CODE.format(made=made))
    assert inspect_model(load_project(tmp_path)).quantisable_ops == count
