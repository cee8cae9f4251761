"""Reads back what an engine really runs: each layer's precision, and where it runs."""

from __future__ import annotations

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Set

    Fields = Dict[str, Any]

#: Where the inspector's JSON names a tensor's type, and in what words; the first that fits counts.
TYPE_FIELDS = ("DataType", "Datatype", "Format/Datatype", "Format/DataType", "Format")
TYPE_WORDS = (
    ("int8", "int8"),
    ("bf16", "bf16"),
    ("bfloat", "bf16"),
    ("fp16", "fp16"),
    ("half", "fp16"),
    ("float16", "fp16"),
    ("fp32", "fp32"),
    ("float", "fp32"),
)
#: The builder's own words for where a layer went, in its INFO lines.
ON_DLA, ON_GPU = "[DlaLayer] ", "[GpuLayer] "


def described(engine: Any) -> List[Fields]:
    """Return the layers as the inspector tells of them: {name, op, precision, nodes}."""
    import tensorrt as trt

    text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    return [described_layer(each) for each in json.loads(text)["Layers"]]


def described_layer(layer: Any) -> Fields:
    """Read one layer of the inspector's JSON; an engine without detailed verbosity only has names."""
    if not isinstance(layer, dict):
        return {"name": str(layer), "op": "unknown", "precision": "unknown", "nodes": []}
    name = str(layer.get("Name", "unknown"))
    seen = [_precision(tensor) for tensor in [*layer.get("Inputs", []), *layer.get("Outputs", [])]]
    nodes = [part.strip() for part in name.replace("||", " + ").split(" + ")]
    nodes += [part.partition("]")[0] for part in str(layer.get("Metadata", "")).split("[ONNX Layer: ")[1:]]
    op = str(layer.get("LayerType", "unknown"))
    return {"name": name, "op": op, "precision": seen[0] if seen else "unknown", "nodes": nodes}


def _precision(tensor: Any) -> str:
    """Name a tensor's type: 8.5 and 10 say it in ``Format/Datatype``, 11 has split that into two fields."""
    fields = tensor if isinstance(tensor, dict) else {}
    text = " ".join(str(fields.get(name, "")) for name in TYPE_FIELDS).lower()
    return next((short for word, short in TYPE_WORDS if word in text), "unknown")


def lost_precision(found: List[Fields], expected: Dict[str, str], *, hidden: bool = False) -> List[str]:
    """Return the nodes that ``expected`` wants in int8 or fp16 and that run in fp32.

    A node that no layer names is taken for lost where no layer at all runs in its precision; not where ``hidden`` says
    that a DLA runs part of the model: it shows nothing of its inside, and has no fp32.
    """
    anywhere = {layer["precision"] for layer in found}
    lost = []
    for node, want in sorted(expected.items()):
        ran = [layer["precision"] for layer in found if node in layer["nodes"]]
        if want != "fp32" and (ran or not hidden) and want not in (ran or anywhere):
            lost.append(node)
    return lost


def placed(lines: List[str], refused: List[str]) -> Fields:
    """Return what the DLA runs and which layers fell back to the GPU.

    ``lines`` are the builder's own; ``refused`` the layers of which it said beforehand that a DLA can't run them.
    """
    on_dla = [line.partition(ON_DLA)[2].strip() for line in lines if ON_DLA in line]
    fell: Set[str] = set(refused)
    for line in lines:
        if ON_GPU in line:
            rest = line.partition(ON_GPU)[2].strip()
            fell.add(rest.partition(": ")[2] or rest)
    return {"on_dla": on_dla, "fell_back": sorted(fell)}
