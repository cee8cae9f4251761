"""The vocabulary of edits and its interpreter: what fits is carried out, what doesn't is refused with the layer."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from edgebuild.errors import ModelError
from edgebuild.models import compressed_model
from edgebuild.models.compressed_model import UserCode
from edgebuild.models.edits import (
    AddHead,
    Codebook,
    CompressedModel,
    Edit,
    Grid,
    Identity,
    KeepChannels,
    KeepEntries,
    KeepHeads,
    LowRankLinear,
    Mask,
    MonarchLinear,
    Quantise,
    ReplaceModule,
    SeparableConv,
    Tucker2Conv,
    UserModule,
)
from edgebuild.models.interpreter import apply_edits, layer_at

X = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.Conv2d(8, 12, 3, padding=1, groups=4),
        nn.GroupNorm(4, 12),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(48, 10),
        nn.PReLU(10),
        nn.Linear(10, 5),
    )


def linear_like(layer: nn.Module) -> nn.Module:
    assert isinstance(layer, nn.Linear)
    return nn.Sequential(nn.Linear(layer.in_features, layer.out_features), nn.Tanh())


def load(reference: str) -> Any:
    return {"net:net": net, "net:linear_like": linear_like}[reference]


CODE = UserCode(factory="net:net", load=load, modules=("net:linear_like",))


def fresh() -> nn.Module:
    torch.manual_seed(1)
    return net().eval()


@st.composite
def narrowing(draw: st.DrawFn) -> list[Edit]:
    """Edits that narrow the net consistently, in some order, and others behind them."""
    found: list[Edit] = []
    pairs = tuple(range(8))
    if draw(st.booleans()):
        kept = tuple(sorted(draw(st.sets(st.integers(0, 7), min_size=1))))
        # Before the grouped convolution only whole pairs go: each of its groups reads two.
        pairs = tuple(i for i in range(8) if i // 2 in {k // 2 for k in kept})
        outs = tuple(o for o in range(12) if o // 3 in {p // 2 for p in pairs})
        found += [
            KeepChannels(module="0", outputs=pairs),
            KeepChannels(module="1", outputs=pairs),
            KeepChannels(module="3", inputs=pairs),
            KeepChannels(module="4", outputs=outs, inputs=pairs),
            KeepChannels(module="5", outputs=outs),
            KeepChannels(module="8", inputs=tuple(c * 4 + i for c in outs for i in range(4))),
        ]
    if draw(st.booleans()):
        hidden = tuple(sorted(draw(st.sets(st.integers(0, 9), min_size=1))))
        found += [
            KeepChannels(module="8", outputs=hidden),
            KeepChannels(module="9", outputs=hidden),
            KeepChannels(module="10", inputs=hidden),
        ]
    by = st.sampled_from([LowRankLinear(rank=1), UserModule(reference="net:linear_like")])
    if draw(st.booleans()):
        found.append(ReplaceModule(module="10", by=draw(by)))
    if draw(st.booleans()):
        found.append(ReplaceModule(module="0", by=Tucker2Conv(rank_in=2, rank_out=1)))
    if draw(st.booleans()):
        found += [Mask(module="8"), Quantise(module="8", weight=Grid(bits=8, per_channel=True), input=Grid(bits=8))]
    if draw(st.booleans()):
        found.append(Codebook(module="4", entries=4, zero=True))
    if draw(st.booleans()):
        found.append(AddHead(name="early", after="2", features=len(pairs), outputs=3))
    return found


@given(narrowing(), st.data())
@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_edits_concatenate_and_a_stored_model_comes_back_bit_by_bit(
    tmp_path_factory: pytest.TempPathFactory, edits: list[Edit], data: st.DataObject
) -> None:
    whole = apply_edits(fresh(), edits, CODE.module_maker).eval()
    cut = data.draw(st.integers(0, len(edits)))
    parts = apply_edits(fresh(), edits[:cut], CODE.module_maker)
    parts = apply_edits(parts, edits[cut:], CODE.module_maker).eval()
    shapes = {name: value.shape for name, value in whole.state_dict().items()}
    assert {name: value.shape for name, value in parts.state_dict().items()} == shapes

    model = CompressedModel(factory="net:net", edits=tuple(edits))
    folder = tmp_path_factory.mktemp("stored")
    for value in whole.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.randn(value.shape).abs() + 0.1)
    compressed_model.write_model(whole, model, folder)
    back, read = compressed_model.load_model(folder, CODE)
    assert read == model
    assert CompressedModel.model_validate_json(model.to_json()) == model
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(_outputs(whole), _outputs(back), strict=True))


def _outputs(module: nn.Module) -> tuple[torch.Tensor, ...]:
    result = module(X)
    return result if isinstance(result, tuple) else (result,)


def test_taking_channels_out_is_having_them_at_zero() -> None:
    silent, narrow = fresh(), fresh()
    kept, groups = (0, 1, 4, 5, 6, 7), (0, 1, 2, 6, 7, 8, 9, 10, 11)
    with torch.no_grad():
        grouped: Any = layer_at(silent, "4")
        dense: Any = layer_at(silent, "8")
        grouped.weight[3:6] = 0
        dense.weight[:, [c * 4 + i for c in (3, 4, 5) for i in range(4)]] = 0
    edits: list[Edit] = [
        KeepChannels(module="0", outputs=kept),
        KeepChannels(module="1", outputs=kept),
        KeepChannels(module="3", outputs=kept),
        KeepChannels(module="4", inputs=kept, outputs=groups),
        KeepChannels(module="5", inputs=groups),
        KeepChannels(module="8", inputs=tuple(c * 4 + i for c in groups for i in range(4))),
    ]
    narrow = apply_edits(narrow, edits)
    with torch.no_grad():
        torch.testing.assert_close(narrow(X), silent(X))
    convolutions: list[Any] = [layer_at(narrow, name) for name in ("3", "4")]
    assert [conv.groups for conv in convolutions] == [6, 3]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("both", [False, True])
def test_recurrent_layers_lose_hidden_units_of_every_direction(kind: Any, both: bool) -> None:
    torch.manual_seed(0)
    layer = kind(3, 4, batch_first=True, bidirectional=both).eval()
    kept = (0, 2, 5, 6) if both else (0, 2)
    own, other = ([1, 3], [0, 3])
    silent = copy.deepcopy(layer)
    with torch.no_grad():
        silent.weight_hh_l0[:, own] = 0
        if both:
            silent.weight_hh_l0_reverse[:, other] = 0
        x = torch.randn(2, 5, 3)
        expected = silent(x)[0][..., list(kept)]
        narrow = apply_edits(nn.Sequential(layer), [KeepChannels(module="0", outputs=kept)])
        torch.testing.assert_close(narrow[0](x)[0], expected)  # type: ignore[index]
        narrow = apply_edits(narrow, [KeepChannels(module="0", inputs=(2,))])
        assert narrow[0](x[..., 2:])[0].shape == expected.shape  # type: ignore[index]


@pytest.mark.parametrize("batch_first", [False, True])
def test_attention_loses_heads_and_computes_as_before_with_all_of_them(batch_first: bool) -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"a": nn.MultiheadAttention(8, 4, batch_first=batch_first)}).eval()
    x = torch.randn(5, 3, 8)
    before: Any = model["a"]
    expected = before(x, x, x, need_weights=False)[0]
    apply_edits(model, [KeepHeads(module="a", heads=(0, 1, 2, 3))])
    after: Any = model["a"]
    torch.testing.assert_close(after(x, x, x)[0], expected)
    with torch.no_grad():
        after.out.weight[:, 2:4] = 0
    expected = after(x, x, x)[0]
    apply_edits(model, [KeepHeads(module="a", heads=(0, 2, 3))])
    torch.testing.assert_close(after(x, x, x)[0], expected)
    assert after.query.out_features == 6


def test_transposed_convolutions_and_embeddings_and_positions() -> None:
    torch.manual_seed(0)
    up = nn.ConvTranspose2d(4, 6, 2, groups=2)
    model = nn.ModuleDict({"up": up, "table": nn.Embedding(5, 6), "norm": nn.LayerNorm(6)})
    model.register_parameter("positions", nn.Parameter(torch.randn(1, 3, 6)))
    x, kept = torch.randn(1, 4, 3, 3), (0, 1, 3, 5)
    expected = up(x)[:, list(kept)]
    edits: list[Edit] = [
        KeepChannels(module="up", outputs=kept),
        KeepChannels(module="table", outputs=kept),
        KeepChannels(module="norm", outputs=kept),
        KeepEntries(parameter="positions", axis=2, kept=kept),
    ]
    apply_edits(model, edits)
    torch.testing.assert_close(up(x), expected)
    assert model["table"](torch.tensor([1])).shape == (1, 4)
    assert model.positions.shape == (1, 3, 4)
    assert model["norm"](torch.randn(2, 4)).shape == (2, 4)


@pytest.mark.parametrize(
    ("by", "where"),
    [
        (LowRankLinear(rank=3), "8"),
        (MonarchLinear(blocks=2), "8"),
        (Tucker2Conv(rank_in=2, rank_out=3), "0"),
        (SeparableConv(), "0"),
        (SeparableConv(norm=False), "0"),
        (Identity(), "9"),
    ],
)
def test_replacements_keep_shapes_and_are_seeded(by: Any, where: str) -> None:
    first = apply_edits(fresh(), [ReplaceModule(module=where, by=by)]).eval()
    torch.manual_seed(99)
    second = apply_edits(fresh(), [ReplaceModule(module=where, by=by)]).eval()
    with torch.no_grad():
        assert first(X).shape == fresh()(X).shape
        assert torch.equal(first(X), second(X))


def test_a_head_is_an_output_before_the_models_own() -> None:
    model = apply_edits(fresh(), [AddHead(name="early", after="2", features=8, outputs=3, hidden=4)])
    early, own = model(X)
    assert (early.shape, own.shape) == ((3, 3), (3, 5))
    assert torch.equal(own, fresh()(X))
    model = apply_edits(
        model,
        [
            KeepChannels(module="@early.hidden", outputs=(0, 1)),
            KeepChannels(module="@early.out", inputs=(0, 1)),
            AddHead(name="late", after="6", features=12, outputs=2),
        ],
    )
    assert [part.shape[1] for part in model(X)] == [3, 2, 5]


def test_views_go_on_top_of_each_other_and_gradients_go_through() -> None:
    model = apply_edits(
        fresh(),
        [
            Mask(module="8"),
            Quantise(
                module="8",
                weight=Grid(bits=4, per_channel=True),
                input=Grid(bits=8),
                output=Grid(bits=8, symmetric=False),
            ),
        ],
    )
    layer: Any = layer_at(model, "8")
    mask, grid = layer.parametrizations.weight
    mask.mask[0] = False
    grid.fit(layer.parametrizations.weight.original)
    for side in (layer.input_grid, layer.output_grid):
        side.scale.fill_(0.05)
    model(X).sum().backward()
    assert bool((layer.weight[0] == 0).all())
    assert layer.weight.unique().numel() > 2
    steps = layer.weight / grid.scale.view(-1, 1)
    torch.testing.assert_close(steps, steps.round())
    gradient = layer.parametrizations.weight.original.grad
    assert bool((gradient[0] == 0).all())
    assert bool((gradient[1:] != 0).any())


def test_one_bit_is_plus_or_minus_the_scale() -> None:
    model = apply_edits(fresh(), [Quantise(module="8", weight=Grid(bits=1))])
    layer: Any = layer_at(model, "8")
    layer.parametrizations.weight[0].fit(layer.parametrizations.weight.original)
    assert layer.weight.unique().numel() == 2


REFUSED: dict[str, tuple[Edit, str, str]] = {
    "a layer that isn't there": (KeepChannels(module="nope", outputs=(0,)), "'nope'", "no such layer"),
    "deeper than the model": (Mask(module="0.weight.x"), "'0.weight.x'", "no such layer"),
    "an index out of range": (KeepChannels(module="8", outputs=(0, 10)), "'8'", "has 10"),
    "uneven groups": (KeepChannels(module="4", inputs=(0, 1, 2)), "'4'", "different numbers"),
    "inputs of a norm that aren't its outputs": (KeepChannels(module="1", outputs=(0,), inputs=(1,)), "'1'", "same"),
    "a layer without channels": (KeepChannels(module="2", outputs=(0,)), "'2'", "ReLU"),
    "heads of a convolution": (KeepHeads(module="0", heads=(0,)), "'0'", "no heads"),
    "a rank too high": (ReplaceModule(module="8", by=LowRankLinear(rank=11)), "'8'", "rank 11"),
    "low rank of a convolution": (ReplaceModule(module="0", by=LowRankLinear(rank=1)), "'0'", "not a dense layer"),
    "tucker of a grouped one": (ReplaceModule(module="4", by=Tucker2Conv(rank_in=1, rank_out=1)), "'4'", "4 groups"),
    "blocks that don't divide": (ReplaceModule(module="8", by=MonarchLinear(blocks=5)), "'8'", "5 blocks"),
    "code that nobody named": (ReplaceModule(module="8", by=UserModule(reference="os:abort")), "os:abort", "project"),
    "a mask on nothing": (Mask(module="2"), "'2'", "no parameter 'weight'"),
    "a codebook larger than its layer": (Codebook(module="9", entries=11), "'9'", "larger than its 10"),
    "a head on nothing": (AddHead(name="h", after="x", features=1, outputs=1), "'x'", "no such layer"),
    "entries of no parameter": (KeepEntries(parameter="p", axis=0, kept=(0,)), "'p'", "no such parameter"),
    "a head that isn't there": (Mask(module="@h.out"), "'@h.out'", "no such head"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_with_the_layer(name: str) -> None:
    edit, layer, reason = REFUSED[name]
    with pytest.raises(ModelError) as caught:
        apply_edits(fresh(), [edit], CODE.module_maker)
    assert layer in caught.value.message
    assert reason in caught.value.message


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_a_view_that_a_recurrent_layer_would_never_see_is_refused(kind: type[nn.LSTM | nn.GRU]) -> None:
    with pytest.raises(ModelError, match=f"'0' can't be changed: a {kind.__name__} computes with"):
        apply_edits(nn.Sequential(kind(3, 4)), [Mask(module="0", parameter="weight_ih_l0")])


def test_structure_is_not_changed_under_masks_or_of_shared_layers() -> None:
    with pytest.raises(ModelError, match=r"'8'.*structure has to change before"):
        apply_edits(fresh(), [Mask(module="8"), KeepChannels(module="8", outputs=(0,))])
    shared = nn.Linear(4, 4)
    twice = nn.ModuleDict({"a": shared, "b": shared})
    with pytest.raises(ModelError, match=r"'a'.*also 'b'"):
        apply_edits(twice, [KeepChannels(module="a", outputs=(0,))])
    tied = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)})
    tied["b"].weight = tied["a"].weight
    with pytest.raises(ModelError, match=r"'b'.*shares its weights with 'a'"):
        apply_edits(tied, [KeepChannels(module="b", outputs=(0,))])


def test_a_frozen_layer_stays_frozen() -> None:
    model = fresh().requires_grad_(False)
    apply_edits(
        model,
        [
            KeepChannels(module="8", outputs=(0, 1)),
            KeepChannels(module="9", outputs=(0, 1)),
            KeepChannels(module="10", inputs=(0, 1)),
        ],
    )
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "keep-channels", "module": "0"},
        {"kind": "keep-channels", "module": "0", "outputs": []},
        {"kind": "keep-channels", "module": "0", "outputs": [1, 1]},
        {"kind": "keep-channels", "module": "0", "outputs": [-1]},
        {"kind": "keep-channels", "module": "", "outputs": [0]},
        {"kind": "run-code", "module": "0"},
        {"kind": "quantise", "module": "0"},
        {"kind": "quantise", "module": "0", "input": {"bits": 8, "per_channel": True}},
        {"kind": "replace-module", "module": "0", "by": {"kind": "low-rank-linear", "rank": 1 << 40}},
        {"kind": "add-head", "name": "../x", "after": "0", "features": 1, "outputs": 1},
        {"kind": "codebook", "module": "0", "entries": 1},
        {"kind": "mask", "module": "0", "parameter": "a.b"},
    ],
)
def test_values_refuse_what_no_model_could_mean(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        CompressedModel.model_validate({"factory": "a:b", "edits": [wrong]})
