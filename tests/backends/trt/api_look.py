"""Looks at real TensorRT bindings. As a program (``python api_look.py DEVICE NAMES``) it runs on Python 3.8 or later.

Then it imports the device code as the runner does, goes as far as a machine without a GPU allows, and prints what it
saw as one line of JSON.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any, Dict, Iterable, List, Tuple  # noqa: UP035  3.8 has no other names for them


def missing(module: Any, used: Iterable[str]) -> List[str]:  # noqa: UP006
    """Return the used names that a real module lacks."""
    lacking = []
    for name in sorted(used):
        found = module
        for part in name.split("."):
            found = getattr(found, part, None)
        if found is None:
            lacking.append(name)
    return lacking


def miscounted(module: Any, calls: Dict[str, int]) -> List[str]:  # noqa: UP006
    """Return the calls whose number of arguments the bindings' own signature doesn't allow."""
    wrong = []
    for name, count in sorted(calls.items()):
        kind, _, member = name.partition(".")
        text = getattr(getattr(getattr(module, kind, None), member, None), "__doc__", None) or ""
        spans = [arguments(line) for line in text.splitlines() if f"{member}(self" in line]
        if spans and not any(least <= count <= most for least, most in spans):
            wrong.append(f"{name} takes {spans}, is given {count}")
    return wrong


def arguments(signature: str) -> Tuple[int, int]:  # noqa: UP006
    """Return how many arguments a signature as pybind11 prints it takes, at least and at most, without ``self``."""
    inside, depth, parts = signature.partition("(")[2].partition(") ->")[0], 0, [""]
    for character in inside:
        depth += (character in "([{<") - (character in ")]}>")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return sum(" = " not in part for part in parts[1:]), len(parts) - 1


def _look(folder: Path, names: Dict[str, Any]) -> Dict[str, Any]:  # noqa: UP006
    import tensorrt as trt

    spec = importlib.util.spec_from_file_location(
        "device", str(folder / "__init__.py"), submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    assert spec.loader is not None
    device = importlib.util.module_from_spec(spec)
    sys.modules["device"] = device
    spec.loader.exec_module(device)
    from device import log as logs  # type: ignore[import-not-found]

    def refusal(call: Any) -> Any:
        try:
            call()
        except device.Problem as error:
            return [error.kind, str(error)]
        return None

    (folder_of_out := Path(sys.argv[2]).parent / "out").mkdir(exist_ok=True)
    return {
        "version": device.version(),
        "missing": missing(trt, names["used"]),
        "miscounted": miscounted(trt, names["calls"]),
        "phases": logs.monitor(device.Log()) is not None,
        "facts": device.facts(),
        "types": [device.numpy_type(kind) for kind in trt.DataType.__members__.values()],
        "builder": refusal(lambda: logs.made(trt.Builder, device.Log())),
        "runtime": refusal(lambda: logs.made(trt.Runtime, device.Log())),
        "plan": refusal(lambda: device.plan("no-such-file", {"precision": "fp32"}, device.Log())),
        "compile": refusal(lambda: device.compile("no-such-file", str(folder_of_out), {"precision": "fp32"})),
        "session": refusal(lambda: device.Session({"entry": device.ENGINE}, str(folder_of_out), {})),
    }


if __name__ == "__main__":
    print(json.dumps(_look(Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text()))))
