"""The user's ONNX file as what recipes start from: in the project's shapes, read, and compared with the file.

Imports torch inside functions only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgebuild.core.artifact import BATCH_AXIS
from edgebuild.errors import EdgebuildError, ModelError
from edgebuild.models.onnx_files import load_onnx
from edgebuild.models.onnx_graphs import label_of
from edgebuild.models.outputs import read_outputs, worst_mismatch
from edgebuild.models.torch_models import call_module, import_torch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from edgebuild.core.artifact import Contract, TensorSpec
    from edgebuild.core.steps import Progress
    from edgebuild.models.dataset import Dataset

#: Batch sizes that the module is compared with the file at.
BATCHES = (1, 2, 5)
#: A value inside the model is another where it is off by more than this, relative to the largest number of the tensor.
TOLERANCE = 1e-3


def arranged(model: Any, specs: tuple[TensorSpec, ...]) -> Any:
    """Return a copy whose inputs are in the order and the shapes of ``specs``: what named axes are there stay free."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    kinds = {value.name: value.type.tensor_type.elem_type for value in copy.graph.input}
    del copy.graph.input[:], copy.graph.value_info[:]
    copy.graph.input.extend(
        onnx.helper.make_tensor_value_info(spec.name, kinds[spec.name], spec.shape)
        for spec in specs
        if spec.name in kinds
    )
    return copy


def why_unreadable(path: Path, specs: tuple[TensorSpec, ...]) -> str:
    """Return why an ONNX file can't be read as a torch module, without a full stop; empty where it can."""
    try:
        import_torch()
        from edgebuild.models.onnx_torch.reading import read_module

        read_module(arranged(load_onnx(path), specs))
    except EdgebuildError as error:
        return f"{error.message[0].lower()}{error.message[1:].rstrip('.')}"
    return ""


def require_same(
    model: Any,
    specs: tuple[TensorSpec, ...],
    contract: Contract,
    dataset: Dataset,
    reference: Path,
    progress: Progress,
    check: Callable[[], None],
) -> Any:
    """Read an arranged model; return the module, which gives the file's outputs on real samples at several batch sizes.

    ``reference`` is a folder with the file's own outputs. Raises ``ModelError`` naming the first node that gives
    something else, where one can be found.
    """
    from edgebuild.models.onnx_torch.reading import read_module
    from edgebuild.models.steps import collect_outputs

    module = read_module(model)
    call = call_module(module, tuple(spec.name for spec in specs), tuple(spec.name for spec in contract.outputs))
    expected = read_outputs(reference)
    batches = BATCHES if any(BATCH_AXIS in spec.shape for spec in specs) else (contract.batch,)
    with progress.task("Comparing the module with the ONNX file", total=len(batches)) as task:
        for batch in batches:
            worst = worst_mismatch(expected, collect_outputs(call, dataset, contract, batch, check))
            if worst is not None:
                node = first_difference(model, _feeds(dataset, contract))
                raise ModelError(
                    f"Read as a torch module the ONNX file answers otherwise at batch size {batch}: output "
                    f"{worst[0]!r} of sample {worst[1]} is off by {worst[2]:.3g}{node and f', from node {node!r} on'}.",
                    hint="It can't be compressed by recipes; the candidates without one are built all the same.",
                )
            task.advance()
    return module


def _feeds(dataset: Dataset, contract: Contract) -> dict[str, NDArray[Any]]:
    import numpy as np

    from edgebuild.models.host_session import constant_array

    arrays = {spec.name: np.asarray(dataset.array(spec.name)[: contract.batch]) for spec in contract.inputs}
    return arrays | {constant.name: constant_array(constant) for constant in contract.constants}


def first_difference(model: Any, feeds: Mapping[str, NDArray[Any]]) -> str:
    """Name the first node whose outputs differ between the file and the module; empty where none can be found."""
    import numpy as np
    import onnx

    from edgebuild.models.host_session import HostSession
    from edgebuild.models.onnx_torch.reading import read_module

    open_model = onnx.ModelProto()
    open_model.CopyFrom(model)
    makers = {name: node for node in model.graph.node for name in node.output if name}
    del open_model.graph.output[:]
    open_model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in makers)
    try:
        theirs = HostSession(open_model)(feeds)
        order = tuple(value.name for value in model.graph.input)
        mine = call_module(read_module(open_model), order, tuple(makers))(feeds)
    except EdgebuildError:
        return ""
    for name, node in makers.items():
        a, b = (np.asarray(each[name], dtype=np.float64) for each in (mine, theirs))
        if a.shape != b.shape or np.abs(a - b).max(initial=0.0) > TOLERANCE * max(1.0, np.abs(b).max(initial=0.0)):
            return label_of(node)
    return ""
