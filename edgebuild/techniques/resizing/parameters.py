"""Parameters of `resize`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from edgebuild.techniques.learning import TrainingParameters


class ResizeParameters(TrainingParameters):
    """Parameters of `resize`."""

    size: int | None = Field(
        default=None,
        ge=1,
        description="The side that images are brought to, the shorter one where they aren't square. Without it the "
        "cheapest size that loses no more than `points` on the calibration data.",
    )
    points: float = Field(
        default=2.0,
        ge=0,
        description="Without `size`: how much may be lost on the calibration data, in points of right answers, or of "
        "the mean overlap (IoU) over classes where answers are maps; against the original's answers without labels.",
    )
    least: float = Field(default=0.25, gt=0, lt=1, description="Without `size`: the share of its side to stop at.")
    step: int | None = Field(
        default=None,
        ge=1,
        description="Without `size`: how many pixels the sizes that are tried lie apart, counted from the images' own "
        "side. Default: a sixteenth of it, for maps on the steps of the net's strides.",
    )
    tune: Literal["none", "norms", "head", "all"] = Field(
        default="none",
        description="What adapts to a size before it is judged: nothing, the normalisations' statistics, these and the "
        "last layer, or these and all layers; the last two learn from labels.",
    )
    finer: int = Field(
        default=0,
        ge=0,
        le=4,
        description="For maps: how many of the last strides may be taken out, kernels behind them dilated instead, so "
        "that small images still give fine maps. With `size`: how many are.",
    )
