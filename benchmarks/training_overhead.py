"""What our training loop costs beside a plain one, and what distillation takes in memory.

    python benchmarks/training_overhead.py time      the loop against a plain loop: same net, batches, optimiser
    python benchmarks/training_overhead.py memory    peak memory of distilling with kept labels, and without

Each writes its page to docs/results/. `--rounds` shortens a trial run, which writes nothing; the committed pages use
the defaults. Both loops run in one process, by turns, in an order that changes every round.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from evidence import write_results
from torch import nn
from torch.nn import functional

from edgebuild.training.batches import ArrayLoader
from edgebuild.training.labels import cached_teacher
from edgebuild.training.loop import train
from edgebuild.training.losses import Distil, Supervised
from edgebuild.training.plan import TrainingPlan
from edgebuild.training.teachers import LiveTeacher

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = 30
#: Steps per turn: a second or so, so that what a run costs once is seen as the small thing it is.
STEPS = {"dense": 1000, "convolutional": 120}
BATCH = 64
LIMIT = 0.05
SAMPLES = 8192
#: Classes of the memory run: so many that the labels' file is worth counting.
CLASSES = 1000
RATE = 1e-3


def dense() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)
    )


def convolutional(classes: int = 10) -> nn.Module:
    """About 1.4 million multiply-accumulates an image."""
    layers: list[nn.Module] = []
    for before, width, stride in ((1, 12, 1), (12, 24, 2), (24, 32, 2)):
        layers += [nn.Conv2d(before, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, classes))


NETS: dict[str, Callable[[], nn.Module]] = {"dense": dense, "convolutional": convolutional}


def data(samples: int = SAMPLES, classes: int = 10) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    images = generator.standard_normal((samples, 1, 28, 28)).astype(np.float32)
    return images, generator.integers(0, classes, samples)


def plain(module: nn.Module, images: torch.Tensor, labels: torch.Tensor, steps: int) -> None:
    """The loop that anybody would write: shuffled batches, forward, backward, step, a cosine, the loss read out."""
    optimiser = torch.optim.SGD(module.parameters(), lr=RATE, momentum=0.9, nesterov=True)
    module.train()
    done, total = 0, 0.0
    while done < steps:
        for rows in torch.split(torch.randperm(len(images)), BATCH):
            for group in optimiser.param_groups:
                group["lr"] = RATE * 0.5 * (1 + math.cos(math.pi * done / steps))
            loss = functional.cross_entropy(module(images[rows]), labels[rows])
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimiser.step()
            total += float(loss.detach())
            done += 1
            if done == steps:
                return


def ours(module: nn.Module, images: torch.Tensor, labels: torch.Tensor, steps: int) -> None:
    loader = ArrayLoader(inputs=(images,), target=labels, batch_size=BATCH)
    with tempfile.TemporaryDirectory() as scratch:
        train(module, TrainingPlan(steps=steps, learning_rate=RATE), loader, Supervised(), scratch=Path(scratch))


def measure_time(rounds: int) -> dict[str, Any]:
    # Two threads on two cores of a virtual machine fall into a fast and a slow group for seconds at a time.
    torch.set_num_threads(1)
    images, labels = (torch.from_numpy(array) for array in data())
    found: dict[str, Any] = {}
    order = random.Random(0)
    for name, make in NETS.items():
        ratios: list[float] = []
        plain_ms: list[float] = []
        for turn in range(-1, rounds):  # the first round warms up
            arms = [("plain", plain), ("ours", ours)]
            order.shuffle(arms)
            took = {}
            for arm, loop in arms:
                torch.manual_seed(0)
                module = make()
                start = time.perf_counter()
                loop(module, images, labels, STEPS[name])
                took[arm] = time.perf_counter() - start
            if turn >= 0:
                ratios.append(took["ours"] / took["plain"])
                plain_ms.append(took["plain"] / STEPS[name] * 1e3)
        found[name] = {"plain_ms_per_step": statistics.median(plain_ms), "rounds": rounds, **interval(ratios)}
    return found


def interval(ratios: list[float]) -> dict[str, float]:
    """The geometric mean of paired ratios and its 95 % interval, by the t distribution on their logarithms."""
    from scipy import stats

    logs = [math.log(ratio) for ratio in ratios]
    mean = statistics.fmean(logs)
    half = float(stats.t.ppf(0.975, len(logs) - 1)) * statistics.stdev(logs) / math.sqrt(len(logs))
    return {"ratio": math.exp(mean), "low": math.exp(mean - half), "high": math.exp(mean + half)}


def one_memory(arm: str, folder: Path) -> None:
    """Train in this fresh process and print its peak memory; ``prepare`` stores the labels for ``distilled``."""
    images = np.load(folder / "images.npy", mmap_mode="r")
    labels = np.load(folder / "labels.npy")
    loader = ArrayLoader(inputs=(images,), target=labels, batch_size=BATCH)
    plan = TrainingPlan(steps=100, learning_rate=RATE)
    loss: Any = Supervised()
    if arm != "alone":
        teacher = LiveTeacher(teacher_net()) if arm in {"prepare", "live"} else _absent
        key: dict[str, Any] = {"teacher_digest": "t", "data_digest": "d", "epochs": 2}
        source = teacher if arm == "live" else cached_teacher(teacher, loader, folder / "kept", **key)
        loss = Distil(source, hard_weight=0.1)
    if arm != "prepare":
        with tempfile.TemporaryDirectory() as scratch:
            train(convolutional(CLASSES), plan, loader, loss, scratch=Path(scratch))
    print(json.dumps({"peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))


def teacher_net() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, CLASSES)
    )


def _absent(batch: object) -> tuple[torch.Tensor, ...]:
    raise AssertionError(f"the teacher was asked about {batch}")


def measure_memory(rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images, labels = data(classes=CLASSES)
        np.save(folder / "images.npy", images)
        np.save(folder / "labels.npy", labels)
        peaks: dict[str, list[int]] = {"alone": [], "distilled": [], "live": []}
        _child("prepare", folder)
        for _ in range(rounds):
            for arm, found in peaks.items():
                found.append(_child(arm, folder))
        file_bytes = sum(path.stat().st_size for path in (folder / "kept").rglob("*.npy"))
    return {"label_file_bytes": file_bytes, **{arm: statistics.median(found) for arm, found in peaks.items()}}


def _child(arm: str, folder: Path) -> int:
    command = [sys.executable, __file__, "one-memory", "--arm", arm, "--folder", str(folder)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return int(json.loads(done.stdout)["peak_bytes"])


def time_page(found: dict[str, Any]) -> str:
    rows = [
        f"| {name} | {each['plain_ms_per_step']:.2f} | {(each['ratio'] - 1) * 100:.1f} % "
        f"[{(each['low'] - 1) * 100:.1f}, {(each['high'] - 1) * 100:.1f}] | {each['rounds']} |"
        for name, each in found.items()
    ]
    met = all(each["ratio"] - 1 <= LIMIT for each in found.values())
    certified = all(each["high"] - 1 <= LIMIT for each in found.values())
    return "\n".join(
        [
            f"Batches of {BATCH}, fp32, one thread; whole runs, with all that a run costs once. "
            "The interval is that of the mean ratio over paired turns.",
            "",
            "| net | plain loop, ms per step | overhead and its 95 % interval | turns |",
            "| --- | --- | --- | --- |",
            *rows,
            "",
            f"At most {LIMIT:.0%}: {'met' if met else 'missed'}; by the interval's bound: "
            f"{'certified' if certified else 'not certified'}.",
        ]
    )


def memory_page(found: dict[str, Any]) -> str:
    mib = {name: value / 2**20 for name, value in found.items()}
    bound = mib["alone"] + mib["label_file_bytes"]
    met = "met" if mib["distilled"] <= bound else "missed"
    return "\n".join(
        [
            f"Peak resident memory of fresh processes, {SAMPLES} images, {CLASSES} classes, batches of {BATCH}.",
            "",
            "| | MiB |",
            "| --- | --- |",
            f"| the student alone | {mib['alone']:.1f} |",
            f"| the labels' file | {mib['label_file_bytes']:.1f} |",
            f"| distilled from kept labels | {mib['distilled']:.1f} |",
            f"| distilled from a live teacher | {mib['live']:.1f} |",
            "",
            f"At most the student alone and the file, {bound:.1f} MiB: {met}.",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["time", "memory", "one-memory"])
    parser.add_argument("--rounds", type=int, help="a trial run of so many rounds")
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.what == "one-memory":
        one_memory(given.arm, given.folder)
        return
    pages = {
        "time": (measure_time, time_page, "What the training loop costs", ROUNDS),
        "memory": (measure_memory, memory_page, "What distilling from kept labels takes in memory", 5),
    }
    measure, write, title, rounds = pages[given.what]
    found = measure(given.rounds or rounds)
    print(write(found))
    if given.rounds is None:
        command = f"python benchmarks/training_overhead.py {given.what}"
        write_results(f"training-{given.what}", title, command, write(found), {"found": found})


if __name__ == "__main__":
    main()
