"""What a layer computes with in place of its plain weights: masked, shared or on a grid. Built on torch's
parametrisations, so that training goes on through them. Imports torch: import it inside functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from edgebuild.models.narrowing import refuse

if TYPE_CHECKING:
    from edgebuild.models.edits import Grid


#: Scales between the full range and a tenth of it that are tried for the closest grid.
SCALES_TRIED = 46


class Masked(nn.Module):
    """Holds entries at zero: ``mask`` is 1 where a weight is kept."""

    mask: torch.Tensor

    def __init__(self, like: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", torch.ones_like(like, dtype=torch.bool))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the weight with its masked entries at zero, whatever training made of them."""
        return torch.where(self.mask, weight, torch.zeros_like(weight))


class Shared(nn.Module):
    """All entries come from ``codebook``, each by its ``index``; the weight behind it is no longer used."""

    index: torch.Tensor

    def __init__(self, like: torch.Tensor, entries: int, *, zero: bool) -> None:
        super().__init__()
        self.zero = zero
        self.codebook = nn.Parameter(torch.zeros(entries, dtype=like.dtype))
        self.register_buffer("index", torch.zeros(like.shape, dtype=torch.int32))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the shared values in the weight's shape."""
        del weight
        book = torch.cat([torch.zeros_like(self.codebook[:1]), self.codebook[1:]]) if self.zero else self.codebook
        return book[self.index.long()]


class FakeQuantise(nn.Module):
    """Rounds to a grid; the gradient goes straight through: of a weight's grid everywhere, else inside its range.

    Bits of 2 and more: (round(x / scale) clipped to the integers of the grid) · scale around ``zero_point``; one bit:
    ± scale. ``off`` passes everything through as it is. Source of the straight-through gradient: Bengio et al. 2013,
    arXiv 1308.3432; a weight beyond the range must be able to come back, so its gradient isn't stopped.
    """

    scale: torch.Tensor
    zero_point: torch.Tensor

    def __init__(self, grid: Grid, channels: int | None, axis: int = 0, rank: int = 0) -> None:
        super().__init__()
        self.grid, self.axis, self.rank, self.off = grid, axis, rank, False
        self.of_weight = rank > 0
        count = channels if grid.per_channel and channels is not None else 1
        self.register_buffer("scale", torch.ones(count))
        self.register_buffer("zero_point", torch.zeros(count))
        levels = 1 << grid.bits
        self.low, self.high = (1 - levels // 2, levels // 2 - 1) if grid.symmetric else (0, levels - 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``x`` on the grid, in its own dtype."""
        if self.off:
            return x
        scale = self.spread(self.scale)
        if self.grid.bits == 1:
            signs = torch.where(x >= 0, scale, -scale)
            return _straight(signs, x if self.of_weight else x.clamp(-scale, scale))
        position = x / scale
        if not self.grid.symmetric:
            position = position + self.spread(self.zero_point)
        inside = position.clamp(self.low, self.high)
        on_grid = _straight(inside.round(), position if self.of_weight else inside)
        if not self.grid.symmetric:
            on_grid = on_grid - self.spread(self.zero_point)
        return on_grid * scale

    def bounds(self) -> tuple[float, float]:
        """Return the smallest and the largest number of a grid with one scale."""
        scale, zero = float(self.scale), float(self.zero_point)
        return scale * (self.low - zero), scale * (self.high - zero)

    @torch.no_grad()
    def fit(self, x: torch.Tensor) -> None:
        """Set scale and zero point so that the grid spans the values of ``x``; one bit gets their mean magnitude."""
        flat = self._by_scale(x)
        if self.grid.bits == 1:
            self.scale.copy_(flat.abs().mean(1).clamp_min(1e-12))
        elif self.grid.symmetric:
            self.scale.copy_((flat.abs().amax(1) / self.high).clamp_min(1e-12))
        else:
            low, high = flat.amin(1).clamp_max(0), flat.amax(1).clamp_min(0)
            self.scale.copy_(((high - low) / self.high).clamp_min(1e-12))
            self.zero_point.copy_((-low / self.scale).round())

    @torch.no_grad()
    def fit_closest(self, x: torch.Tensor) -> None:
        """Set the scales of a symmetric grid so that ``x`` is off it by the least squared error, out of some."""
        self.fit(x)
        if self.grid.bits == 1:
            return  # the mean magnitude is the closest already
        full, best = self.scale.clone(), self.scale.clone()
        least = torch.full_like(full, torch.inf)
        for factor in torch.linspace(1.0, 0.1, SCALES_TRIED).tolist():
            self.scale.copy_(full * factor)
            error = self._by_scale((self(x) - x) ** 2).sum(1)
            best, least = torch.where(error < least, self.scale, best), torch.minimum(error, least)
        self.scale.copy_(best)

    @torch.no_grad()
    def follow(self, x: torch.Tensor) -> None:
        """Move the scales of a symmetric grid to the closest ones for the codes that ``x`` has now."""
        on_grid = self._by_scale(self(x)) / self.scale[:, None]
        power = on_grid.pow(2).sum(1)
        closest = (self._by_scale(x) * on_grid).sum(1) / power.clamp_min(1e-12)
        self.scale.copy_(torch.where((power > 0) & (closest > 0), closest, self.scale))

    def _by_scale(self, x: torch.Tensor) -> torch.Tensor:
        """Return what shares a scale as a row."""
        return x.detach().movedim(self.axis, 0).flatten(1) if self.scale.numel() > 1 else x.detach().reshape(1, -1)

    def spread(self, value: torch.Tensor) -> torch.Tensor:
        """Return a value per scale in a shape that goes with what is on the grid."""
        if value.numel() == 1:
            return value
        shape = [1] * self.rank
        shape[self.axis] = -1
        return value.view(shape)


def _straight(value: torch.Tensor, through: torch.Tensor) -> torch.Tensor:
    """Return exactly ``value``, with the gradient of ``through``; nothing is added where nobody asks for gradients."""
    return value.detach() + (through - through.detach()) if through.requires_grad else value


def add_mask(layer: nn.Module, parameter: str, where: str) -> None:
    """Hold entries of a parameter at zero; the mask keeps everything until it is set."""
    value = _parameter(layer, parameter, where)
    parametrize.register_parametrization(layer, parameter, Masked(value), unsafe=True)


def add_codebook(layer: nn.Module, parameter: str, where: str, *, entries: int, zero: bool) -> None:
    """Let a parameter's entries share values, which are zero until they are set."""
    value = _parameter(layer, parameter, where)
    if entries > value.numel():
        raise refuse(where, f"a codebook of {entries} entries is larger than its {value.numel()} weights")
    parametrize.register_parametrization(layer, parameter, Shared(value, entries, zero=zero), unsafe=True)
    if parametrize.is_parametrized(layer, parameter):
        layer.parametrizations[parameter].original.requires_grad_(False)  # type: ignore[index, union-attr]


def add_grids(layer: nn.Module, where: str, *, weight: Grid | None, input: Grid | None, output: Grid | None) -> None:  # noqa: A002
    """Put a layer's weight, input and output on grids of scale 1 until they are fitted or loaded."""
    if weight is not None:
        value = _parameter(layer, "weight", where)
        # Transposed convolutions have their outputs on axis 1.
        axis = 1 if isinstance(layer, nn.modules.conv._ConvTransposeNd) else 0
        grid = FakeQuantise(weight, value.shape[axis], axis, value.dim())
        parametrize.register_parametrization(layer, "weight", grid, unsafe=True)
    for side, grid_of in (("input", input), ("output", output)):
        if grid_of is None:
            continue
        if hasattr(layer, f"{side}_grid"):
            raise refuse(where, f"its {side} is on a grid already")
        layer.add_module(f"{side}_grid", FakeQuantise(grid_of, None))
    if input is not None:
        layer.register_forward_pre_hook(_on_input)
    if output is not None:
        layer.register_forward_hook(_on_output)


def views_of(layer: nn.Module, parameter: str = "weight") -> tuple[nn.Module, ...]:
    """Return the views that a parameter is seen through, in order; none for a plain one."""
    if not parametrize.is_parametrized(layer, parameter):
        return ()
    return tuple(layer.parametrizations[parameter])  # type: ignore[index]


def is_viewed(layer: nn.Module) -> bool:
    """Whether a layer computes with anything but its plain weights, inputs and outputs."""
    return parametrize.is_parametrized(layer) or hasattr(layer, "input_grid") or hasattr(layer, "output_grid")


def _on_input(layer: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return (layer.input_grid(args[0]), *args[1:])


def _on_output(layer: Any, args: tuple[Any, ...], output: Any) -> Any:
    del args
    return layer.output_grid(output)


def _parameter(layer: nn.Module, name: str, where: str) -> torch.Tensor:
    if isinstance(layer, nn.RNNBase):
        # It reads its weights from a list of its own, past any view of them.
        raise refuse(where, f"a {type(layer).__name__} computes with its plain weights only")
    value = getattr(layer, name, None)
    if not isinstance(value, torch.Tensor):
        raise refuse(where, f"it has no parameter {name!r}")
    if not value.is_floating_point():
        raise refuse(where, f"its {name!r} is {str(value.dtype).removeprefix('torch.')}, not a real number")
    return value
