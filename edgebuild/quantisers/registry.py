"""Who can make an int8 or fp16 model, or store one so: one explicit table, and the entry points of other packages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from edgebuild.core.registry import Registry
from edgebuild.errors import UsageError
from edgebuild.quantisers.dynamic import QuantiseDynamically
from edgebuild.quantisers.fp16_storage import HalfStorage
from edgebuild.quantisers.int8_storage import Int8Storage
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


def _dynamic(precision: Precision, contract: Contract, keep_float: tuple[str, ...], samples: int) -> Step:
    del contract, samples
    return QuantiseDynamically(scheme=_scheme(precision), keep_float=keep_float)


def _int8_storage(precision: Precision, contract: Contract, keep_float: tuple[str, ...], samples: int) -> Step:
    del precision, contract, samples
    return Int8Storage(keep_float=keep_float)


TABLE: Mapping[str, Factory] = {
    "edgebuild": _edgebuild,
    "half-storage": _half,
    "int8-storage": _int8_storage,
    "nncf": _nncf,
    "onnxruntime": _onnxruntime,
    "onnxruntime-dynamic": _dynamic,
}


def quantiser(name: str) -> Factory:
    """Return one quantiser, ours or an installed package's; raises ``UsageError`` listing the known names."""
    return Registry(group=GROUP, kind="quantiser", table=TABLE, accept=_factory).get(name)


def _factory(loaded: Any) -> Factory | None:
    made: Factory | None = loaded if callable(loaded) else None
    return made
