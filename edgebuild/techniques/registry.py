"""Who can compress a torch model: one explicit table, and the entry points of other packages.

The table of quantisers and precisions (``edgebuild.quantisers.registry``) is another one: those make a candidate's
precision out of a frozen ONNX file; these change the torch model before it is exported, as a recipe's steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgebuild.core.registry import Registry
from edgebuild.techniques.distilling.distil import Distil
from edgebuild.techniques.exit_early import ExitEarly
from edgebuild.techniques.factorising.factorise import Factorise
from edgebuild.techniques.factorising.substitute import Substitute
from edgebuild.techniques.low_bit.apprentice import Apprentice
from edgebuild.techniques.low_bit.binary_weights import BinaryWeights
from edgebuild.techniques.low_bit.qat import Qat
from edgebuild.techniques.low_bit.share_weights import ShareWeights
from edgebuild.techniques.pruning.structured import PruneStructured
from edgebuild.techniques.pruning.unstructured import PruneUnstructured
from edgebuild.techniques.resizing.resize import Resize
from edgebuild.techniques.technique import Parameters, Technique

if TYPE_CHECKING:
    from collections.abc import Mapping

GROUP = "edgebuild.techniques"

TABLE: Mapping[str, type[Technique]] = {
    "apprentice": Apprentice,
    "binary-weights": BinaryWeights,
    "distil": Distil,
    "exit-early": ExitEarly,
    "factorise": Factorise,
    "prune-structured": PruneStructured,
    "prune-unstructured": PruneUnstructured,
    "share-weights": ShareWeights,
    "substitute": Substitute,
    "qat": Qat,
    "resize": Resize,
}


def techniques_by_name() -> dict[str, type[Technique]]:
    """Return every technique by name: ours, then those of installed packages (see ``Registry.load``)."""
    registry: Registry[type[Technique]] = Registry(group=GROUP, kind="technique", table=TABLE, accept=_technique)
    return registry.load()


def _technique(loaded: object) -> type[Technique] | None:
    return loaded if isinstance(loaded, type) and issubclass(loaded, Technique) else None


def parameter_models() -> dict[str, type[Parameters]]:
    """Return the parameters of every technique by name."""
    return {name: technique.Parameters for name, technique in techniques_by_name().items()}
