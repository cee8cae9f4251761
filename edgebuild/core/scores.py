"""What each sample of the test set came to: kept next to a build's record, so that releases are compared in pairs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from edgebuild.core.values import Value

#: Next to a build's record, and in a release: the folder, and the file in it.
SCORES, SCORES_FILE = "scores", "scores.json"
#: Some millions of samples, or of steps of them.
MAX_SCORES_BYTES = 256 << 20


class Scores(Value):
    """One number for each sample, whose mean is the metric.

    ``span`` is how far a sample can move the metric, None where nothing bounds it. ``groups`` numbers the group of each
    sample, where samples belong together. ``test`` is the digest of the test set, empty until it is known.
    """

    schema_version: Literal[1] = 1
    metric: str
    direction: Literal["maximise", "minimise"]
    span: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    test: str = ""
    scores: tuple[Annotated[float, Field(allow_inf_nan=False)], ...]
    groups: tuple[int, ...] | None = None
