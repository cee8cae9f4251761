"""A small MobileNet-like net for 28x28 grey images: int8 finds depthwise convolutions hard, as their ranges differ."""

from __future__ import annotations

import torch
from torch import nn

# (channels, stride, expansion) of each inverted residual block (Sandler et al. 2018, table 2, scaled down).
BLOCKS = ((16, 1, 2), (24, 2, 4), (24, 1, 4), (40, 2, 4), (40, 1, 4))
STEM_CHANNELS = 16
HEAD_CHANNELS = 96


def _convolution(
    channels_in: int, channels_out: int, kernel: int, *, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    return [
        nn.Conv2d(channels_in, channels_out, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels_out),
    ]


class InvertedResidual(nn.Module):
    """Widen by a 1x1, filter depthwise by a 3x3, narrow by a linear 1x1; added to its input where the shape stays."""

    def __init__(self, channels_in: int, channels_out: int, *, stride: int, expansion: int) -> None:
        super().__init__()
        wide = channels_in * expansion
        self.body = nn.Sequential(
            *_convolution(channels_in, wide, 1),
            nn.ReLU6(inplace=True),
            *_convolution(wide, wide, 3, stride=stride, groups=wide),
            nn.ReLU6(inplace=True),
            *_convolution(wide, channels_out, 1),
        )
        self.is_residual = stride == 1 and channels_in == channels_out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.body(x)
        return x + result if self.is_residual else result


class DwNet(nn.Module):
    """Takes float32 images (batch, 1, 28, 28) and gives float32 logits (batch, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(*_convolution(1, STEM_CHANNELS, 3), nn.ReLU6(inplace=True))
        blocks = []
        channels_in = STEM_CHANNELS
        for channels_out, stride, expansion in BLOCKS:
            blocks.append(InvertedResidual(channels_in, channels_out, stride=stride, expansion=expansion))
            channels_in = channels_out
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(*_convolution(channels_in, HEAD_CHANNELS, 1), nn.ReLU6(inplace=True))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(HEAD_CHANNELS, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        features = self.pool(self.head(self.blocks(self.stem(image))))
        logits: torch.Tensor = self.classifier(torch.flatten(features, 1))
        return logits


def dwnet() -> DwNet:
    """An untrained net; its trained weights are `dwnet.safetensors`."""
    return DwNet()
