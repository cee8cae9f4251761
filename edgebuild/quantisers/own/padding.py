"""Places of a sequence that hold nothing: what is computed there decides nothing, so no statistic counts it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from edgebuild.quantisers.own.samples import Frames

    Arrays = dict[str, NDArray[Any]]

#: Frames on which it is shown that what stands at masked places changes no output.
SHOWN = 4
#: Outputs that differ by less than this share of their largest value are the same.
SAME = 1e-5


@dataclass(frozen=True, kw_only=True)
class Padding:
    """The input ``mask``, (batch, places), is 0 where a place holds nothing; ``share`` of the places hold something."""

    mask: str
    share: float

    def live(self, value: NDArray[Any], feeds: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Return the rows of a tensor at places that hold something; all of it where it has another row per place."""
        mask = feeds[self.mask]
        rows = value.size // value.shape[-1] if value.ndim > 1 and value.size else 0
        if rows != mask.size or not (len(mask) == 1 or value.shape[:2] == mask.shape) or not mask.any():
            return value
        live: NDArray[Any] = value.reshape(rows, -1)[mask.reshape(-1) != 0]
        return live


def find_padding(frames: Frames, call: Callable[[Arrays], Arrays]) -> Padding | None:
    """Return what masks places of the other inputs' sequences; None where no input provably does.

    ``call`` runs the float model. A mask is an input of whole numbers 0 and 1; that it is one is shown by other values
    at the places where it is 0, which change no output.
    """
    some = list(islice(frames, SHOWN))
    for name, value in some[0].items() if some else ():
        masks = [feeds[name] for feeds in some]
        if value.ndim != 2 or value.dtype.kind not in "iub" or not all(np.isin(mask, (0, 1)).all() for mask in masks):
            continue
        padded = [feeds for feeds, mask in zip(some, masks, strict=True) if mask.any() and not mask.all()]
        if padded and all(_is_ignored(name, feeds, call) for feeds in padded):
            return Padding(mask=name, share=float(np.mean([feeds[name].mean() for feeds in frames])))
    return None


def _is_ignored(name: str, feeds: Arrays, call: Callable[[Arrays], Arrays]) -> bool:
    """Whether other values where the mask is 0 leave all outputs as they are; no if there is nothing to change."""
    mask = feeds[name] != 0
    changed = dict(feeds)
    for other, value in feeds.items():
        if other != name and value.shape[:2] == mask.shape:
            # What stands at the places that count is legal elsewhere too.
            changed[other] = value.copy()
            changed[other][~mask] = np.resize(value[mask], value[~mask].shape)
    if all(np.array_equal(changed[other], feeds[other]) for other in feeds):
        return False
    right, got = call(feeds), call(changed)
    return all(_same(right[output], got[output]) for output in right)


def _same(right: NDArray[Any], got: NDArray[Any]) -> bool:
    if right.dtype.kind != "f":
        return bool(np.array_equal(right, got))
    return bool(np.allclose(right, got, rtol=0.0, atol=SAME * float(np.abs(right).max(initial=0.0)), equal_nan=True))
