"""Who can make an int8 or fp16 model: one explicit table, and the entry points of other packages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from edgebuild.errors import EnvironmentGap, UsageError
from edgebuild.quantisers.fp16_storage import HalfStorage
from edgebuild.quantisers.nncf import NncfQuantise
from edgebuild.quantisers.onnxruntime import OrtQuantise
from edgebuild.quantisers.own.step import Quantise

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgebuild.core.artifact import Contract, Int8Scheme, Precision
    from edgebuild.core.steps import Step

GROUP = "edgebuild.quantisers"


class Factory(Protocol):
    """Makes the step for a precision. ``samples`` is the most calibration samples that it may use."""

    def __call__(self, precision: Precision, contract: Contract, keep_float: tuple[str, ...], samples: int) -> Step:
        """Return the step; raises ``UsageError`` where the precision lacks what it needs."""
        ...


def _scheme(precision: Precision) -> Int8Scheme:
    if precision.scheme is None:
        raise UsageError(f"{precision.label} has no int8 scheme, which a quantiser needs.")
    return precision.scheme


def _edgebuild(precision: Precision, contract: Contract, keep_float: tuple[str, ...], samples: int) -> Step:
    return Quantise(scheme=_scheme(precision), contract=contract, keep_float=keep_float, samples=samples)


def _nncf(precision: Precision, contract: Contract, keep_float: tuple[str, ...], samples: int) -> Step:
    return NncfQuantise(scheme=_scheme(precision), contract=contract, keep_float=keep_float, samples=samples)


def _onnxruntime(precision: Precision, contract: Contract, keep_float: tuple[str, ...], samples: int) -> Step:
    return OrtQuantise(scheme=_scheme(precision), contract=contract, keep_float=keep_float, samples=samples)


def _half(precision: Precision, contract: Contract, keep_float: tuple[str, ...], samples: int) -> Step:
    del precision, contract, keep_float, samples
    return HalfStorage()


TABLE: Mapping[str, Factory] = {
    "edgebuild": _edgebuild,
    "half-storage": _half,
    "nncf": _nncf,
    "onnxruntime": _onnxruntime,
}


def quantisers() -> dict[str, Factory]:
    """Return every quantiser by name: ours, then those of installed packages.

    Raises ``EnvironmentGap`` naming the package for a plugin that can't be loaded, isn't callable, or takes a name
    that is taken: a broken plugin is never skipped silently.
    """
    from importlib.metadata import entry_points

    found = dict(TABLE)
    for entry in entry_points(group=GROUP):
        owner = entry.dist.name if entry.dist is not None else entry.value
        if entry.name in found:
            raise EnvironmentGap(
                f"The package {owner!r} brings a quantiser named {entry.name!r}, which exists already.",
                hint=f"Uninstall {owner!r}, or ask its authors to rename the quantiser.",
            )
        try:
            factory = entry.load()
        except Exception as error:  # a plugin's import can raise anything
            raise EnvironmentGap(
                f"The quantiser {entry.name!r} of the package {owner!r} can't be loaded: {error}",
                hint=f"Repair or uninstall {owner!r}.",
            ) from error
        if not callable(factory):
            raise EnvironmentGap(
                f"The quantiser {entry.name!r} of the package {owner!r} is not callable.",
                hint=f"Repair or uninstall {owner!r}.",
            )
        found[entry.name] = factory
    return found


def quantiser(name: str) -> Factory:
    """Return one quantiser; raises ``UsageError`` listing the known names."""
    found = quantisers()
    if name not in found:
        raise UsageError(f"There is no quantiser {name!r}.", hint=f"Known: {', '.join(sorted(found))}.")
    return found[name]
