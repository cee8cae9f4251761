"""Checkpoints without pickle: one safetensors file, tensors as tensors and the rest as JSON in its header.

A kill at any moment leaves the old file or the new one.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from edgebuild.errors import EnvironmentGap, ModelError

if TYPE_CHECKING:
    from pathlib import Path

_TENSOR = "$tensor"
_PAIRS = "$pairs"
_TUPLE = "$tuple"
#: The header entry that holds the JSON.
_ENTRY = "edgebuild"


def save(state: Any, path: Path) -> None:
    """Write nested dicts, lists and tuples of tensors and plain numbers and texts.

    Raises ``ModelError`` naming where something else is (an optimiser of the user's may keep anything in its state),
    and ``EnvironmentGap`` for a full or read-only disk.
    """
    tensors: dict[str, torch.Tensor] = {}
    plain = json.dumps(_packed(state, "", tensors))
    fresh = path.with_name(path.name + ".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, fresh, metadata={_ENTRY: plain})
        with fresh.open("rb+") as file:
            os.fsync(file.fileno())
        fresh.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except (OSError, SafetensorError) as error:
        raise EnvironmentGap(
            f"The training's checkpoint {path} can't be written: {error}", hint="Make room, or check permissions."
        ) from error


def load(path: Path) -> Any | None:
    """Return what ``save`` wrote, on the CPU; ``None`` where there is no file or a damaged one."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            plain = json.loads((file.metadata() or {})[_ENTRY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            return _unpacked(plain, tensors)
    except (SafetensorError, OSError, KeyError, ValueError):
        return None


def _packed(value: Any, where: str, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        # A copy, since safetensors refuses memory that two names share (tied weights).
        tensors[where] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {_TENSOR: where}
    if isinstance(value, dict):
        # JSON's keys are texts, an optimiser's are numbers.
        return {_PAIRS: [[key, _packed(item, f"{where}/{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, tuple | list):
        items = [_packed(item, f"{where}/{number}", tensors) for number, item in enumerate(value)]
        return {_TUPLE: items} if isinstance(value, tuple) else items
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ModelError(
        f"A checkpoint can't hold the {type(value).__name__} at {where.lstrip('/') or 'its root'}.",
        hint="Keep tensors, numbers, texts, lists and dicts of them in an optimiser's or a hook's state.",
    )


def _unpacked(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpacked(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if _TENSOR in value:
        return tensors[value[_TENSOR]]
    if _TUPLE in value:
        return tuple(_unpacked(item, tensors) for item in value[_TUPLE])
    return {key: _unpacked(item, tensors) for key, item in value[_PAIRS]}
