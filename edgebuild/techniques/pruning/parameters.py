"""Parameters of structured pruning; apart from the technique, since all of its parts read them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from edgebuild.techniques.distilling.tuning import TuningParameters


class PruneParameters(TuningParameters):
    """Parameters of `prune-structured`."""

    keep: float = Field(default=0.5, gt=0, le=1, description="The share of channels to keep, over all layers.")
    importance: Literal["taylor", "l2", "random"] = Field(
        default="taylor",
        description="What makes a channel worth keeping: the loss it would cost (weight times gradient), the size of "
        "its weights, or nothing (the control).",
    )
    spread: Literal["global", "uniform"] = Field(
        default="global", description="Whether layers compete for channels, or each keeps the same share."
    )
    least: float = Field(default=0.25, gt=0, le=1, description="The share of its channels that no layer goes below.")
    multiple: int | None = Field(
        default=None, ge=1, description="Widths are multiples of this; without it, of what the profile's kernels take."
    )
    heads: bool = Field(default=True, description="Whether attention loses whole heads, too.")
    rounds: int = Field(
        default=1,
        ge=1,
        le=20,
        description="In how many cuts; after each, normalisations settle again, and the net is tuned.",
    )
    skip: tuple[str, ...] = Field(default=(), description="Layers that stay as they are; `*` stands for anything.")
    remove: tuple[str, ...] = Field(
        default=(), description="Residual blocks to take out whole, by name; each must keep its input's shape."
    )
    blocks: int = Field(
        default=0,
        ge=0,
        description="How many residual blocks to take out, those without which the loss is least; they are found by "
        "passing their input on when their weights are zero.",
    )
    samples: int = Field(default=512, ge=1, description="Samples that `taylor` and the worth of blocks are taken from.")

    def learns_from(self, frames: int) -> int:
        """Return about how many samples are learnt from: every cut is followed by a training."""
        return self.rounds * super().learns_from(frames)
