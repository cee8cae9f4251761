"""The closed vocabulary of edits: all that a technique may do to a torch module, as values. No torch here.

A compressed model is the user's factory, edits in order, and weights. ``edgebuild.models.interpreter`` is the one place
that carries edits out, so that techniques compose: the edits of two steps are those of the first, then those of the
second. A module is named by its dotted path in the user's model (``layer1.0.conv1``); the modules of an added head are
named ``@HEAD.…``; the model itself is ``""``.
"""

from __future__ import annotations

import itertools
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, Field, model_validator

from edgebuild.core.values import Value

#: No layer that fits an edge device has more channels, ranks or entries; larger numbers are damage or malice.
MOST = 1 << 20
MOST_EDITS = 10_000


def _kept(indices: tuple[int, ...]) -> tuple[int, ...]:
    if not indices:
        raise ValueError("a layer must keep at least one")
    if indices[0] < 0 or any(a >= b for a, b in itertools.pairwise(indices)):
        raise ValueError("kept indices must rise, from 0 on")
    return indices


Kept = Annotated[tuple[int, ...], Field(max_length=MOST), AfterValidator(_kept)]
Module = Annotated[str, Field(max_length=500, pattern=r"^@?[^@]*$")]
Layer = Annotated[str, Field(min_length=1, max_length=500, pattern=r"^@?[^@]+$")]
Size = Annotated[int, Field(ge=1, le=MOST)]


class KeepChannels(Value):
    """Keep these outputs and inputs of a layer, by index; ``None`` keeps all.

    Holds for convolutions (transposed ones too), dense layers, normalisations, PReLU, embeddings (outputs), and for
    LSTM and GRU of one layer (outputs: hidden units, of both directions where there are two). In a grouped convolution
    every group that is left keeps equally many; a depthwise one may name one side only. Where channels reach a layer
    through a concatenation or a flattening, its inputs are counted behind it.
    """

    kind: Literal["keep-channels"] = "keep-channels"
    module: Layer
    outputs: Kept | None = None
    inputs: Kept | None = None

    @model_validator(mode="after")
    def _does_something(self) -> KeepChannels:
        if self.outputs is None and self.inputs is None:
            raise ValueError("must name outputs or inputs")
        return self


class KeepHeads(Value):
    """Keep these heads of a self-attention (``torch.nn.MultiheadAttention``), by index."""

    kind: Literal["keep-heads"] = "keep-heads"
    module: Layer
    heads: Kept


class KeepEntries(Value):
    """Keep these entries of one axis of a parameter or buffer that no layer owns, such as a positional embedding."""

    kind: Literal["keep-entries"] = "keep-entries"
    parameter: Layer
    axis: Annotated[int, Field(ge=0, le=8)]
    kept: Kept


class LowRankLinear(Value):
    """A dense layer as two: inputs → ``rank`` → outputs. Layers ``.0`` (no bias) and ``.1``."""

    kind: Literal["low-rank-linear"] = "low-rank-linear"
    rank: Size


class Tucker2Conv(Value):
    """A convolution as three: 1x1 to ``rank_in``, the kernel to ``rank_out``, 1x1 out. Layers ``.0``, ``.1``, ``.2``.

    Source: Kim et al. 2016, "Compression of Deep Convolutional Neural Networks for Fast and Low Power Mobile
    Applications".
    """

    kind: Literal["tucker2-conv"] = "tucker2-conv"
    rank_in: Size
    rank_out: Size


class SeparableConv(Value):
    """A convolution as a depthwise one, batch normalisation, ReLU and a 1x1 one. Layers ``.0`` to ``.3``.

    Without ``norm`` the two in the middle are left out: layers ``.0`` and ``.1``. Source: Howard et al. 2017,
    "MobileNets".
    """

    kind: Literal["depthwise-separable-conv"] = "depthwise-separable-conv"
    norm: bool = True


class MonarchLinear(Value):
    """A dense layer as two block-diagonal matrices with ``blocks`` blocks each and a shuffle between them.

    ``blocks`` divides both inputs and outputs. Source: Dao et al. 2022, "Monarch".
    """

    kind: Literal["monarch-linear"] = "monarch-linear"
    blocks: Size


class Identity(Value):
    """Nothing: the module returns its first argument. This is how a residual block is removed."""

    kind: Literal["identity"] = "identity"


class ShallowNet(Value):
    """The whole model as a flat one: inputs → ``bottleneck`` (no bias, linear) → ``hidden`` units (ReLU) → outputs.

    Layers ``1``, ``2`` and ``4``. Source: Ba and Caruana 2014, "Do deep nets really need to be deep?", section 2.4.
    """

    kind: Literal["shallow-net"] = "shallow-net"
    inputs: Size
    bottleneck: Size
    hidden: Size
    outputs: Size


class UserModule(Value):
    """What a function of the user's, ``module:function``, makes of the module that it replaces."""

    kind: Literal["user-module"] = "user-module"
    reference: Annotated[str, Field(min_length=3, max_length=500, pattern=r"^[\w.]+:[\w.]+$")]


Replacement: TypeAlias = Annotated[
    LowRankLinear | Tucker2Conv | SeparableConv | MonarchLinear | Identity | ShallowNet | UserModule,
    Field(discriminator="kind"),
]


class ReplaceModule(Value):
    """Put another module in a module's place, its weights yet to be set; in the whole model's where that is ``""``."""

    kind: Literal["replace-module"] = "replace-module"
    module: Module
    by: Replacement


class Restored(Value):
    """An output that is brought back to the size that it had at the input's own size: height and width."""

    output: Annotated[int, Field(ge=0, le=1000)]
    size: tuple[Size, Size]


class ResizeInput(Value):
    """Bring an image input (batch, channels, height, width) to ``size`` before the model sees it.

    Linear interpolation to ``size`` times ``mean``, then means over ``mean`` pixels, so that nothing is skipped where
    an image shrinks to less than half. Outputs that are maps are interpolated back. Callers feed and get what they did.
    """

    kind: Literal["resize-input"] = "resize-input"
    input: Annotated[int, Field(ge=0, le=1000)]
    size: tuple[Size, Size]
    mean: tuple[Size, Size] = (1, 1)
    restored: Annotated[tuple[Restored, ...], Field(max_length=1000)] = ()


class SetStride(Value):
    """Give a convolution or a max pooling another stride and dilation; its padding grows with the dilation.

    Where strides are taken out, kernels behind them are dilated as much ("à trous": Chen et al. 2017, "DeepLab"): every
    map then holds the old one's values, and those between.
    """

    kind: Literal["set-stride"] = "set-stride"
    module: Layer
    stride: tuple[Size, Size]
    dilation: tuple[Size, Size]


class AddHead(Value):
    """Add an early exit behind a module: the model then returns the outputs of all heads in order, then its own.

    The head takes the module's output with ``features`` channels, averages over all axes behind them (of images
    over ``grid`` by ``grid`` cells), and ends in ``outputs`` numbers, through one ReLU layer of ``hidden`` units where
    that isn't 0. Its layers are ``@NAME.hidden`` and ``@NAME.out``. ``confidence`` says how sure it is: the
    probability of its likeliest class, or the entropy of all (its negative).
    """

    kind: Literal["add-head"] = "add-head"
    name: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,63}$")]
    after: Layer
    features: Size
    outputs: Size
    hidden: Annotated[int, Field(ge=0, le=MOST)] = 0
    grid: Annotated[int, Field(ge=1, le=64)] = 1
    confidence: Literal["max-probability", "entropy"] = "max-probability"


class Grid(Value):
    """A uniform grid of ``bits`` bits; ``per_channel`` has one scale per output channel. One bit is ± the scale."""

    bits: Annotated[int, Field(ge=1, le=16)]
    symmetric: bool = True
    per_channel: bool = False


class Quantise(Value):
    """Compute a layer on grids: its weight, its input, its output. Scales and zero points lie with the weights."""

    kind: Literal["quantise"] = "quantise"
    module: Layer
    weight: Grid | None = None
    input: Grid | None = None
    output: Grid | None = None

    @model_validator(mode="after")
    def _does_something(self) -> Quantise:
        if self.weight is None and self.input is None and self.output is None:
            raise ValueError("must name a grid for weight, input or output")
        if any(grid is not None and grid.per_channel for grid in (self.input, self.output)):
            raise ValueError("activations have one scale: per_channel is for weights")
        return self


class Mask(Value):
    """Hold entries of a layer's parameter at zero, through all later training. The mask lies with the weights."""

    kind: Literal["mask"] = "mask"
    module: Layer
    parameter: Annotated[str, Field(pattern=r"^[A-Za-z_]\w{0,99}$")] = "weight"


class Codebook(Value):
    """Let all entries of a layer's parameter share ``entries`` values; with ``zero`` the first one is fixed at zero."""

    kind: Literal["codebook"] = "codebook"
    module: Layer
    parameter: Annotated[str, Field(pattern=r"^[A-Za-z_]\w{0,99}$")] = "weight"
    entries: Annotated[int, Field(ge=2, le=1 << 16)]
    zero: bool = False


Edit: TypeAlias = Annotated[
    KeepChannels
    | KeepHeads
    | KeepEntries
    | ReplaceModule
    | ResizeInput
    | SetStride
    | AddHead
    | Quantise
    | Mask
    | Codebook,
    Field(discriminator="kind"),
]


class CompressedModel(Value):
    """``compressed.json``: the user's factory and what was done to its model. Without edits it is the original."""

    schema_version: Literal[1] = 1
    factory: Annotated[str, Field(min_length=3, max_length=500)]
    edits: Annotated[tuple[Edit, ...], Field(max_length=MOST_EDITS)] = ()
