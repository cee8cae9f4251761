"""How a candidate is compiled, said once: what stands in for it elsewhere is compiled by the same request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgebuild.backends.protocol import CompileRequest

if TYPE_CHECKING:
    from edgebuild.building.context import BuildContext
    from edgebuild.core.artifact import Contract
    from edgebuild.planning.plan import PlannedCandidate


def compile_request(context: BuildContext, planned: PlannedCandidate, contract: Contract) -> CompileRequest:
    """Return how the candidate is compiled, and with it a stage, a layer or a variant of it, each with its contract."""
    return CompileRequest(
        precision=planned.precision,
        contract=contract,
        on_device=context.can.runs,
        libraries=tuple(path for path in (context.project.custom_ops_path,) if path is not None),
        accelerator=planned.accelerator,
        features=planned.features,
    )
