"""Trains the head: `python train.py` writes `head.safetensors`. EfficientNet-Lite0 itself stays as ImageNet made it.

Only the `train` split is learnt from; the accuracy on `validation` is printed. A minute or two on two cores, nearly all
of it for the features.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import data
import model
import numpy as np
import onnxruntime
import torch
from safetensors.torch import save_file
from torch import nn

STEPS = 400
LEARNING_RATE = 0.01
WEIGHT_DECAY = 0.05


def features(network: onnxruntime.InferenceSession, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """What the head is given for the pictures of a split, (pictures, 1280), and their labels."""
    found, labels = [], []
    for sample in data.samples(split):
        found.append(network.run(None, {"image": sample.inputs["image"][None]})[0][0])
        labels.append(int(sample.target))  # type: ignore[call-overload]
        print(f"\r{split}: {len(labels)} pictures", end="", flush=True)
    print()
    return torch.from_numpy(np.stack(found)), torch.tensor(labels)


def compiled(network: nn.Module) -> onnxruntime.InferenceSession:
    """The network in ONNX Runtime, which takes a quarter of torch's time for it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "features.onnx"
        torch.onnx.export(network, (torch.zeros(1, 3, 224, 224),), path, input_names=["image"], dynamo=True)
        return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def main() -> None:
    """Train and write the head."""
    network = model.headless().eval()
    network._fc = nn.Identity()
    session = compiled(network)
    inputs, labels = features(session, "train")
    torch.manual_seed(0)
    head = nn.Linear(inputs.shape[1], len(data.CATEGORIES))
    optimiser = torch.optim.AdamW(head.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    for _ in range(STEPS):
        optimiser.zero_grad()
        nn.functional.cross_entropy(head(inputs), labels, label_smoothing=0.05).backward()
        optimiser.step()
        schedule.step()
    save_file({name: value.contiguous() for name, value in head.state_dict().items()}, model.HEAD)
    inputs, labels = features(session, "validation")
    print(f"validation: {float((head(inputs).argmax(dim=1) == labels).float().mean()):.4f}")


if __name__ == "__main__":
    main()
