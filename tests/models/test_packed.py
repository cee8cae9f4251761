from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from edgebuild.errors import ModelError
from edgebuild.models import compressed_model, packed
from edgebuild.models.edits import CompressedModel, Grid, Mask, Quantise
from edgebuild.models.interpreter import apply_edits, layer_at
from tests.techniques import zoo

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

ANIMAL = zoo.ZOO["residual"]
NAME = "down.0.parametrizations.weight.original"
COUNT = 16 * 32 * 9


def written(folder: Path, bits: int, *, per_channel: bool = True, mask: bool = False) -> nn.Module:
    edits: list[Any] = [Mask(module="down.0")] if mask else []
    edits.append(Quantise(module="down.0", weight=Grid(bits=bits, per_channel=per_channel)))
    module = apply_edits(zoo.grown(ANIMAL), edits).eval()
    layer: Any = layer_at(module, "down.0")
    if mask:
        layer.parametrizations.weight[0].mask[:4] = False
    layer.parametrizations.weight[-1].fit_closest(layer.parametrizations.weight.original)
    compressed_model.write_model(module, CompressedModel(factory=ANIMAL.reference, edits=tuple(edits)), folder)
    return module


@pytest.mark.parametrize(("bits", "mask"), [(1, False), (2, True), (3, False), (4, True), (7, False), (8, True)])
def test_packed_weights_come_back_bit_by_bit(bits: int, mask: bool, tmp_path: Path) -> None:
    module = written(tmp_path, bits, per_channel=bits != 3, mask=mask)
    rebuilt, _ = compressed_model.load_model(tmp_path, zoo.code_of(ANIMAL))
    first: Any = layer_at(module, "down.0")
    second: Any = layer_at(rebuilt, "down.0")
    assert torch.equal(first.weight, second.weight)
    inputs = zoo.feeds(ANIMAL, 4)
    assert torch.equal(module(*inputs), rebuilt(*inputs))
    assert load_file(str(tmp_path / compressed_model.WEIGHTS_FILE))[NAME].numel() == -(-COUNT * bits // 8)
    again = tmp_path / "again"
    again.mkdir()
    compressed_model.write_model(rebuilt, compressed_model.read_model(tmp_path), again)
    assert (again / compressed_model.WEIGHTS_FILE).read_bytes() == (
        tmp_path / compressed_model.WEIGHTS_FILE
    ).read_bytes()


def test_more_than_8_bits_are_stored_as_they_are(tmp_path: Path) -> None:
    layer: Any = layer_at(written(tmp_path, 12), "down.0")
    found = load_file(str(tmp_path / compressed_model.WEIGHTS_FILE))[NAME]
    assert torch.equal(found, layer.parametrizations.weight.original)


@pytest.mark.parametrize("bits", range(1, 9))
def test_bytes_hold_codes_of_any_width(bits: int) -> None:
    codes = np.random.default_rng(bits).integers(0, 1 << bits, 37).astype(np.uint8)
    assert np.array_equal(packed.from_bytes(packed.to_bytes(codes, bits), bits, 37), codes)
    assert packed.to_bytes(np.array([1, 0, 1], np.uint8), 1).tolist() == [0b10100000]


def test_damaged_packed_weights_are_refused(tmp_path: Path) -> None:
    written(tmp_path, 2)
    path = tmp_path / compressed_model.WEIGHTS_FILE
    state = load_file(str(path))
    full = {**state, NAME: torch.full_like(state[NAME], 255)}
    for changed, header, message in (
        ({**state, NAME: state[NAME][:-1]}, {"packed": "1"}, "isn't 4608 weights of 2 bits"),
        ({**state, NAME: state[NAME].float()}, {"packed": "1"}, "isn't 4608 weights of 2 bits"),
        (full, {"packed": "1"}, "a code beyond its grid"),
        (state, {"packed": "2"}, "packed in version '2'"),
        (state, None, "doesn't fit the model"),
        ({k: v for k, v in state.items() if k != NAME}, {"packed": "1"}, "is missing"),
        ({k: v for k, v in state.items() if not k.endswith("0.scale")}, {"packed": "1"}, "is missing"),
    ):
        save_file(changed, str(path), metadata=header)
        with pytest.raises(ModelError, match=message):
            compressed_model.load_model(tmp_path, zoo.code_of(ANIMAL))
