"""What a torch module takes and gives, as its ``forward()``, its layers and one run on a sample show it."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgebuild.core.artifact import BATCH_AXIS, TensorSpec
from edgebuild.models.torch_models import flatten, import_torch

if TYPE_CHECKING:
    from collections.abc import Mapping

#: By the class of a module's first layer: the attribute with the size of axis 1, the axes behind it, and the dtype.
FIRST_LAYERS: Mapping[str, tuple[str, tuple[str, ...], str]] = {
    "Conv1d": ("in_channels", ("length",), "float32"),
    "Conv2d": ("in_channels", ("height", "width"), "float32"),
    "Conv3d": ("in_channels", ("depth", "height", "width"), "float32"),
    "Linear": ("in_features", (), "float32"),
    "Embedding": ("", ("length",), "int64"),
}
POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True, kw_only=True)
class Tried:
    """Inputs in the order of ``forward()`` and outputs, batch axis included; ``guessed`` inputs have shapes by layers.

    ``problem`` says why the module couldn't be run on the sample, if so.
    """

    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    guessed: tuple[str, ...] = ()
    problem: str = ""


def try_module(module: Any, sample: Mapping[str, Any]) -> Tried:
    """Look at a module; run it once on ``sample``, arrays by input name without the batch axis, unless it is empty."""
    parameters = inspect.signature(module.forward).parameters.values()
    names = [one.name for one in parameters if one.kind in POSITIONAL and one.default is one.empty]
    # Inputs are fed by their order, so their names are the samples' to choose where the order is no question.
    if sample and len(sample) == len(names) == 1:
        names = list(sample)
    if not sample or set(sample) != set(names):
        inputs = tuple(_guess(module if index == 0 else None, name) for index, name in enumerate(names))
        problem = f"forward() takes {', '.join(names)}, and a sample has {', '.join(sample)}" if sample else ""
        return Tried(inputs=inputs, guessed=tuple(names), problem=problem)
    arrays = [_array(sample[name]) for name in names]
    inputs = tuple(
        TensorSpec(name=name, shape=(BATCH_AXIS, *array.shape), dtype=array.dtype.name)
        for name, array in zip(names, arrays, strict=True)
    )
    torch = import_torch()
    try:
        with torch.no_grad():
            results = flatten(module(*(torch.from_numpy(array[None]) for array in arrays)))
    except Exception as error:  # noqa: BLE001 - the user's own code, which is only looked at here
        return Tried(inputs=inputs, problem=f"it can't be run on a sample: {type(error).__name__}: {error}")
    outputs = tuple(
        TensorSpec(name=f"output{index}", shape=(BATCH_AXIS, *value.shape[1:]), dtype=value.numpy().dtype.name)
        for index, value in enumerate(results)
    )
    return Tried(inputs=inputs, outputs=outputs)


def _array(value: Any) -> Any:
    import numpy as np

    return np.ascontiguousarray(value)


def _guess(module: Any, name: str) -> TensorSpec:
    """Return an input as the first layer that is known takes it; of no module, or none such, one of unknown length."""
    for layer in module.modules() if module is not None else ():
        names = (ancestor.__name__ for ancestor in type(layer).__mro__)  # a layer of one's own is mostly derived
        known = next((FIRST_LAYERS[name] for name in names if name in FIRST_LAYERS), None)
        if known is not None:
            size, axes, dtype = known
            sizes = (int(getattr(layer, size)),) if size else ()
            return TensorSpec(name=name, shape=(BATCH_AXIS, *sizes, *axes), dtype=dtype)
    return TensorSpec(name=name, shape=(BATCH_AXIS, "length"), dtype="float32")
