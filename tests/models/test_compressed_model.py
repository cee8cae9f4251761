"""A stored model is two files; damaged or hostile ones are refused in a sentence, and run no code."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from edgebuild.errors import ModelError
from edgebuild.models import compressed_model
from edgebuild.models.compressed_model import UserCode
from edgebuild.models.edits import Codebook, CompressedModel, Edit, KeepChannels, Mask
from edgebuild.models.interpreter import apply_edits

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

EDITS: tuple[Edit, ...] = (
    KeepChannels(module="0", outputs=(0, 2)),
    KeepChannels(module="1", inputs=(0, 2)),
    Mask(module="0"),
    Codebook(module="1", entries=2),
)


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))


def load(reference: str) -> Any:
    assert reference == "net:net", "no other code may run"
    return net


CODE = UserCode(factory="net:net", load=load)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    compressed_model.write_model(apply_edits(net(), EDITS), CompressedModel(factory="net:net", edits=EDITS), tmp_path)
    return tmp_path


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    found = json.loads((folder / compressed_model.MODEL_FILE).read_text())
    change(found)
    (folder / compressed_model.MODEL_FILE).write_text(json.dumps(found))


def reweigh(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    state = {name: value.clone() for name, value in load_file(folder / compressed_model.WEIGHTS_FILE).items()}
    change(state)
    save_file(state, folder / compressed_model.WEIGHTS_FILE)


def test_two_files_and_no_pickle(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["compressed.json", "weights.safetensors"]
    module, model = compressed_model.load_model(folder, CODE)
    assert model.edits == EDITS
    assert not module.training


JSON_DAMAGE: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "another version": (lambda found: found.update(schema_version=2), "schema_version"),
    "another factory": (lambda found: found.update(factory="os:abort"), "os:abort"),
    "an unknown edit": (lambda found: found["edits"].append({"kind": "exec", "module": "0"}), "edits.4"),
    "a layer that isn't there": (
        lambda found: found["edits"].append({"kind": "mask", "module": "0.__class__"}),
        "'0.__class__'",
    ),
    "code": (
        lambda found: found["edits"].insert(
            0, {"kind": "replace-module", "module": "0", "by": {"kind": "user-module", "reference": "os:abort"}}
        ),
        "os:abort",
    ),
    "an index as text": (lambda found: found["edits"][0].update(outputs=["0"]), "edits.0"),
    "a channel out of range": (lambda found: found["edits"][0].update(outputs=[0, 9]), "'0'"),
    "fewer channels than weights": (lambda found: found["edits"][0].update(outputs=[0]), "0.bias"),
}


@pytest.mark.parametrize("name", JSON_DAMAGE)
def test_a_damaged_description_is_refused(name: str, folder: Path) -> None:
    change, words = JSON_DAMAGE[name]
    rewrite(folder, change)
    with pytest.raises(ModelError) as caught:
        compressed_model.load_model(folder, CODE)
    assert words in caught.value.message


INDEX = "1.parametrizations.weight.0.index"
WEIGHT_DAMAGE: dict[str, tuple[Callable[[dict[str, torch.Tensor]], None], str]] = {
    "a tensor is missing": (lambda state: state.__delitem__("0.bias"), "0.bias is missing"),
    "one too many": (lambda state: state.update(more=torch.zeros(1)), "more isn't in the model"),
    "another shape": (lambda state: state.update({"0.bias": torch.zeros(3)}), "0.bias is torch.float32 [3]"),
    "another type": (lambda state: state.update({"0.bias": torch.zeros(2).half()}), "0.bias is torch.float16"),
    "an index beyond the codebook": (
        lambda state: state.update({INDEX: state[INDEX] + 2}),
        "beyond its codebook of 2",
    ),
    "a negative index": (
        lambda state: state.update({INDEX: state[INDEX] - 1}),
        "beyond its codebook of 2",
    ),
}


@pytest.mark.parametrize("name", WEIGHT_DAMAGE)
def test_damaged_weights_are_refused(name: str, folder: Path) -> None:
    change, words = WEIGHT_DAMAGE[name]
    reweigh(folder, change)
    with pytest.raises(ModelError) as caught:
        compressed_model.load_model(folder, CODE)
    assert words in caught.value.message


@pytest.mark.parametrize("name", [compressed_model.MODEL_FILE, compressed_model.WEIGHTS_FILE])
@pytest.mark.parametrize("content", [b"", b"\x00" * 64, b"\xff\xff\xff\xff\xff\xff\xff\x7f{", b"[[[[[[[[["])
def test_garbage_and_missing_files_are_refused(name: str, content: bytes, folder: Path) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(ModelError, match=name):
        compressed_model.load_model(folder, CODE)
    (folder / name).unlink()
    with pytest.raises(ModelError, match=name):
        compressed_model.load_model(folder, CODE)


def test_tied_weights_come_back_tied(tmp_path: Path) -> None:
    def tied() -> nn.Module:
        model = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
        model["b"].weight = model["a"].weight
        return model

    compressed_model.write_model(tied(), CompressedModel(factory="net:tied"), tmp_path)
    back, _ = compressed_model.load_model(tmp_path, UserCode(factory="net:tied", load=lambda _: tied))
    assert back.a.weight is back.b.weight  # type: ignore[union-attr]


def test_state_that_is_no_tensor_is_told() -> None:
    class Extra(nn.Linear):
        def get_extra_state(self) -> dict[str, int]:
            return {"a": 1}

    from pathlib import Path

    with pytest.raises(ModelError, match="_extra_state of the model is a dict"):
        compressed_model.write_model(Extra(2, 2), CompressedModel(factory="net:net"), Path("/nowhere"))
