"""Trains the depthwise net by the loop, data and recipe of examples/fashion-mnist into `dwnet.safetensors`."""

from __future__ import annotations

import sys
from pathlib import Path

import dwnet  # type: ignore[import-not-found] # beside this script

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "examples" / "fashion-mnist"))

import train  # type: ignore[import-not-found] # noqa: E402 - found once the example's folder is on the path


def main() -> None:
    arguments = train.command_line(
        "Train the depthwise net on Fashion-MNIST.", epochs=10, out=HERE / "dwnet.safetensors"
    )
    recipe = train.Recipe(epochs=arguments.epochs, seed=arguments.seed)
    report = arguments.out.with_suffix(".json")
    train.train(dwnet.dwnet, recipe, weights=arguments.out, report=report, threads=arguments.threads)


if __name__ == "__main__":
    main()
