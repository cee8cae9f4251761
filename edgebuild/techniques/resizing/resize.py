"""Resizing: the model sees its images smaller, and, where its outputs are maps, computes them on a finer grid."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from edgebuild.techniques.resizing.parameters import ResizeParameters
from edgebuild.techniques.technique import Change, Requirements, Technique

if TYPE_CHECKING:
    from edgebuild.techniques.workspace import Workspace

#: Sizes that are tried lie a sixteenth of the image's own side apart: 2 pixels of 28, 14 of 224.
TRIED_STEPS = 16


class Resize(Technique):
    """Puts a resizing before the model, within what is exported: what calls it feeds it what it always did.

    Raises ``ModelError`` naming the layer for a net that takes one size only, and where no smaller size is good enough.
    """

    kind: ClassVar[str] = "resize"
    title: ClassVar[str] = "lets the model see its images smaller"
    version: ClassVar[int] = 3
    tools: ClassVar[tuple[str, ...]] = ("torch", "lightning-fabric", "onnxruntime")
    Parameters: ClassVar = ResizeParameters
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
        return f"images of {before} are seen at {after}" + (f"; {best.loss_text}" if best.loss_text else "")
