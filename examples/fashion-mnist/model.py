"""ResNet-8 for 28x28 grey images: 78 thousand parameters, about 9.4 million MACs an image."""

from __future__ import annotations

import torch
from torch import nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution where the shape changes.

    Source: He et al. 2016, "Deep Residual Learning for Image Recognition", figure 2.
    """

    def __init__(self, channels_in: int, channels_out: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride=stride, bias=False), nn.BatchNorm2d(channels_out)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        residual = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        result: torch.Tensor = self.relu(residual + self.shortcut(x))
        return result


class ResNet8(nn.Module):
    """Takes float32 images (batch, 1, 28, 28) and gives float32 logits (batch, 10)."""

    def __init__(self, *, stem_stride: int = 1) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, 16, 3, stride=stem_stride, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True)
        )
        self.stages = nn.Sequential(
            BasicBlock(16, 16, stride=1), BasicBlock(16, 32, stride=2), BasicBlock(32, 64, stride=2)
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(64, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        features = self.pool(self.stages(self.stem(image)))
        logits: torch.Tensor = self.classifier(torch.flatten(features, 1))
        return logits


def resnet8() -> ResNet8:
    """An untrained ResNet-8; edgebuild calls this and loads `weights.safetensors` into it."""
    return ResNet8()


def coarse_student(original: nn.Module) -> ResNet8:
    """A ResNet-8 that halves the image in its first layer: a quarter of the arithmetic, and the original's weights."""
    student = ResNet8(stem_stride=2)
    student.load_state_dict(original.state_dict())
    return student
