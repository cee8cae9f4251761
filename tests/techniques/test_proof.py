"""Every cut that structured pruning accepts is right, by an oracle that knows nothing of how it was proven."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.overrides import TorchFunctionMode

from edgebuild.core.data import Sample
from edgebuild.core.steps import NoProgress, never_stop
from edgebuild.models.dataset import Dataset, write_dataset
from edgebuild.models.edits import CompressedModel, KeepChannels
from edgebuild.models.torch_models import flatten
from edgebuild.techniques.pruning import cutting, proof
from edgebuild.techniques.pruning.structured import PruneStructured
from edgebuild.techniques.workspace import Workspace
from tests.techniques import cut_zoo, zoo
from tests.techniques.zoo import IMAGE, Animal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from edgebuild.models.edits import Edit
    from edgebuild.techniques.pruning.cutting import Cut

#: How far a right cut may be from the oracle's answer, relative to the largest output.
TOLERANCE = 1e-3
FRAMES = 6


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("pictures")
    rows = (Sample(inputs={"image": x.numpy()}, target=0) for x in torch.randn(8, 3, 8, 8))
    write_dataset(rows, folder, specs=(IMAGE,), stateful=False, source="noise", task=NoProgress(), check=never_stop)
    return Dataset.open(folder)


def grown(make: Callable[[int], nn.Module], width: int, seed: int) -> nn.Module:
    """A net in which no normalisation is the identity."""
    torch.manual_seed(seed)
    net = make(width).eval()
    with torch.no_grad():
        for part in net.modules():
            if isinstance(part, nn.LayerNorm | nn.GroupNorm | nn.RMSNorm | nn.modules.batchnorm._NormBase):
                for parameter in part.parameters():
                    parameter.add_(torch.randn_like(parameter) * 0.5)
            if isinstance(part, nn.modules.batchnorm._NormBase) and part.running_mean is not None:
                part.running_mean.normal_()
                part.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    return net


def pruned(net: nn.Module, data: Dataset, seed: int, **parameters: Any) -> tuple[nn.Module, list[Edit], list[Cut]]:
    animal = Animal("net", zoo.Residual)
    step = zoo.step_of(PruneStructured, animal, importance="random", multiple=1, **parameters)
    context = zoo.context(Path(data.folder))
    work = Workspace(
        step=step,
        module=copy.deepcopy(net),
        stored=CompressedModel(factory=animal.reference),
        examples=(torch.from_numpy(data.array("image")[:2].copy()),),
        data={"calibration": data},
        folder=Path(data.folder),
        teacher_folder=None,
        ctx=context,
    )
    work.shapes_before = work.output_shapes(work.module)
    cuts = cutting.cut(work, step.parameters, 1, seed)
    return work.module, work.edits, cuts


class Poisoned(TorchFunctionMode):
    """The oracle: what is cut is NaN where it arises, and goes as NaN wherever it really goes.

    Layers that read take NaN for zero; normalisations over channels take their statistics over what isn't NaN. So
    nothing is asked of the one who said where channels lie.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.nn.functional.layer_norm:
            x, shape, weight, bias, eps = (*args, *[None] * 5)[:5]
            assert len(shape) == 1
            return self._norm(x, (-1,), kwargs.get("weight", weight), kwargs.get("bias", bias), eps or 1e-5)
        if func is torch.nn.functional.group_norm:
            x, groups, weight, bias, eps = (*args, *[None] * 5)[:5]
            weight, bias = kwargs.get("weight", weight), kwargs.get("bias", bias)
            parts = x.reshape(len(x), groups, -1)
            normed = self._norm(parts, (-1,), None, None, eps or 1e-5).reshape(x.shape)
            ones = [1] * (x.dim() - 2)
            if weight is None:
                return normed
            return normed * weight.view(1, -1, *ones) + bias.view(1, -1, *ones)
        return func(*args, **kwargs)

    def _norm(self, x: Any, axes: Any, weight: Any, bias: Any, eps: float) -> Any:
        mean = x.nanmean(axes, keepdim=True)
        variance = (x - mean).pow(2).nanmean(axes, keepdim=True)
        x = (x - mean) / (variance + eps).sqrt()
        x = x if weight is None else x * weight
        return x if bias is None else x + bias


READERS = (nn.Linear, nn.modules.conv._ConvNd)


def oracle(net: nn.Module, edits: Iterable[Edit], x: torch.Tensor) -> list[torch.Tensor]:
    """Return what the whole net says when the channels that ``edits`` take out of its layers are never heard."""
    net = copy.deepcopy(net)
    lost: dict[str, list[int]] = {}
    for edit in edits:
        if isinstance(edit, KeepChannels) and edit.outputs is not None:
            layer: Any = net.get_submodule(edit.module)
            if isinstance(layer, READERS):
                size = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
                lost[edit.module] = [i for i in range(size) if i not in edit.outputs]

    def hear(layer: nn.Module, args: Any) -> Any:
        del layer
        return (torch.nan_to_num(args[0]), *args[1:])

    def poison(name: str) -> Callable[[nn.Module, Any, torch.Tensor], torch.Tensor]:
        def hook(layer: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
            del args
            axis = -1 if isinstance(layer, nn.Linear) else 1
            return output.index_fill(axis, torch.tensor(lost[name], dtype=torch.long), float("nan"))

        return hook

    for name, layer in net.named_modules():
        if isinstance(layer, READERS):
            layer.register_forward_pre_hook(hear)
        if lost.get(name):
            layer.register_forward_hook(poison(name))
    with torch.no_grad(), Poisoned():
        return flatten(net(x))


def gap(net: nn.Module, narrow: nn.Module, edits: Iterable[Edit], seed: int) -> float:
    """How far a narrow net is from the oracle's answer on pictures that nobody saw before."""
    x = torch.randn(FRAMES, 3, 8, 8, generator=torch.Generator().manual_seed(1000 + seed))
    with torch.no_grad():
        pairs = list(zip(flatten(narrow(x)), oracle(net, edits, x), strict=True))
    assert all(mine.shape == theirs.shape for mine, theirs in pairs)
    gaps = [(mine - theirs).abs().max() / theirs.abs().max().clamp_min(1e-6) for mine, theirs in pairs]
    return max(float("inf") if value.isnan() else float(value) for value in gaps)


def check(make: Callable[[int], nn.Module], data: Dataset, width: int, seed: int, keep: float) -> int:
    """Prune one net, hold it against the oracle; return how many groups were cut."""
    net = grown(make, width, seed)
    narrow, edits, cuts = pruned(net, data, seed, keep=keep, least=0.2)
    assert gap(net, narrow, edits, seed) <= TOLERANCE, (make.__name__, [c for c in cuts if not c.reason])
    assert all(cut.reason for cut in cuts if cut.before == cut.after)
    return sum(not cut.reason for cut in cuts)


@pytest.mark.parametrize("make", cut_zoo.NETS, ids=lambda make: make.__name__)
def test_every_cut_of_the_zoo_is_right(make: Callable[[int], nn.Module], pictures: Dataset) -> None:
    for seed, (width, keep) in enumerate(((8, 0.5), (16, 0.7))):
        check(make, pictures, width, seed, keep)


@pytest.mark.proof
@settings(max_examples=400, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(
    make=st.sampled_from(cut_zoo.NETS),
    width=st.sampled_from((8, 16, 24, 32)),
    seed=st.integers(0, 2**31),
    keep=st.floats(0.3, 0.9),
)
def test_every_cut_is_right_whatever_the_widths(
    pictures: Dataset, make: Callable[[int], nn.Module], width: int, seed: int, keep: float
) -> None:
    check(make, pictures, width, seed, keep)


#: Nets whose group behind a plain normalisation must still be cut: a proof that refuses everything proves nothing.
CUT = (
    cut_zoo.channels_first_norm,
    cut_zoo.group_norm,
    cut_zoo.norm_of_images,
    cut_zoo.squeeze_excite,
    cut_zoo.residual_norms,
    cut_zoo.depthwise_multiplier,
)


@pytest.mark.parametrize("make", CUT, ids=lambda make: make.__name__)
def test_right_cuts_behind_normalisations_are_still_accepted(
    make: Callable[[int], nn.Module], pictures: Dataset
) -> None:
    assert check(make, pictures, 16, 3, 0.5)


#: Nets whose channels lie elsewhere than they are taken to lie, or are weighed against each other.
WRONG = (
    cut_zoo.channels_last_norm,
    cut_zoo.channels_last,
    cut_zoo.softmax_over_channels,
    cut_zoo.unit_length,
    cut_zoo.mean_over_channels,
    cut_zoo.standardised_weights,
)


@pytest.mark.parametrize("make", WRONG, ids=lambda make: make.__name__)
def test_without_the_proof_the_oracle_sees_wrong_cuts(
    make: Callable[[int], nn.Module], pictures: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unproven(work: Workspace, name: str, changes: Any, silence: Any) -> None:
        del name, silence
        work.tried(*changes)

    monkeypatch.setattr(cutting, "require_proven", unproven)
    net = grown(make, 16, 0)
    narrow, edits, _ = pruned(net, pictures, 0, keep=0.5)
    assert gap(net, narrow, edits, 0) > TOLERANCE


def test_dead_weights_hide_no_wrong_cut(pictures: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all that is read lies in the same place by luck, only stirred weights show that the cut is wrong."""
    net: Any = grown(cut_zoo.channels_last, 16, 0)
    with torch.no_grad():
        net.head.weight[:, 1:] = 0  # entry 0 is that of channel 0 whichever way channels lie
    _, edits, cuts = pruned(net, pictures, 0, keep=0.5)
    assert not edits
    assert any("isn't the one with them at zero" in cut.reason for cut in cuts)
    monkeypatch.setattr(proof, "_stirred", copy.deepcopy)
    _, edits, _ = pruned(net, pictures, 0, keep=0.5)
    kept = next(edit.outputs for edit in edits if isinstance(edit, KeepChannels) and edit.module == "stem")
    assert kept is not None
    assert kept[0] == 0
