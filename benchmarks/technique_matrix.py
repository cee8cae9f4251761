"""Which technique works on which sort of model, and why one doesn't.

    python benchmarks/technique_matrix.py

Every technique of the table is run on every model of tests/techniques/zoo.py: the step itself checks that the model is
rebuilt bit by bit from what was stored and that torch and ONNX agree at several batch sizes. Writes
docs/results/technique-matrix.md.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from evidence import write_results

from edgebuild.techniques.registry import TABLE
from edgebuild.testing.techniques import run_step
from tests.techniques import zoo

if TYPE_CHECKING:
    from edgebuild.testing.techniques import Tried

#: Of all cells, so many work at least; the sorts of models in ``ALWAYS`` work with every technique.
LEAST_SHARE = 0.7
ALWAYS = ("residual", "depthwise", "concat")


def cell(technique: str, animal: str) -> Tried:
    """Run one technique on one model."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        inputs = zoo.write_inputs(zoo.ZOO[animal], folder)
        step = zoo.step_of(TABLE[technique], zoo.ZOO[animal], **zoo.parameters_for(technique, animal))
        return run_step(step, inputs, folder / "out", zoo.context(folder / "scratch"))


def main() -> int:
    """Fill the matrix and write the page; 1 when it misses what is asked of it."""
    found = {(t, a): cell(t, a) for t in TABLE for a in zoo.ZOO}
    works = [key for key, tried in found.items() if tried.report is not None]
    lines = ["| model | " + " | ".join(TABLE) + " |", "| --- |" + " --- |" * len(TABLE)]
    lines += [f"| {a} | " + " | ".join(told(found[t, a]) for t in TABLE) + " |" for a in zoo.ZOO]
    share = len(works) / len(found)
    always = all((t, a) in works for t in TABLE for a in ALWAYS)
    met = share >= LEAST_SHARE and always
    text = f"""
A cell says by what share multiply-accumulates and parameters fell, or why the technique refused. {len(works)} of
{len(found)} cells work ({share:.0%}). Asked for: {LEAST_SHARE:.0%}, and {", ".join(ALWAYS)} always:
{"met" if met else "missed"}.
The models are tiny and untrained: this is about whether a technique works, not about what it is worth.

{chr(10).join(lines)}

What was left alone, and why:

{chr(10).join(_left(t, a, found[t, a]) for t in TABLE for a in zoo.ZOO if _left(t, a, found[t, a]))}
"""
    numbers = {
        "cells": {
            f"{t}/{a}": tried.report.model_dump(mode="json") if tried.report else tried.refusal
            for (t, a), tried in found.items()
        },
        "share": share,
        "met": met,
    }
    page = write_results(
        "technique-matrix", "Techniques and sorts of models", "python benchmarks/technique_matrix.py", text, numbers
    )
    print(f"{page}: {len(works)} of {len(found)} cells work")
    return 0 if met else 1


def told(tried: Tried) -> str:
    if tried.report is None:
        return f"refused: {tried.refusal}"
    r = tried.report
    return f"MACs {_fell(r.macs_before, r.macs_after)}, parameters {_fell(r.parameters_before, r.parameters_after)}"


def _fell(before: int, after: int) -> str:
    return f"{(after - before) / before:+.0%}" if before else "none"


def _left(technique: str, animal: str, tried: Tried) -> str:
    if tried.report is None:
        return ""
    reasons = [f"`{said.layer}`: {said.reason}" for said in tried.report.layers if said.reason]
    return f"- {technique} on {animal}: {'; '.join(reasons)}" if reasons else ""


if __name__ == "__main__":
    sys.exit(main())
