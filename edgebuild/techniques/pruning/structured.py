"""Structured pruning: takes whole channels out of coupled layers, so that the net gets narrower."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from edgebuild.errors import ModelError
from edgebuild.models.edits import Identity, ReplaceModule
from edgebuild.techniques.distilling.tuning import tune
from edgebuild.techniques.pruning.parameters import PruneParameters
from edgebuild.techniques.technique import Change, Requirements, Technique

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgebuild.techniques.workspace import Workspace


class PruneStructured(Technique):
    """Narrows a model by dependency groups; every cut is compared with the model with the same channels at zero.

    Where group or layer normalisation reads those channels, its statistics there are those of the kept ones: see
    ``proof``. A group whose cut doesn't run, changes an output's shape, or isn't what zeroing its channels gives, stays
    as it is, with the reason. Raises ``ModelError`` naming the layers when nothing can be narrowed.
    """

    kind: ClassVar[str] = "prune-structured"
    title: ClassVar[str] = "takes whole channels out of coupled layers"
    version: ClassVar[int] = 6
    tools: ClassVar[tuple[str, ...]] = ("torch", "torch-pruning", "onnxruntime")
    Parameters: ClassVar = PruneParameters
    changes: ClassVar[frozenset[Change]] = frozenset({"structure"})
    not_after: ClassVar[Mapping[Change, str]] = {
        "masks": "a mask has the shape of the layer that it was made for",
        "codebooks": "a codebook's indices have the shape of the layer that they were made for",
        "grids": "its scales belong to the channels that they were fitted to",
    }
    uses_channels: ClassVar[bool] = True

    @classmethod
    def needs(cls, parameters: Any) -> Requirements:
        """See ``Technique``."""
        needs: Requirements = parameters.needs("torch-pruning")
        return needs

    def compress(self, work: Workspace) -> str:
        """See ``Technique``."""
        from edgebuild.techniques.pruning.attention_heads import cut_heads
        from edgebuild.techniques.pruning.cutting import cut

        p: PruneParameters = self.parameters
        removed = self._blocks(work, p)
        narrowed: dict[str, tuple[int, int]] = {}
        refused: dict[str, str] = {}
        with work.ctx.progress.task("Narrowing", total=p.rounds) as task:
            for turn in range(p.rounds):
                work.ctx.check()
                cuts = cut(work, p, self.channel_multiple, turn)
                cuts += cut_heads(work, p, turn) if p.heads else []
                for name, before, after, reason in cuts:
                    if reason:
                        refused[name] = reason
                    else:
                        narrowed[name] = (narrowed.get(name, (before, 0))[0], after)
                self.settle(work)
                report = tune(work, work.module, p, name=f"tuning-{turn}")
                task.advance()
                if report is not None:
                    work.notes.append(_went(turn, report.losses))
        for name, (before, after) in narrowed.items():
            work.say(name, before, after)
        for name, reason in refused.items():
            if name not in narrowed:
                work.say(name, "all", "all", reason)
        if not narrowed and not removed:
            why = "; ".join(f"{name}: {reason}" for name, reason in list(refused.items())[:3])
            raise ModelError(
                f"prune-structured can narrow no layer of the model ({why or 'it has no layers with channels'}).",
                hint="A smaller `multiple` or `keep` may leave it room; else leave the technique out.",
            )
        also = f", {removed} blocks removed" if removed else ""
        return f"{len(narrowed)} of {len(narrowed.keys() | refused.keys())} groups of channels narrowed{also}"

    def _blocks(self, work: Workspace, p: PruneParameters) -> int:
        """Take whole blocks out, those that are named and those that cost least; return how many."""
        from edgebuild.techniques.pruning.residual_blocks import cheapest_block

        for name in p.remove:
            self._remove(work, name)
        for turn in range(p.blocks):
            self._remove(work, cheapest_block(work, p, turn))
        if p.remove or p.blocks:
            self.settle(work)
        return len(p.remove) + p.blocks

    def _remove(self, work: Workspace, name: str) -> None:
        edit = ReplaceModule(module=name, by=Identity())
        try:
            work.tried(edit)
        except ModelError as error:
            raise ModelError(f"{name!r} can't be removed: {error.message}", hint="Leave it out of `remove`.") from error
        work.apply(edit)
        work.say(name, "a block", "removed")

    def settle(self, work: Workspace) -> None:
        """Let the model settle after a cut: its normalisations' statistics are taken again."""
        work.recalibrate_norms()


def _went(turn: int, losses: Sequence[float]) -> str:
    return f"Tuned after cut {turn + 1}: the loss went from {losses[0]:.4g} to {losses[-1]:.4g}."
