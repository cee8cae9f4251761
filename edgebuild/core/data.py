"""What a user's data callables yield."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """One sample of a data set.

    ``inputs`` maps a model input to an array *without* batch axis, of the dtype that the model takes. For a stateful
    model every array, and ``target``, has a leading axis of steps. ``target`` is ``None`` where nothing is labelled,
    else a number, a text, an array, or a mapping of these, or a list of mappings.
    Samples of one ``group`` (a recording, a subject, a package) are resampled together; ``slice`` names the part of the
    data (a class, a site) that drops are reported for.
    """

    inputs: Mapping[str, NDArray[Any]]
    target: Any = None
    group: str | None = None
    slice: str | None = None
