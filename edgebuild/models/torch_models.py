"""A torch model by the user's factory: load its weights, run it as the reference, export it to ONNX."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import warnings
from typing import TYPE_CHECKING, Any

from edgebuild.core.artifact import BATCH_AXIS
from edgebuild.errors import EnvironmentGap, ModelError
from edgebuild.models.external_data import LARGEST_BYTES, SMALLER
from edgebuild.models.onnx_graphs import settle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from edgebuild.core.artifact import TensorSpec

#: torch.export takes a batch of 1 for a constant, so examples have 2.
EXAMPLE_BATCH = 2
EXAMPLE_AXIS = 3


def import_torch() -> Any:
    """Return torch, or say how to install it."""
    try:
        import torch
    except ImportError as error:
        raise EnvironmentGap("torch is not installed.", hint="pip install 'edgebuild[torch]'") from error
    return torch


def make_module(factory: Callable[[], Any], name: str, weights: Path | None) -> Any:
    """Return the user's module in eval mode with its weights loaded strictly, and made plain: see ``baking``.

    A tensor that is tied to another may be missing in the file, as ``safetensors.torch.save_model`` leaves it out.
    What ``torch.compile`` or ``DataParallel`` made of a module is taken for the module inside. Raises ``ModelError``
    when the factory raises or returns something else, a compiled program among it, or when names or shapes don't match.
    """
    torch = import_torch()
    try:
        module = factory()
    except Exception as error:
        raise ModelError(
            f"The model factory {name} failed: {type(error).__name__}: {error}",
            hint="Call it directly to see the whole error.",
        ) from error
    _refuse_programs(module, name)
    if not isinstance(module, torch.nn.Module):
        raise ModelError(
            f"The model factory {name} returned a {type(module).__name__}, not a torch.nn.Module.",
            hint="Return the module itself, not its weights: those are the file that [model].weights names.",
        )
    if weights is not None:
        _load_weights(module, weights)
    while (inner := _wrapped(module)) is not None:
        module = inner
    lazy = [n for n, p in module.named_parameters() if isinstance(p, torch.nn.parameter.UninitializedTensorMixin)]
    if lazy:
        raise ModelError(
            f"{name} returned a model whose {lazy[0]} has no shape yet: it is a lazy layer that never ran.",
            hint="Run the model once on an example inside the factory.",
        )
    from edgebuild.models.baking import bake

    module.eval()
    bake(module)
    return module


def _refuse_programs(made: Any, name: str) -> None:
    """Raise for what torch.jit and torch.export make: a program without the Python modules that we look at and edit."""
    torch = import_torch()
    if isinstance(made, torch.jit.ScriptModule):
        kind, how = "TorchScript program", "torch.onnx.export(it, examples, 'model.onnx', dynamo=False)"
    elif any(kind.__module__.startswith("torch.export.") for kind in type(made).__mro__):
        kind, how = "torch.export program", "torch.onnx.export(exported_program, dynamo=True).save('model.onnx')"
    else:
        return
    raise ModelError(
        f"The model factory {name} returned a {kind}, whose Python code is gone.",
        hint=f"Return the module that it was made of; or export it, {how}, and give [model].onnx.",
    )


def _wrapped(module: Any) -> Any | None:
    """Return the module inside one that only runs it in another way."""
    if isinstance(module, import_torch().nn.DataParallel):
        return module.module
    return module._modules.get("_orig_mod")  # torch.compile's; naming its class would import the compiler


def _load_weights(module: Any, path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if path.suffix != ".safetensors":
        raise ModelError(
            f"{path}: weights are read from .safetensors files only, since a {path.suffix or 'file'} can run code.",
            hint="`edgebuild init FILE.pt` says how to convert it.",
        )
    try:
        state = load_file(str(path))
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} can't be read as safetensors: {error}", hint="Is the file complete?") from error
    own = module.state_dict(keep_vars=True)
    for prefix, who in _PREFIXES.items():
        if state and all(name.startswith(prefix) for name in state) and not any(n.startswith(prefix) for n in own):
            raise ModelError(
                f"{path} doesn't fit the model: every name in it starts with {prefix!r}, as {who} writes them.",
                hint=f"Save the module inside: save_model(model.{prefix.rstrip('.')}, ...).",
            )
    _refuse_codes(own, state, path)
    try:
        module.load_state_dict({**state, **_tied(own, state)}, strict=True)
    except Exception as error:  # RuntimeError for what doesn't fit, and whatever hooks of the user's raise
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        text = " ".join(lines[1:3] or lines) or type(error).__name__
        raise ModelError(
            f"{path} doesn't fit the model: {text[:300]}",
            hint="The factory must build the very architecture that the weights were trained with.",
        ) from error


def _refuse_codes(own: Mapping[str, Any], state: Mapping[str, Any], path: Path) -> None:
    """Raise for whole numbers in place of the model's floats: loaded, a quantiser's codes would pass for weights."""
    for name, tensor in state.items():
        kind = getattr(own.get(name), "dtype", None)
        if kind is not None and kind.is_floating_point and not tensor.dtype.is_floating_point:
            held, wanted = (str(each).removeprefix("torch.") for each in (tensor.dtype, kind))
            raise ModelError(
                f"{path} doesn't fit the model: its {name} is {held}, the model's {wanted}.",
                hint="Save the weights from before they were quantised.",
            )


#: What wrappers put before every name.
_PREFIXES = {"module.": "DataParallel", "_orig_mod.": "torch.compile"}


def _tied(own: Mapping[str, Any], state: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a file leaves out because it is the same memory as what the file holds."""
    torch = import_torch()

    def memory(tensor: Any) -> Any:
        if not isinstance(tensor, torch.Tensor) or isinstance(tensor, torch.nn.parameter.UninitializedTensorMixin):
            return None
        storage = tensor.untyped_storage()
        return storage.data_ptr() and (storage.data_ptr(), tensor.storage_offset(), tensor.shape, tensor.stride())

    present = {key: name for name, tensor in own.items() if name in state and (key := memory(tensor))}
    missing = {name: memory(tensor) for name, tensor in own.items() if name not in state}
    return {name: state[present[key]] for name, key in missing.items() if key and key in present}


def call_module(
    module: Any, order: tuple[str, ...], outputs: tuple[str, ...]
) -> Callable[[Mapping[str, NDArray[Any]]], dict[str, NDArray[Any]]]:
    """Return a function from named arrays to named arrays that runs the module eagerly without gradients.

    Raises ``ModelError`` when the module raises (a wrong shape or dtype, with the layer named) or returns other than
    one tensor per output name.
    """
    torch = import_torch()

    def call(feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        with torch.inference_mode():
            try:
                result = module(*(torch.from_numpy(feeds[name].copy()) for name in order))
            except Exception as error:
                raise ModelError(
                    f"The model failed in {failing_layer(error, module)}: {type(error).__name__}: "
                    f"{str(error).splitlines()[0][:300] if str(error) else ''}",
                    hint="forward() gets a tensor for each of [[inputs]] in edgebuild.toml, in that order: check their "
                    "shapes and dtypes.",
                ) from error
        values = flatten(result)
        if len(values) != len(outputs):
            raise ModelError(
                f"The model returned {len(values)} outputs, {len(outputs)} are named: {', '.join(outputs)}."
            )
        strange = [type(value).__name__ for value in values if not isinstance(value, torch.Tensor)]
        if strange:
            raise ModelError(
                f"The model returned a {strange[0]} where a tensor belongs.",
                hint="forward() must return tensors, or tuples, lists and dicts of them.",
            )
        return {name: _as_array(value, name) for name, value in zip(outputs, values, strict=True)}

    return call


def _as_array(value: Any, name: str) -> Any:
    try:
        return value.detach().numpy()
    except (TypeError, RuntimeError) as error:  # bfloat16, a sparse tensor, another device
        raise ModelError(
            f"The model's output {name!r} is a {str(value.dtype).removeprefix('torch.')} tensor on {value.device}, "
            "which can't be read as an array.",
            hint="Return it as .float(), dense and on the CPU.",
        ) from error


def flatten(result: Any) -> list[Any]:
    """Return the tensors of a module's result in order: a tensor, or (nested) tuples, lists and dicts of them."""
    if isinstance(result, dict):
        result = list(result.values())
    if isinstance(result, tuple | list):
        return [tensor for part in result for tensor in flatten(part)]
    return [result]


def failing_layer(error: BaseException, module: Any) -> str:
    """Name the innermost submodule on the traceback of an error that a module's call raised."""
    names = {id(child): name or "the model itself" for name, child in module.named_modules()}
    layer = "the model itself"
    trace = error.__traceback__
    while trace is not None:
        layer = names.get(id(trace.tb_frame.f_locals.get("self")), layer)
        trace = trace.tb_next
    return repr(layer) if layer != "the model itself" else layer


def example_inputs(
    specs: tuple[TensorSpec, ...],
    samples: Mapping[str, NDArray[Any]],
    constants: Mapping[str, NDArray[Any]] | None = None,
) -> tuple[Any, ...]:
    """Return example tensors: real samples repeated to a batch (of 2 where it is dynamic), zeros for states."""
    import numpy as np

    torch = import_torch()
    examples = []
    for spec in specs:
        if spec.name in samples:
            array, batch = np.asarray(samples[spec.name]), _example_size(spec.shape[0])
            array = array if len(array) >= batch else np.repeat(array[:1], batch, axis=0)
            examples.append(torch.from_numpy(array[:batch].copy()))  # the mapped file is read-only
        elif constants and spec.name in constants:
            examples.append(torch.from_numpy(constants[spec.name]))
        else:
            sizes = [_example_size(axis) for axis in spec.shape]
            examples.append(torch.from_numpy(np.zeros(sizes, dtype=spec.dtype)))
    return tuple(examples)


def _example_size(axis: int | str) -> int:
    if isinstance(axis, int):
        return axis
    return EXAMPLE_BATCH if axis == BATCH_AXIS else EXAMPLE_AXIS


def export(
    module: Any,
    examples: tuple[Any, ...],
    specs: tuple[TensorSpec, ...],
    outputs: tuple[str, ...],
    path: Path,
    *,
    quick: bool = False,
) -> str:
    """Write the module as ONNX with its named axes dynamic; return the name of the exporter that did it.

    torch's dynamo exporter first, the older tracing one where that fails (the other way round if ``quick``); whether
    the result is *right* is for the parity check to say. Raises ``ModelError`` with both reasons when neither can, and
    for a module that is larger than one ONNX file can be.
    """
    _refuse_large(module)
    failures: list[str] = []
    exporters = (("dynamo", _export_dynamo), ("tracing", _export_tracing))
    for name, exporter in exporters[::-1] if quick else exporters:
        try:
            with _quiet():
                exporter(module, examples, specs, outputs, path)
            settle(path, writer="torch's exporter")
        except Exception as error:  # noqa: BLE001 - both exporters raise whatever their insides raise
            failures.append(f"{name}: {_reason(error)}")
        else:
            return name
    raise ModelError(
        f"The model doesn't export to ONNX ({'; '.join(failures)}).",
        hint="Remove data-dependent Python control flow from forward(), or export it yourself and give [model].onnx.",
    )


def _refuse_large(module: Any) -> None:
    size = sum(tensor.numel() * tensor.element_size() for tensor in (*module.parameters(), *module.buffers()))
    if size > LARGEST_BYTES:
        raise ModelError(f"The model's tensors take {size / 1e9:.1f} GB.", hint=SMALLER)


def _reason(error: BaseException) -> str:
    """The first line of the error at the root: the exporters wrap it in their own advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def _export_dynamo(
    module: Any, examples: tuple[Any, ...], specs: tuple[TensorSpec, ...], outputs: tuple[str, ...], path: Path
) -> None:
    torch = import_torch()
    named = {axis for spec in specs for axis in spec.shape if isinstance(axis, str)}
    dims = {axis: torch.export.Dim(axis) for axis in sorted(named)}
    shapes = tuple({i: dims[axis] for i, axis in enumerate(s.shape) if isinstance(axis, str)} for s in specs)
    program = torch.onnx.export(
        module,
        examples,
        dynamo=True,
        dynamic_shapes=_as_called(module, shapes),
        input_names=[spec.name for spec in specs],
        output_names=list(outputs),
        verbose=False,
    )
    program.save(str(path), external_data=False)


def _as_called(module: Any, shapes: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return one entry for each parameter of forward(): what goes into ``*inputs`` is one of its own."""
    kinds = [parameter.kind for parameter in inspect.signature(module.forward).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL not in kinds:
        return shapes
    start = kinds.index(inspect.Parameter.VAR_POSITIONAL)
    return (*shapes[:start], shapes[start:])


def _export_tracing(
    module: Any, examples: tuple[Any, ...], specs: tuple[TensorSpec, ...], outputs: tuple[str, ...], path: Path
) -> None:
    torch = import_torch()
    axes = {s.name: {i: axis for i, axis in enumerate(s.shape) if isinstance(axis, str)} for s in specs}
    torch.onnx.export(
        module,
        examples,
        str(path),
        dynamo=False,
        input_names=[spec.name for spec in specs],
        output_names=list(outputs),
        dynamic_axes={name: dims for name, dims in axes.items() if dims}
        | {name: {0: BATCH_AXIS} for name in outputs if any(BATCH_AXIS in s.shape for s in specs)},
        opset_version=17,
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' chatter off the terminal; failures still raise.

    Fused attention is off meanwhile: the tracing exporter doesn't know it, and says so at length.
    """
    mha = import_torch().backends.mha
    fused = mha.get_fastpath_enabled()
    mha.set_fastpath_enabled(False)
    previous = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
        mha.set_fastpath_enabled(fused)
