"""onnxruntime sessions that compute a graph node by node, as it is written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgebuild.errors import EnvironmentGap, ModelError
from edgebuild.models.onnx_graphs import serialised

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray


def run_session(session: Any, names: list[str], feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Run a session; raises ``ModelError`` with the first line of what onnxruntime says."""
    try:
        values = session.run(names, dict(feeds))
    except Exception as error:  # onnxruntime's exceptions share no root of their own
        raise ModelError(f"onnxruntime can't run the model: {str(error).splitlines()[0][:300]}") from error
    return dict(zip(names, values, strict=True))


def make_session(model: Any, library: Path | None, threads: int, *, arena: bool = True) -> Any:
    """Return a session without graph optimisation; raises ``ModelError`` where the model can't be loaded.

    Without an ``arena`` it keeps no memory between runs.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise EnvironmentGap("onnxruntime is not installed.", hint="pip install 'edgebuild[onnxruntime]'") from error
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    options.enable_cpu_mem_arena = arena
    if library is not None:
        options.register_custom_ops_library(str(library))
    try:
        return onnxruntime.InferenceSession(serialised(model), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # as above
        raise ModelError(f"onnxruntime can't load the model: {str(error).splitlines()[0][:300]}") from error
