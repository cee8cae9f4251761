"""Does `--time` hold? Builds projects from nothing in time boxes, and prints how long each really took.

    python benchmarks/time_boxes.py [--projects fashion-mnist resnet] [--boxes 60 180 600] [--page]

`resnet` is a ResNet of ten layers with random weights (20 MB, 0.9 GMAC at 224 x 224), judged on agreement: it says
nothing about accuracy. Prints for each box the wall time of the whole command, what the plan said, how many candidates
were measured of those made and left out, and the outcome. ``--page`` writes docs/results/time-boxes.md.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from evidence import write_results

from edgebuild.building.context import HOME
from edgebuild.building.record import find_build, load_record
from edgebuild.errors import UsageError

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
BOXES = (60, 180, 600)
#: By how much a box may be outrun.
ALLOWED = 1.1
HEAD = "| project | box, s | planned | wall, s | wall / box | CPU, s | made | certified | left out | outcome |"
WHAT = (
    "Each row is a build from nothing, in a copy of the project without a store: wall time of the whole command, what "
    "its plan said beforehand, how many candidates were made, certified, and left out for want of time."
)
TOML = """\
[project]
name = "resnet"
[model]
factory = "model:resnet"
[[inputs]]
name = "image"
shape = ["batch", 3, 224, 224]
dtype = "float32"
[freeze]
batch = 1
[data]
calibration = "data:calibration"
validation = "data:validation"
test = "data:test"
[budget]
agreement = 0.8
[build]
targets = ["this-machine"]
"""
MODEL = """\
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, given, width, stride):
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(given, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.two = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width))
        self.past = nn.Sequential(nn.Conv2d(given, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x):
        return torch.relu(self.two(self.one(x)) + self.past(x))


def resnet():
    torch.manual_seed(0)
    stem = nn.Sequential(nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
    blocks = [Block(64, 64, 1), Block(64, 128, 2), Block(128, 256, 2), Block(256, 512, 2)]
    return nn.Sequential(stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 100)).eval()
"""
DATA = """\
import numpy as np
from edgebuild import Sample


def images(seed, count):
    generator = np.random.default_rng(seed)
    for _ in range(count):
        coarse = generator.standard_normal((3, 14, 14)).astype(np.float32)
        yield Sample(inputs={"image": coarse.repeat(16, axis=1).repeat(16, axis=2)})


def calibration():
    return images(0, 100)


def validation():
    return images(1, 300)


def test():
    return images(2, 300)
"""


def write_resnet(folder: Path) -> None:
    """Write the project `resnet`."""
    folder.mkdir()
    for name, text in (("edgebuild.toml", TOML), ("model.py", MODEL), ("data.py", DATA)):
        (folder / name).write_text(text)


def run(name: str, box_s: int, folder: Path) -> str:
    """Build a copy of a project that was never built; return a row of the table."""
    project = folder / f"{name}-{box_s}"
    if name == "resnet":
        write_resnet(project)
    else:
        shutil.copytree(EXAMPLES / name, project, ignore=shutil.ignore_patterns(HOME, "__pycache__"))
    command = [sys.executable, "-m", "edgebuild", "build", "--recipe", "none", "--time", f"{box_s}s"]
    before, started = os.times(), time.monotonic()
    ended = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    wall_s, after = time.monotonic() - started, os.times()
    (folder / f"{name}-{box_s}.log").write_text(ended.stdout + ended.stderr)
    cpu_s = sum(after[2:4]) - sum(before[2:4])
    said = re.search(r"candidates? for \S+, about (.*) in all", ended.stderr)
    verdict = "held" if wall_s <= ALLOWED * box_s else "outrun"
    row = f"| {name} | {box_s} | {said.group(1) if said else '–'} | {wall_s:.0f} | {wall_s / box_s:.2f} {verdict} |"
    try:
        record = load_record(find_build(project / HOME))
    except UsageError:
        return f"{row} {cpu_s:.0f} | – | – | – | exit {ended.returncode} |"
    measured = sum(candidate.measured.latency is not None for candidate in record.candidates)
    late = sum("to stay inside" in refusal.reason for refusal in record.refused_in_planning)
    chosen = record.chosen or record.kept or "–"
    return f"{row} {cpu_s:.0f} | {len(record.candidates)} | {measured} | {late} | {record.outcome}: {chosen} |"


def main() -> None:
    """Run every project in every box."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--projects", nargs="+", default=["fashion-mnist", "resnet"])
    parser.add_argument("--boxes", nargs="+", type=int, default=list(BOXES), help="seconds")
    parser.add_argument("--folder", type=Path, help="where projects and logs are left; default: a temporary folder")
    parser.add_argument("--page", action="store_true", help="write docs/results/time-boxes.md")
    given = parser.parse_args()
    lines = [HEAD, "|---|---|---|---|---|---|---|---|---|---|"]
    print("\n".join(lines), flush=True)
    with tempfile.TemporaryDirectory(prefix="edgebuild-boxes-") as scratch:
        folder = given.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for name in given.projects:
            for box_s in given.boxes:
                lines.append(run(name, box_s, folder))
                print(lines[-1], flush=True)
    if given.page:
        command = f"python benchmarks/time_boxes.py --page --projects {' '.join(given.projects)} --boxes "
        command += " ".join(map(str, given.boxes))
        text = "\n".join([WHAT, "", *lines])
        print(write_results("time-boxes", "Does `--time` hold?", command, text, {"rows": lines[2:]}))


if __name__ == "__main__":
    main()
