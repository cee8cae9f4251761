"""Error rates of sequences: how many edits turn what was read into what stands there, per symbol or word of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from edgebuild.errors import DataError
from edgebuild.judging.scores import each_pair, ratio_of_sums

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from numpy.typing import NDArray

    from edgebuild.judging.arrays import Ints
    from edgebuild.judging.scores import Weighted

    Units: TypeAlias = Sequence[Hashable]
    Split: TypeAlias = Callable[[str], Units]

#: The class that CTC writes where there is no symbol.
BLANK = 0


def cer(name: str, output: NDArray[Any], targets: NDArray[Any]) -> Weighted:
    """Prepare the edits per symbol of the targets, over all samples together.

    Targets are texts, or arrays of symbol numbers; outputs the same, or for numbers the scores of CTC, (steps, symbols)
    of a sample: the highest at each step, repeated ones once, class 0 for none.
    """
    return _error_rate(name, output, targets, list, numbers=True)


def wer(name: str, output: NDArray[Any], targets: NDArray[Any]) -> Weighted:
    """Prepare the edits per word of the targets, over all samples together. Words are what white space separates."""
    return _error_rate(name, output, targets, str.split, numbers=False)


def _error_rate(name: str, output: NDArray[Any], targets: NDArray[Any], split: Split, *, numbers: bool) -> Weighted:
    edits, lengths = np.zeros(len(targets)), np.zeros(len(targets))
    for sample, (found, wanted) in enumerate(each_pair(name, output, targets)):
        texts = isinstance(found, str) and isinstance(wanted, str)
        one, other = (split(found), split(wanted)) if texts else (_symbols(found), _symbols(wanted))
        if one is None or other is None or not (texts or numbers):
            raise DataError(
                f"metric {name}: the output of sample {sample} is {_kind(found)}, its target {_kind(wanted)}; both "
                f"must be texts{', or rows of symbol numbers' if numbers else ''}",
                hint='name under [metric] what reads the text from outputs: `decode = "module:function"`',
            )
        edits[sample], lengths[sample] = edit_distance(*_numbered(one, other)), len(other)
    return ratio_of_sums(edits, lengths)


def _symbols(value: Any) -> Units | None:
    """Return a row of symbol numbers, read from scores where it has two axes; None for anything else."""
    array = np.asarray(value)
    if array.ndim == 2 and array.dtype.kind == "f":
        best = array.argmax(axis=1)
        return [int(symbol) for symbol in best[np.diff(best, prepend=BLANK) != 0] if symbol != BLANK]
    if array.ndim != 1 or array.dtype.kind not in "iu":
        return None
    return [int(symbol) for symbol in array]


def _numbered(one: Units, other: Units) -> tuple[Ints, Ints]:
    known = {unit: number for number, unit in enumerate(dict.fromkeys((*one, *other)))}
    left, right = (np.asarray([known[unit] for unit in units], dtype=np.int64) for units in (one, other))
    return left, right


def _kind(value: Any) -> str:
    return "a text" if isinstance(value, str) else f"{np.asarray(value).dtype} of shape {np.shape(value)}"


def edit_distance(one: Ints, other: Ints) -> int:
    """Return how many insertions, deletions and replacements turn one row of numbers into the other (Levenshtein)."""
    shorter = min(len(one), len(other))
    differ = np.flatnonzero(one[:shorter] != other[:shorter])
    if not len(differ):
        return max(len(one), len(other)) - shorter
    one, other = one[differ[0] :], other[differ[0] :]
    steps = np.arange(len(other) + 1)
    row = steps
    for number, symbol in enumerate(one, start=1):
        replaced = row[:-1] + (other != symbol)
        best = np.concatenate([[number], np.minimum(row[1:] + 1, replaced)])
        # An insertion costs one more than the entry on its left: the lowest so far, on a slope of one.
        row = np.minimum.accumulate(best - steps) + steps
    return int(row[-1])
