"""Who can compress a torch model: one explicit table, and the entry points of other packages.

The table of quantisers and precisions (``edgebuild.quantisers.registry``) is another one: those make a candidate's
precision out of a frozen ONNX file; these change the torch model before it is exported, as a recipe's steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgebuild.errors import EnvironmentGap
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
    """Return every technique by name: ours, then those of installed packages.

    Raises ``EnvironmentGap`` naming the package for a plugin that can't be loaded, is no ``Technique``, or takes a name
    that is taken: a broken plugin is never skipped silently.
    """
    from importlib.metadata import entry_points

    found = dict(TABLE)
    for entry in entry_points(group=GROUP):
        owner = entry.dist.name if entry.dist is not None else entry.value
        if entry.name in found:
            raise EnvironmentGap(
                f"The package {owner!r} brings a technique named {entry.name!r}, which exists already.",
                hint=f"Uninstall {owner!r}, or ask its authors to rename the technique.",
            )
        try:
            technique: Any = entry.load()
        except Exception as error:  # a plugin's import can raise anything
            raise EnvironmentGap(
                f"The technique {entry.name!r} of the package {owner!r} can't be loaded: {error}",
                hint=f"Repair or uninstall {owner!r}.",
            ) from error
        if not (isinstance(technique, type) and issubclass(technique, Technique)):
            raise EnvironmentGap(
                f"The technique {entry.name!r} of the package {owner!r} is no Technique.",
                hint=f"Repair or uninstall {owner!r}.",
            )
        found[entry.name] = technique
    return found


def parameter_models() -> dict[str, type[Parameters]]:
    """Return the parameters of every technique by name."""
    return {name: technique.Parameters for name, technique in techniques_by_name().items()}
