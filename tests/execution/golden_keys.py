"""The key of one instance of every step, so that no change of structure changes what is found again.

``golden_keys.json`` holds, by the step's kind, the digest of its key's parts without versions and the names of its
parameters. ``python tests/execution/golden_keys.py`` rewrites it, after a change that is meant to change keys.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgebuild.catalogue.project_tables import MetricTable
from edgebuild.core.artifact import Contract, Int8Scheme, Precision, TensorSpec
from edgebuild.core.budget import Budget
from edgebuild.core.values import digest_json
from edgebuild.execution.keys import key_parts
from edgebuild.measuring.protocols import LAYERS
from edgebuild.models.compressed_model import CodeNames
from edgebuild.models.edits import AddHead
from edgebuild.techniques.factorising.factorise import Factorise
from edgebuild.techniques.registry import techniques_by_name
from tests.execution.step_lock import steps

GOLDEN = Path(__file__).with_name("golden_keys.json")

SPEC = TensorSpec(name="x", shape=("batch", 3), dtype="float32")
CONTRACT = Contract(inputs=(SPEC,), outputs=(SPEC.model_copy(update={"name": "y"}),))
SCHEME = Int8Scheme(activations="uint8")
#: A value for every field of a step, by its name: another than its default, so that each is in the key.
VALUES: dict[str, Any] = {
    "accelerator": "dla",
    "backend": "onnxruntime",
    "batch": 2,
    "budget": Budget(points=1.0),
    "channel_multiple": 8,
    "code": CodeNames(factory="net:make"),
    "content": "c0",
    "contract": CONTRACT,
    "data_version": "1",
    "factory": "net:make",
    "frames": 7,
    "heads": (AddHead(name="exit1", after="1", features=4, outputs=3),),
    "int8": SCHEME,
    "keep_float": ("a",),
    "lengths": (1, 2),
    "level": 0.9,
    "libraries": (("ops.so", "d16e57"),),
    "library_paths": (),
    "loader": "data:loader",
    "loss": "losses:mine",
    "metric": MetricTable(name="accuracy"),
    "model_digest": "50de1",
    "order": ("x",),
    "pin_clocks": True,
    "plugin_digest": "9109",
    "precision": Precision(kind="int8", quantiser="edgebuild", scheme=SCHEME),
    "protocol": LAYERS,
    "rows": (0, 1),
    "sample": "two frames",
    "samples": 9,
    "scheme": SCHEME,
    "settings": (("threads", 1),),
    "shapes": (("x", (1, 3)),),
    "source": "data:test",
    "sparse": True,
    "specs": (SPEC,),
    "split": "test",
    "stateful": True,
    "values": ("0.5",),
    "who": "x/fp32",
    "workspace_bytes": 5,
}


def example(step: type[Any]) -> Any:
    """Return an instance of a step with no field at its default."""
    values = {name: VALUES[name] for name in step.model_fields if name in VALUES}
    if step.kind in techniques_by_name():
        values["parameters"] = step.Parameters()
    if step.kind == "export-layer-pairs":
        values["step"] = example(Factorise)
    return step(**values)


def golden() -> dict[str, dict[str, Any]]:
    """Return what the file should hold."""
    found = {}
    for step in steps():
        made = example(step)
        parts = key_parts(
            made,
            {"model": "0" * 64},
            seed=3,
            isa="avx2",
            device_configuration={"cpu": "c", "runner": "r"},
            code_digest="c0de",
        )
        stable = {**parts, "tools": sorted(made.all_tools()), "version": None}
        found[made.kind] = {"parts": digest_json(stable), "parameters": sorted(made.key_fields())}
    return found


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(golden(), indent=1, sort_keys=True) + "\n")
