"""Which names of TensorRT's Python API the device code uses, read from its source."""

from __future__ import annotations

import ast
from pathlib import Path

from edgebuild.backends.trt import device

#: What the variables of the device code hold.
HOLDS = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "error": "ParserError",
    "config": "IBuilderConfig",
    "profile": "IOptimizationProfile",
    "timing": "ITimingCache",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
    "block": "ILayer",
}
#: Calls on what another call just returned.
CHAINED = {"get_engine_information": "EngineInspector", "num_DLA_cores": "Builder"}
#: Names that are looked up with ``getattr``, as the device code spells them.
LOOKED_UP = {
    "BuilderFlag": ("FP16", "INT8"),
    "NetworkDefinitionCreationFlag": ("EXPLICIT_BATCH", "STRONGLY_TYPED"),
}
#: What the device code asks for with ``hasattr`` before it is used; a release may lack it.
ASKED_FOR = {
    "BuilderFlag.FP16",
    "BuilderFlag.INT8",
    "BuilderFlag.OBEY_PRECISION_CONSTRAINTS",
    "BuilderFlag.SPARSE_WEIGHTS",
    "BuilderFlag.TF32",
    "IBuilderConfig.progress_monitor",
    "IProgressMonitor",
    "NetworkDefinitionCreationFlag.EXPLICIT_BATCH",
    "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
    "ParserError.node_name",
    "ParserError.node_operator",
    "ProfilingVerbosity",
    "ProfilingVerbosity.DETAILED",
}


def used() -> set[str]:
    """Return every name as ``Class``, ``Class.member`` or ``function``."""
    names = {f"{kind}.{name}" for kind, members in LOOKED_UP.items() for name in members}
    for path in Path(device.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                names |= _named(node)
    return names - {"__version__"}


def calls() -> dict[str, int]:
    """Return with how many arguments each method is called, where that can be counted."""
    found = {}
    for path in Path(device.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            if not any(isinstance(each, ast.Starred) for each in node.args):
                found.update(dict.fromkeys(_named(node.func), len(node.args) + len(node.keywords)))
    return {name: count for name, count in found.items() if "." in name}


def _named(node: ast.Attribute) -> set[str]:
    chain, value = [node.attr], node.value
    while isinstance(value, ast.Attribute):
        chain.insert(0, value.attr)
        value = value.value
    first = value.id if isinstance(value, ast.Name) else ""
    if first == "trt":
        return {".".join(part for part in chain if part != "__init__")}
    if first in ("self", "session") and len(chain) > 1 and chain[0] in HOLDS:
        return {f"{HOLDS[chain[0]]}.{chain[1]}"}
    if first in HOLDS:
        return {f"{HOLDS[first]}.{chain[0]}"}
    return {f"{CHAINED[node.attr]}.{node.attr}"} if node.attr in CHAINED else set()
