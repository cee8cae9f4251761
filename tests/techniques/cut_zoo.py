"""Small nets in which channels reach their readers by winding ways: what structured pruning must cut right, or leave.

Each maker takes a width (a multiple of 8) and returns a net for inputs of shape (N, 3, 8, 8).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable

CLASSES = 5


class Net(nn.Module):
    """A net by its parts and a function of them and the image."""

    def __init__(self, way: Callable[[Any, torch.Tensor], Any], **parts: nn.Module) -> None:
        super().__init__()
        self.way = way
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, image: torch.Tensor) -> Any:
        return self.way(self, image)


def _stem(w: int) -> nn.Conv2d:
    return nn.Conv2d(3, w, 3, stride=2, padding=1)


def channels_last_norm(w: int) -> nn.Module:
    def way(net: Any, x: torch.Tensor) -> Any:
        return net.head(torch.relu(net.dense(net.norm(torch.relu(net.stem(x)).permute(0, 2, 3, 1).flatten(1)))))

    return Net(way, stem=_stem(w), norm=nn.LayerNorm(16 * w), dense=nn.Linear(16 * w, 8), head=nn.Linear(8, CLASSES))


def channels_first_norm(w: int) -> nn.Module:
    def way(net: Any, x: torch.Tensor) -> Any:
        return net.head(net.norm(torch.relu(net.stem(x)).flatten(1)))

    return Net(way, stem=_stem(w), norm=nn.LayerNorm(16 * w), head=nn.Linear(16 * w, CLASSES))


def channels_last(w: int) -> nn.Module:
    def way(net: Any, x: torch.Tensor) -> Any:
        return net.head(torch.relu(net.stem(x)).permute(0, 2, 3, 1).reshape(len(x), -1))

    return Net(way, stem=_stem(w), head=nn.Linear(16 * w, CLASSES))


def shuffle_group_norm(w: int) -> nn.Module:
    def way(net: Any, x: torch.Tensor) -> Any:
        y = net.stem(x)
        n, c, h, v = y.shape
        y = y.view(n, 2, c // 2, h, v).transpose(1, 2).reshape(n, c, h, v)
        return net.head(torch.relu(net.norm(y)).mean((2, 3)))

    return Net(way, stem=_stem(w), norm=nn.GroupNorm(4, w), head=nn.Linear(w, CLASSES))


def group_norm(w: int) -> nn.Module:
    def way(net: Any, x: torch.Tensor) -> Any:
        return net.head(torch.relu(net.norm(net.stem(x))).mean((2, 3)))

    return Net(way, stem=_stem(w), norm=nn.GroupNorm(2, w), head=nn.Linear(w, CLASSES))


class LayerNorm2d(nn.LayerNorm):
    """As ConvNeXt has it: over the channels of an image."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - torch's name
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def norm_of_images(w: int) -> nn.Module:
    def way(net: Any, x: torch.Tensor) -> Any:
        return net.head(functional.gelu(net.next(net.norm(net.stem(x)))).mean((2, 3)))

    return Net(way, stem=_stem(w), norm=LayerNorm2d(w), next=nn.Conv2d(w, 8, 1), head=nn.Linear(8, CLASSES))


def functional_norm(w: int) -> nn.Module:
    def way(net: Any, x: torch.Tensor) -> Any:
        y = net.stem(x).mean((2, 3))
        return net.head(functional.layer_norm(y, y.shape[1:]))

    return Net(way, stem=_stem(w), head=nn.Linear(w, CLASSES))


def functional_group_norm(w: int) -> nn.Module:
    def way(net: Any, x: torch.Tensor) -> Any:
        return net.head(functional.group_norm(net.stem(x), 1).mean((2, 3)))

    return Net(way, stem=_stem(w), head=nn.Linear(w, CLASSES))


def softmax_over_channels(w: int) -> nn.Module:
    def way(net: Any, x: torch.Tensor) -> Any:
        return net.head(net.stem(x).softmax(1).mean((2, 3)))

    return Net(way, stem=_stem(w), head=nn.Linear(w, CLASSES))


def unit_length(w: int) -> nn.Module:
    def way(net: Any, x: torch.Tensor) -> Any:
        return net.head(functional.normalize(net.stem(x).mean((2, 3)), dim=1))

    return Net(way, stem=_stem(w), head=nn.Linear(w, CLASSES))


class Rms(nn.Module):
    """Root-mean-square normalisation by hand."""

    def __init__(self, w: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.rand(w) + 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.gain


def rms_by_hand(w: int) -> nn.Module:
    def way(net: Any, x: torch.Tensor) -> Any:
        return net.head(net.norm(net.stem(x).flatten(2).transpose(1, 2)).mean(1))

    return Net(way, stem=_stem(w), norm=Rms(w), head=nn.Linear(w, CLASSES))


def rms(w: int) -> nn.Module:
    def way(net: Any, x: torch.Tensor) -> Any:
        return net.head(net.norm(net.stem(x).mean((2, 3))))

    return Net(way, stem=_stem(w), norm=nn.RMSNorm(w), head=nn.Linear(w, CLASSES))


def pixel_shuffle(w: int) -> nn.Module:
    def way(net: Any, x: torch.Tensor) -> Any:
        return net.head(torch.relu(net.next(functional.pixel_shuffle(net.stem(x), 2))).mean((2, 3)))

    return Net(way, stem=_stem(w), next=nn.Conv2d(w // 4, 8, 1), head=nn.Linear(8, CLASSES))


def unfolded(w: int) -> nn.Module:
    def way(net: Any, x: torch.Tensor) -> Any:
        return net.head(functional.unfold(torch.relu(net.stem(x)), 2).mean(2))

    return Net(way, stem=_stem(w), head=nn.Linear(4 * w, CLASSES))


def halves(w: int) -> nn.Module:
    def way(net: Any, x: torch.Tensor) -> Any:
        a, b = net.stem(x).chunk(2, 1)
        return net.head((a * torch.sigmoid(b)).mean((2, 3)))

    return Net(way, stem=_stem(w), head=nn.Linear(w // 2, CLASSES))


def split_and_joined(w: int) -> nn.Module:
    def way(net: Any, x: torch.Tensor) -> Any:
        a, b = net.stem(x).split([w // 4, w - w // 4], 1)
        return net.head(net.norm(torch.cat([b, a], 1).mean((2, 3))))

    return Net(way, stem=_stem(w), norm=nn.LayerNorm(w), head=nn.Linear(w, CLASSES))


def joined_norm(w: int) -> nn.Module:
    def way(net: Any, x: torch.Tensor) -> Any:
        both = torch.cat([net.left(x), net.right(x)], 1)
        return net.head(torch.relu(net.norm(both)).mean((2, 3)))

    return Net(way, left=_stem(w), right=_stem(w), norm=nn.GroupNorm(2, 2 * w), head=nn.Linear(2 * w, CLASSES))


def squeeze_excite(w: int) -> nn.Module:
    def way(net: Any, x: torch.Tensor) -> Any:
        y = torch.relu(net.stem(x))
        gate = torch.sigmoid(net.up(torch.relu(net.down(y.mean((2, 3))))))
        return net.head((y * gate[:, :, None, None]).flatten(1))

    return Net(way, stem=_stem(w), down=nn.Linear(w, 8), up=nn.Linear(8, w), head=nn.Linear(16 * w, CLASSES))


def flattened_batch_norm(w: int) -> nn.Module:
    def way(net: Any, x: torch.Tensor) -> Any:
        return net.head(torch.relu(net.norm(net.stem(x).permute(0, 2, 3, 1).flatten(1))))

    return Net(way, stem=_stem(w), norm=nn.BatchNorm1d(16 * w), head=nn.Linear(16 * w, CLASSES))


def depthwise_multiplier(w: int) -> nn.Module:
    def way(net: Any, x: torch.Tensor) -> Any:
        return net.head(torch.relu(net.norm(net.deep(net.stem(x)))).mean((2, 3)))

    return Net(
        way,
        stem=_stem(w),
        deep=nn.Conv2d(w, 2 * w, 3, groups=w),
        norm=nn.InstanceNorm2d(2 * w, affine=True),
        head=nn.Linear(2 * w, CLASSES),
    )


def grouped(w: int) -> nn.Module:
    def way(net: Any, x: torch.Tensor) -> Any:
        return net.head(torch.relu(net.norm(net.deep(torch.relu(net.stem(x))))).mean((2, 3)))

    return Net(
        way,
        stem=_stem(w),
        deep=nn.Conv2d(w, w, 3, groups=4),
        norm=nn.GroupNorm(4, w),
        head=nn.Linear(w, CLASSES),
    )


def einsum(w: int) -> nn.Module:
    def way(net: Any, x: torch.Tensor) -> Any:
        y = net.stem(x).flatten(2)
        return net.head(net.norm(torch.einsum("ncl,ncm->nlm", y, y).flatten(1)))

    return Net(way, stem=_stem(w), norm=nn.LayerNorm(256), head=nn.Linear(256, CLASSES))


def twice_read(w: int) -> nn.Module:
    def way(net: Any, x: torch.Tensor) -> Any:
        y = torch.relu(net.stem(x))
        first = net.a(y).mean((2, 3))
        return net.head(first + net.b(net.norm(y.permute(0, 2, 3, 1)).flatten(1)))

    return Net(
        way,
        stem=_stem(w),
        a=nn.Conv2d(w, 8, 1),
        norm=nn.LayerNorm(w),
        b=nn.Linear(16 * w, 8),
        head=nn.Linear(8, CLASSES),
    )


def heads_by_hand(w: int) -> nn.Module:
    def way(net: Any, x: torch.Tensor) -> Any:
        y = net.norm(net.stem(x).flatten(2).transpose(1, 2))
        q, k, v = (part.unflatten(-1, (4, w // 4)).transpose(1, 2) for part in net.qkv(y).chunk(3, -1))
        mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return net.head(net.out(mixed).mean(1))

    return Net(
        way,
        stem=_stem(w),
        norm=nn.LayerNorm(w),
        qkv=nn.Linear(w, 3 * w),
        out=nn.Linear(w, w),
        head=nn.Linear(w, CLASSES),
    )


def residual_norms(w: int) -> nn.Module:
    def way(net: Any, x: torch.Tensor) -> Any:
        y = net.stem(x).permute(0, 2, 3, 1)
        for norm, up, down in ((net.norm, net.up, net.down), (net.norm2, net.up2, net.down2)):
            y = y + down(functional.gelu(up(norm(y))))
        return net.head(y.flatten(1))

    parts: dict[str, nn.Module] = {"stem": _stem(w), "head": nn.Linear(16 * w, CLASSES)}
    for n in ("", "2"):
        parts |= {f"norm{n}": nn.LayerNorm(w), f"up{n}": nn.Linear(w, 16), f"down{n}": nn.Linear(16, w)}
    return Net(way, **parts)


def answers_are_classes(w: int) -> nn.Module:
    """Only the largest class comes out: whole numbers hide nearly everything."""

    def way(net: Any, x: torch.Tensor) -> Any:
        y = net.norm(torch.relu(net.stem(x)).permute(0, 2, 3, 1).flatten(1))
        return net.head(y).argmax(1).float()

    return Net(way, stem=_stem(w), norm=nn.LayerNorm(16 * w), head=nn.Linear(16 * w, CLASSES))


def mean_over_channels(w: int) -> nn.Module:
    def way(net: Any, x: torch.Tensor) -> Any:
        y = net.stem(x)
        return net.head((y * torch.sigmoid(y.mean(1, keepdim=True))).flatten(1))

    return Net(way, stem=_stem(w), head=nn.Linear(16 * w, CLASSES))


def standardised_weights(w: int) -> nn.Module:
    class Standardised(nn.Conv2d):
        def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - torch's name
            spread, mean = torch.std_mean(self.weight, (1, 2, 3), keepdim=True)
            result: torch.Tensor = self._conv_forward(input, (self.weight - mean) / spread, self.bias)
            return result

    def way(net: Any, x: torch.Tensor) -> Any:
        return net.head(torch.relu(net.next(torch.relu(net.stem(x)))).mean((2, 3)))

    return Net(way, stem=_stem(w), next=Standardised(w, 8, 3), head=nn.Linear(8, CLASSES))


NETS: tuple[Callable[[int], nn.Module], ...] = (
    channels_last_norm,
    channels_first_norm,
    channels_last,
    shuffle_group_norm,
    group_norm,
    norm_of_images,
    functional_norm,
    functional_group_norm,
    softmax_over_channels,
    unit_length,
    rms_by_hand,
    rms,
    pixel_shuffle,
    unfolded,
    halves,
    split_and_joined,
    joined_norm,
    squeeze_excite,
    flattened_batch_norm,
    depthwise_multiplier,
    grouped,
    einsum,
    twice_read,
    heads_by_hand,
    residual_norms,
    answers_are_classes,
    mean_over_channels,
    standardised_weights,
)
