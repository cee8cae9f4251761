"""Reads one request, runs one operation, ends."""

from __future__ import annotations

from . import artifact, folders, protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .protocol import Fields, Wire


def main() -> None:
    """Serve one request. Never returns: the process ends with the answer."""
    wire = protocol.Wire()
    try:
        wire.finish(_run(wire.request(), wire))
    except Exception as error:  # noqa: BLE001  whatever went wrong is the answer
        wire.fail(error)


def _run(request: Fields, wire: Wire) -> Fields:
    """Import what the operation needs and no more: what is imported counts in its memory and its start."""
    op = request["op"]
    folders.require_inside(request)
    if "attempt" in request:
        from . import hold

        hold.require_current(request)
    if op == "hold":
        from . import hold

        return hold.hold(request, wire)
    if op == "clocks":
        from . import clocks

        return clocks.pin(request, wire)
    if op == "probe":
        from . import facts

        return facts.probe(request)
    if op == "stage":
        from . import staging

        return staging.stage(request)
    if op == "evaluate":
        from . import evaluate

        return evaluate.evaluate(request, wire)
    if op == "measure":
        from . import measure

        return measure.measure(request, wire)
    if op == "throughput":
        from . import throughput

        return throughput.throughput(request, wire)
    if op == "memory":
        from . import memory

        return memory.memory(request, wire)
    if op == "energy":
        from . import energy

        return energy.energy(request, wire)
    if op == "count":
        from . import count

        return count.count(request)
    if op in ("python", "site"):
        from . import packages

        return getattr(packages, op)(request)  # type: ignore[no-any-return]
    if op == "install":
        from . import packages

        return packages.install(request, wire)
    if op == "layers":
        return artifact.layers(request)
    if op == "compile":
        return artifact.compile(request, wire)
    raise protocol.Problem("usage", "The runner has no operation %r." % op)


if __name__ == "__main__":
    main()
