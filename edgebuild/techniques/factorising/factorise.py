"""Factorisation: a dense layer as two thin ones or a Monarch product, a convolution as three (Tucker-2)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from edgebuild.errors import ModelError
from edgebuild.models.edits import LowRankLinear, MonarchLinear, ReplaceModule, Tucker2Conv
from edgebuild.techniques.distilling.tuning import TuningParameters, tune
from edgebuild.techniques.technique import Change, Proposal, Requirements, Technique
from edgebuild.techniques.timing.layer_times import detailed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from edgebuild.techniques.factorising.factors import Factorisation
    from edgebuild.techniques.workspace import Workspace

#: What is said where no layer was timed.
BY_OPERATIONS = "Layers were chosen by MACs; none was timed on the target."
SKIPPED = "it is to be skipped"


class FactoriseParameters(TuningParameters):
    """Parameters of `factorise`."""

    ranks: Literal["vbmf", "share"] = Field(
        default="vbmf",
        description="How ranks are chosen: what variational Bayes holds for signal, or a share of the full rank.",
    )
    share: float = Field(default=0.5, gt=0, lt=1, description="The share of the full rank, for `share`.")
    dense: Literal["best", "low-rank", "monarch"] = Field(
        default="best",
        description="What dense layers become: two thin ones, a Monarch product (two block-diagonal matrices with a "
        "shuffle between) that costs no more, or which of the two is nearer to the weight.",
    )
    multiple: int | None = Field(
        default=None, ge=1, description="Ranks are multiples of this; without it, of what the profile's kernels take."
    )
    skip: tuple[str, ...] = Field(default=(), description="Layers that stay as they are; `*` stands for anything.")


class Factorise(Technique):
    """Replaces dense layers and convolutions by thin ones where that saves MACs and is faster.

    Whether it is faster the target says, where layers were timed there; else operations decide alone, and that is said.
    Dense: singular value decomposition, or the nearest Monarch product (Dao et al. 2022). Convolutions with a kernel:
    Tucker-2 on the two channel axes (Kim et al. 2016). Grouped, transposed and 1x1 convolutions are left alone,
    recurrent layers too. Raises ``ModelError`` when no layer is replaced.
    """

    kind: ClassVar[str] = "factorise"
    title: ClassVar[str] = "replaces layers by products of thin ones"
    version: ClassVar[int] = 6
    tools: ClassVar[tuple[str, ...]] = ("numpy", "onnxruntime", "scipy", "tensorly", "torch")
    Parameters: ClassVar = FactoriseParameters
    changes: ClassVar[frozenset[Change]] = frozenset({"structure"})
    not_after: ClassVar[Mapping[Change, str]] = {
        "masks": "the product of two thin layers has no zeros where the mask had them",
        "codebooks": "the thin layers' weights aren't those of the codebook",
        "grids": "the thin layers have ranges of their own",
    }
    uses_channels: ClassVar[bool] = True
    times_layers: ClassVar[bool] = True

    @classmethod
    def needs(cls, parameters: Any) -> Requirements:
        """See ``Technique``."""
        needs: Requirements = parameters.needs("tensorly")
        return needs

    def proposals(self, work: Workspace) -> Iterator[Proposal]:
        """See ``Technique``."""
        names = _names(work)
        with work.ctx.progress.task("Finding thin layers", total=len(names)) as task:
            for name in names:
                work.ctx.check()
                task.advance(note=name)
                try:
                    edit, fill, _ = self._thin(work, name)
                except ModelError:
                    continue
                yield Proposal(edit, fill)

    def compress(self, work: Workspace) -> str:
        """See ``Technique``."""
        names = _names(work)
        replaced: list[str] = []
        with work.ctx.progress.task("Factorising", total=len(names)) as task:
            for name in names:
                work.ctx.check()
                if self._layer(work, name):
                    replaced.append(name)
                task.advance(note=name)
        if not replaced:
            telling = sorted(work.said, key=lambda said: said.reason == SKIPPED)
            why = "; ".join(f"{said.layer}: {said.reason}" for said in telling[:3])
            what = "cheaper" if work.times is None else "faster"
            raise ModelError(
                f"factorise makes no layer of the model {what} ({why or 'it has no dense layer or convolution'}).",
                hint='Try ranks = "share" with a smaller `share`; else leave the technique out.',
            )
        report = tune(work, work.module, self.parameters, name="tuning")
        if report is not None:
            work.notes.append(f"Tuned: the loss went from {report.losses[0]:.4g} to {report.losses[-1]:.4g}.")
        work.notes.append(BY_OPERATIONS if work.times is None else work.times.note(tuple(replaced)))
        return f"{len(replaced)} of {len(names)} layers factorised"

    def _layer(self, work: Workspace, name: str) -> bool:
        """Factorise one layer; say why not where it is left alone."""
        from edgebuild.models.interpreter import layer_at

        before, times = _size(layer_at(work.module, name)), work.times
        try:
            edit, fill, _ = self._thin(work, name)
            kept = "" if times is None else times.why_kept(name)
            if kept:
                raise ModelError(kept)
            work.apply(edit)
        except ModelError as error:
            work.say(name, before, before, error.message)
            return False
        fill(layer_at(work.module, name))
        measured = "" if times is None else f"; {detailed(times.known[name])}"
        work.say(name, before, f"{_ranks_text(edit)}{measured}")
        return True

    def _thin(self, work: Workspace, name: str) -> Factorisation:
        """Return what would take a layer's place; raises ``ModelError`` with the reason where nothing would."""
        from edgebuild.models.interpreter import layer_at
        from edgebuild.techniques.factorising.factors import thin
        from edgebuild.techniques.skipping import is_skipped

        if is_skipped(name, self.parameters.skip):
            raise ModelError(SKIPPED)
        layer: Any = layer_at(work.module, name)
        found = thin(layer, name, self._ranks, self.parameters.dense)
        thin_macs, macs = work.sizes(work.tried(found.edit))[0], work.sizes(work.module)[0]
        if thin_macs >= macs:
            raise ModelError(f"{_ranks_text(found.edit)} would take {thin_macs - macs:,} more operations, not fewer")
        return found

    def _ranks(self, matrix: NDArray[Any]) -> int:
        """Return the rank of one matrix: as the parameters say, on the steps that kernels take."""
        from edgebuild.techniques.factorising.vbmf import signal_rank

        full = int(min(matrix.shape))
        p: FactoriseParameters = self.parameters
        rank = signal_rank(matrix) if p.ranks == "vbmf" else round(p.share * full)
        step = p.multiple or self.channel_multiple
        return min(full, max(1, math.ceil(rank / step)) * step)


def _names(work: Workspace) -> list[str]:
    """The layers that may be factorised, by address."""
    from torch import nn

    from edgebuild.models.interpreter import layers

    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return [name for name, layer in layers(work.module) if name and isinstance(layer, kinds)]


def _size(layer: Any) -> str:
    kernel = "x".join(str(k) for k in getattr(layer, "kernel_size", ()))
    channels = f"{layer.weight.shape[1]} → {layer.weight.shape[0]}"
    return f"{channels}, {kernel}" if kernel else channels


def _ranks_text(edit: ReplaceModule) -> str:
    by = edit.by
    if isinstance(by, Tucker2Conv):
        return f"ranks {by.rank_in} and {by.rank_out}"
    if isinstance(by, MonarchLinear):
        return f"Monarch of {by.blocks} blocks"
    return f"rank {by.rank}" if isinstance(by, LowRankLinear) else by.kind
