"""Damaged safetensors files: one sentence, or weights that load; nothing else, and no memory without bound."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save
from torch import nn

from edgebuild.errors import ModelError
from edgebuild.models import compressed_model
from edgebuild.models.edits import CompressedModel
from edgebuild.models.torch_models import make_module
from tests.mutants import COUNTS, damaged

if TYPE_CHECKING:
    from pathlib import Path


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 3, bias=False))


@pytest.mark.parametrize("count", COUNTS)
def test_a_damaged_file_of_the_users_is_one_sentence(count: int, tmp_path: Path) -> None:
    data, path = save(dict(net().state_dict())), tmp_path / "weights.safetensors"
    told: list[str] = []
    for seed in range(count):
        path.write_bytes(damaged(data, seed))
        try:
            made = make_module(net, "f", path)
        except ModelError as error:
            told.append(error.message)
        else:
            assert {n: v.shape for n, v in made.state_dict().items()} == {
                n: v.shape for n, v in net().state_dict().items()
            }
    assert len(told) > count / 4
    assert not [each for each in told if len(each) > 1000 or "\n" in each]


@pytest.mark.parametrize("count", COUNTS)
def test_a_damaged_stored_model_is_one_sentence(count: int, tmp_path: Path) -> None:
    compressed_model.write_model(net(), CompressedModel(factory="m:f"), tmp_path)
    code = compressed_model.UserCode(factory="m:f", load=lambda _: net)
    files = {
        name: (tmp_path / name).read_bytes() for name in (compressed_model.WEIGHTS_FILE, compressed_model.MODEL_FILE)
    }
    refused = 0
    for seed in range(count):
        name = compressed_model.WEIGHTS_FILE if seed % 2 else compressed_model.MODEL_FILE
        (tmp_path / name).write_bytes(damaged(files[name], seed))
        try:
            compressed_model.load_model(tmp_path, code)
        except ModelError:
            refused += 1
        (tmp_path / name).write_bytes(files[name])
    assert refused > count / 4


def test_a_header_that_promises_more_than_there_is_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    tracemalloc.start()
    for head in (b'{"a":{"dtype":"F32","shape":[999999999999],"data_offsets":[0,3999999999996]}}', b"{" * 5000):
        path.write_bytes(len(head).to_bytes(8, "little") + head)
        with pytest.raises(ModelError, match="can't be read as safetensors"):
            make_module(net, "f", path)
    path.write_bytes((1 << 62).to_bytes(8, "little"))
    with pytest.raises(ModelError, match="can't be read as safetensors"):
        make_module(net, "f", path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 << 20
