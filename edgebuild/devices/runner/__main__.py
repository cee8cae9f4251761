"""Reads one request, runs one operation, ends."""

from __future__ import annotations

import importlib

from . import folders, protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .protocol import Fields, Wire

#: The operation whose processes take turns: one runs, the others are paused.
BURSTS = "bursts"
#: The module and the function of each operation, and whether it tells how far it is.
OPERATIONS = {
    BURSTS: ("bursts", "bursts", True),
    "clocks": ("clocks", "pin", True),
    "compile": ("artifact", "compile", True),
    "count": ("count", "count", False),
    "energy": ("energy", "energy", True),
    "evaluate": ("evaluate", "evaluate", True),
    "hold": ("hold", "hold", True),
    "install": ("packages", "install", True),
    "layers": ("artifact", "layers", False),
    "measure": ("measure", "measure", True),
    "memory": ("memory", "memory", True),
    "probe": ("facts", "probe", False),
    "python": ("packages", "python", False),
    "site": ("packages", "site", False),
    "stage": ("staging", "stage", False),
    "throughput": ("throughput", "throughput", True),
}


def main() -> None:
    """Serve one request. Never returns: the process ends with the answer."""
    wire = protocol.Wire()
    try:
        request = wire.request()
        if request.get("op") == BURSTS:
            wire.pause_between_turns()
        wire.listen()
        wire.finish(_run(request, wire))
    except Exception as error:  # noqa: BLE001  whatever went wrong is the answer
        wire.fail(error)


def _run(request: Fields, wire: Wire) -> Fields:
    """Import what the operation needs and no more: what is imported counts in its memory and its start."""
    op = request["op"]
    folders.require_inside(request)
    if "attempt" in request:
        from . import hold

        hold.require_current(request)
    if op not in OPERATIONS:
        raise protocol.Problem("usage", "The runner has no operation %r." % op)
    module, function, tells = OPERATIONS[op]
    run = getattr(importlib.import_module("." + module, __package__), function)
    answer: Fields = run(request, wire) if tells else run(request)
    return answer


if __name__ == "__main__":
    main()
