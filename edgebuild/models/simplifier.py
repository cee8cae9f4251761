"""`python -m edgebuild.models.simplifier IN OUT [LIBRARY]`: onnxruntime's basic optimisations, in their own process.

Exits with 0, with 1 and the reason on stderr when onnxruntime refuses the model, or with ``NOT_INSTALLED``.
"""

from __future__ import annotations

import sys

from edgebuild.models.onnx_files import NOT_INSTALLED


def main(source: str, target: str, library: str | None = None) -> int:
    """Write the simplified model; return the exit status."""
    try:
        import onnxruntime
    except ImportError:
        return NOT_INSTALLED
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 4
    options.optimized_model_filepath = target
    if library is not None:
        options.register_custom_ops_library(library)
    try:
        onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001 - onnxruntime's exceptions share no root of their own
        print(str(error), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
