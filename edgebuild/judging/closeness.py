"""How near an artifact's outputs are to the reference's, whatever the targets say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgebuild.core.chunks import chunks
from edgebuild.core.classes import is_class_row
from edgebuild.core.verdict import Closeness
from edgebuild.judging.agreement import agrees
from edgebuild.judging.arrays import Outputs, check_pair, first_not_finite, is_probability, log_softmax

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: The signal-to-noise ratio of outputs that differ by less than float32 can express (24 bits are 144.5 dB).
MAX_SQNR_DB = 150.0
#: Probabilities below this count as this, so that one zero doesn't make the divergence infinite.
MIN_PROBABILITY = 1e-12


def closeness(reference: Outputs, artifact: Outputs) -> Closeness:
    """Return SQNR, KL and agreement of the artifact's outputs against the reference's; all ``None`` if not finite.

    Where the reference is -inf, a score is masked: the artifact may be -inf there, too.
    SQNR: 10 log10(Σ reference² / Σ error²) over all samples, in dB; of several outputs the lowest, at most 150. What is
    masked isn't in the sums.
    KL: the mean of KL(reference ‖ artifact) per sample in nats, over outputs with one score per class;
    rows that sum to one are taken as probabilities, anything else as logits; of several outputs the highest.
    Agreement: as ``agreement.agrees``. Arrays may be memory maps; they are streamed. Raises ``DataError`` when the
    outputs don't fit.
    """
    check_pair(reference, artifact)
    if first_not_finite(reference) or first_not_finite(artifact, reference):
        return Closeness()
    ratios = [sqnr_db(array, artifact[name]) for name, array in reference.items() if array.dtype.kind == "f"]
    divergences = [
        kl_nats(array, artifact[name])
        for name, array in reference.items()
        if array.dtype.kind == "f" and is_class_row(array.shape)
    ]
    return Closeness(
        sqnr_db=min((ratio for ratio in ratios if ratio is not None), default=None),
        kl_nats=max(divergences, default=None),
        agreement=float(agrees(reference, artifact).mean()),
    )


def sqnr_db(reference: NDArray[Any], artifact: NDArray[Any]) -> float | None:
    """Return the signal-to-quantisation-noise ratio in dB, at most 150; ``None`` where the reference is all zeros."""
    signal = noise = 0.0
    for part in chunks(reference, artifact):
        wanted, given = (np.asarray(each[part], dtype=np.float64) for each in (reference, artifact))
        counts = np.isfinite(wanted)
        wanted, given = wanted[counts], given[counts]
        signal += float((wanted**2).sum())
        noise += float(((given - wanted) ** 2).sum())
    if not signal:
        return None
    return MAX_SQNR_DB if not noise else min(MAX_SQNR_DB, 10 * float(np.log10(signal / noise)))


def kl_nats(reference: NDArray[Any], artifact: NDArray[Any]) -> float:
    """Return the mean KL(reference ‖ artifact) of (samples, classes) class scores in nats; masked by -inf: share 0."""
    probabilities = is_probability(reference)
    total = 0.0
    for part in chunks(reference, artifact):
        wanted, given = (_log_probabilities(one[part], probabilities) for one in (reference, artifact))
        possible = np.isfinite(wanted)  # a masked class has no share in the reference
        total += float((np.exp(wanted[possible]) * (wanted[possible] - given[possible])).sum())
    return max(0.0, total / len(reference))


def _log_probabilities(scores: NDArray[Any], probabilities: bool) -> NDArray[np.float64]:
    if not probabilities:
        return log_softmax(scores)
    clipped = np.maximum(np.asarray(scores, dtype=np.float64), MIN_PROBABILITY)
    return np.asarray(np.log(clipped / clipped.sum(axis=1, keepdims=True)))
