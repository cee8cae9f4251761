"""Resizing: the model sees its images smaller, and, where its outputs are maps, computes them on a finer grid."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from edgebuild.techniques.learning import TrainingParameters
from edgebuild.techniques.technique import Change, Requirements, Technique

if TYPE_CHECKING:
    from edgebuild.techniques.workspace import Workspace

#: Sizes that are tried lie a sixteenth of the image's own side apart: 2 pixels of 28, 14 of 224.
TRIED_STEPS = 16


class ResizeParameters(TrainingParameters):
    """What `resize` can be told."""

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
        "side; by default a sixteenth of it, for maps on the steps of the net's strides.",
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


class Resize(Technique):
    """Puts a resizing before the model, within what is exported: what calls it feeds it what it always did.

    Raises ``ModelError`` naming the layer for a net that takes one size only, and where no smaller size is good enough.
    """

    kind: ClassVar[str] = "resize"
    title: ClassVar[str] = "lets the model see its images smaller"
    version: ClassVar[int] = 2
    tools: ClassVar[tuple[str, ...]] = ("torch", "lightning-fabric", "onnxruntime")
    Parameters: ClassVar[type[Parameters]] = ResizeParameters
    changes: ClassVar[frozenset[Change]] = frozenset({"structure", "values"})
    not_after: ClassVar[Mapping[Change, str]] = {
        "heads": "early exits read what lies at the size before",
        "grids": "its scales were fitted at the size before",
    }

    @classmethod
    def needs(cls, parameters: Any) -> Requirements:
        """See ``Technique``."""
        learns = parameters.tune in {"head", "all"}
        return Requirements(
            train=learns,
            labels=learns,
            modules=("lightning-fabric",) if learns else (),
            references=parameters.references if learns else (),
        )

    def compress(self, work: Workspace) -> str:
        """See ``Technique``."""
        from edgebuild.techniques.resizing.resolution import chosen, image_input

        image = image_input(work)
        best = chosen(work, self.parameters, image, TRIED_STEPS)
        work.apply(*best.edits)
        work.module.load_state_dict(best.module.state_dict())
        before = "x".join(str(side) for side in image.size)
        after = "x".join(str(side) for side in best.size)
        work.say(f"input {work.step.specs[image.number].name}", before, after)
        for edit in best.strides:
            work.say(edit.module, "strided", f"stride {edit.stride}, dilation {edit.dilation}")
        return f"images of {before} are seen at {after}" + (f"; {best.told}" if best.told else "")
