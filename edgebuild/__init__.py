"""edgebuild builds the fastest model artifact that is proven, on the device, to stay inside an accuracy budget.

The public API. Everything heavy is imported when it is first used.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgebuild.benching.bench import BenchRequest
    from edgebuild.building.context import Options
    from edgebuild.building.projects import load_project
    from edgebuild.catalogue.project import Project
    from edgebuild.core.data import Sample
    from edgebuild.core.record import BuildRecord
    from edgebuild.errors import EdgebuildError
    from edgebuild.pipeline import bench, build, plan
    from edgebuild.planning.plan import Plan

# edgebuild sends nothing anywhere: onnxruntime asks for this when it is imported, here and in every process of ours.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

__version__ = "0.1.0"

__all__ = [
    "BenchRequest",
    "BuildRecord",
    "EdgebuildError",
    "Options",
    "Plan",
    "Project",
    "Sample",
    "__version__",
    "bench",
    "build",
    "load_project",
    "plan",
]

_WHERE = {
    "BenchRequest": "edgebuild.benching.bench",
    "BuildRecord": "edgebuild.core.record",
    "EdgebuildError": "edgebuild.errors",
    "Options": "edgebuild.building.context",
    "Plan": "edgebuild.planning.plan",
    "Project": "edgebuild.catalogue.project",
    "Sample": "edgebuild.core.data",
    "bench": "edgebuild.pipeline",
    "build": "edgebuild.pipeline",
    "load_project": "edgebuild.building.projects",
    "plan": "edgebuild.pipeline",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'edgebuild' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)
