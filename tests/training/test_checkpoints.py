from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from edgebuild.training import checkpoints

if TYPE_CHECKING:
    from pathlib import Path


def test_nested_states_come_back_as_they_were(tmp_path: Path) -> None:
    shared = torch.arange(6.0).reshape(2, 3).T
    state = {
        "optimiser": {"state": {0: {"step": torch.tensor(3.0), "betas": (0.9, 0.999)}}, "groups": [{"lr": 0.1}, {}]},
        "tied": [shared, shared],
        "nothing": None,
        "flags": [True, "text", 2],
    }
    checkpoints.save(state, tmp_path / "deep" / "c.safetensors")
    back = checkpoints.load(tmp_path / "deep" / "c.safetensors")
    assert back is not None
    assert back["optimiser"]["state"][0]["betas"] == (0.9, 0.999)
    assert torch.equal(back["optimiser"]["state"][0]["step"], torch.tensor(3.0))
    assert all(torch.equal(tensor, shared) for tensor in back["tied"])
    assert (back["nothing"], back["flags"], back["optimiser"]["groups"]) == (None, [True, "text", 2], [{"lr": 0.1}, {}])
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["c.safetensors"]


def test_no_file_is_no_state(tmp_path: Path) -> None:
    assert checkpoints.load(tmp_path / "none") is None
