"""The metric of this project."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


def auc(outputs: Mapping[str, NDArray[Any]], targets: NDArray[Any]) -> float:
    """The area under the ROC curve of ``outputs["output"]`` (N, 1) for the 0/1 ``targets`` (N,).

    It is the chance that a step with speech scores higher than one without, an equal score counting half
    (Mann and Whitney, 1947).

    Raises:
        edgebuild.errors.DataError: there is no step with speech, or none without.
    """
    speech = np.asarray(targets).reshape(-1) == 1
    n_speech = int(np.count_nonzero(speech))
    n_other = speech.size - n_speech
    if not n_speech or not n_other:
        from edgebuild.errors import DataError

        raise DataError(
            f"The AUC needs steps with and without speech; there are {n_speech} and {n_other}.",
            hint="Give the metric more recordings.",
        )
    _, level, count = np.unique(np.asarray(outputs["output"]).reshape(-1), return_inverse=True, return_counts=True)
    last_rank = np.cumsum(count)
    mean_rank = last_rank - (count - 1) / 2
    rank_sum = float(mean_rank[level.reshape(-1)][speech].sum())
    return float((rank_sum - n_speech * (n_speech + 1) / 2) / (n_speech * n_other))
