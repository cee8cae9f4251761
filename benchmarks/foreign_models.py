"""Other people's models and files: what is right, what edgebuild does, what the other quantisers do on the same input.

    python benchmarks/foreign_models.py [--cases NAME ...]

The inputs lie in benchmarks/cases, each a whole project whose README says what is right; ``hostile`` holds single
files. Nothing is timed: every candidate is built, evaluated in its runtime on validation and judged, and the test set
stays sealed. The other quantisers get the file as the user has it (a torch model as ``torch.onnx.export`` writes it)
and their defaults, and are evaluated in ONNX Runtime. Writes docs/results/foreign-models.md. Exits with 1 when a case
is wrong.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from evidence import write_results

from edgebuild.building import compress, context, evaluation, making, plans, prepare, splits, targets
from edgebuild.catalogue.project import load_project
from edgebuild.core.steps import NoProgress
from edgebuild.errors import EdgebuildError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

CASES = Path(__file__).resolve().parent / "cases"
MAKERS = ("make_model.py", "save_weights.py")
#: A project whose data are one hostile file.
NPZ_PROJECT = """\
[project]
name = "hostile"
[model]
onnx = "model.onnx"
[[inputs]]
name = "x"
shape = ["batch", 4]
dtype = "float32"
[freeze]
batch = 1
[data]
calibration = "data.npz"
validation = "validation.npz"
test = "test.npz"
[budget]
agreement = 0.9
"""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What became of one candidate: its metric on validation, or the sentence that took its place."""

    recipe: str
    kind: str
    quantiser: str | None
    backend: str
    value: float | None
    outcome: str
    sentence: str


@dataclass(frozen=True, kw_only=True)
class Case:
    """A project, what is right for it in words, and whether what came out is that."""

    name: str
    right: str
    holds: Callable[[Sequence[Found]], bool]
    recipes: tuple[str, ...] = ()


def ours(found: Sequence[Found]) -> list[Found]:
    """Return our own quantiser's candidates of the original model."""
    return [each for each in found if each.quantiser == "edgebuild" and not each.recipe]


def _at_least(bound: float) -> Callable[[Sequence[Found]], bool]:
    return lambda found: bool(ours(found)) and all((each.value or 0.0) >= bound for each in ours(found))


def _judged(found: Sequence[Found]) -> bool:
    """Whether every candidate came to a verdict: a refusal on accuracy is one, a failure isn't."""
    return bool(found) and all(each.outcome != "failed" for each in found)


def _recipes_at_least(bound: float) -> Callable[[Sequence[Found]], bool]:
    """Every fp32 candidate of a recipe has at least this accuracy, or a reason that is no bug of ours."""

    def holds(found: Sequence[Found]) -> bool:
        floats = [each for each in found if each.recipe and each.kind == "fp32"]
        return bool(floats) and all(_reasoned(each) if each.value is None else each.value >= bound for each in floats)

    return holds


def _reasoned(found: Found) -> bool:
    return bool(found.sentence) and "a bug in edgebuild" not in found.sentence


ACCURACY = (
    Case(
        name="two-branch-scale-names",
        right="int8 within a few points: 97.5 % with other names for the two factors",
        holds=_at_least(0.95),
    ),
    Case(name="scalar-offset-int8", right="an int8 candidate that is judged", holds=_judged),
    Case(
        name="barometer-int8",
        right="int8 judged (steps of 397 Pa can't work: a refusal on accuracy is right), fp32 accepted",
        holds=lambda found: _judged(found) and any(e.kind == "fp32" and e.outcome == "accepted" for e in found),
    ),
    Case(name="ir3-resnet-int8", right="int8 candidates, as with IR version 8", holds=_at_least(0.9)),
    Case(name="hf-cache-symlinks", right="the linked files are read", holds=_at_least(0.9)),
    Case(name="tied-weights-safetensors", right="it loads; the output layer is the embedding", holds=_at_least(0.9)),
    Case(
        name="prune-channels-last-layernorm",
        right="channels cut where they lie (99.5 %), or the layer left alone with the reason",
        holds=_recipes_at_least(0.97),
        recipes=("narrow",),
    ),
    Case(
        name="weight-norm-recipes",
        right="normalised weights are baked in, every recipe gives a model",
        holds=_recipes_at_least(0.25),
        recipes=("qat", "shared", "narrow", "sparse"),
    ),
    Case(
        name="weight-norm-recipes-old",
        right="the same for the older spelling",
        holds=_recipes_at_least(0.25),
        recipes=("qat", "shared", "narrow", "sparse"),
    ),
)


def build(folder: Path, recipes: tuple[str, ...]) -> list[Found]:
    """Build, evaluate and judge every candidate of a project on validation."""
    options = context.Options(targets=("this-machine",), recipes=recipes)
    with (
        context.open_build(load_project(folder), options, progress=NoProgress()) as opened,
        targets.open_targets(opened, context.targets_of(opened.project, options)) as there,
    ):
        common = prepare.prepare(opened, prepare.import_model(opened))
        plan, at = plans.plan_target(there[0], common)
        models = compress.compress_models(plan, common, at)
        split = splits.JudgedSplit.whole("validation", common.validation, common.reference)
        return [_found(each) for each in making.make_candidates(plan, models, common, split, at).built]


def _found(built: evaluation.Built) -> Found:
    verdict = built.verdict if isinstance(built, evaluation.Evaluation) else None
    drop = verdict.drop if verdict else None
    precision = built.planned.precision
    return Found(
        recipe=built.planned.recipe or "",
        kind=precision.kind,
        quantiser=precision.quantiser,
        backend=built.planned.backend,
        value=drop.artifact if drop else None,
        outcome=verdict.outcome.value if verdict else "failed",
        sentence=built.reason
        if isinstance(built, evaluation.FailedCandidate)
        else "; ".join(verdict.reasons if verdict else ()),
    )


class Peers:
    """What onnxruntime's and NNCF's quantisers make of a project's model, called directly with their defaults."""

    def __init__(self, folder: Path) -> None:
        self.project = load_project(folder)
        sys.path.insert(0, str(folder))
        for name in ("model", "data"):
            sys.modules.pop(name, None)
        self.data = importlib.import_module("data")
        self.model = self._onnx(folder)
        sys.path.remove(str(folder))
        self.folder = folder

    def _onnx(self, folder: Path) -> Path:
        if self.project.model.factory is None:
            return folder / str(self.project.model.onnx)
        import torch

        module, _, name = self.project.model.factory.partition(":")
        net = getattr(importlib.import_module(module), name)().eval()
        if (folder / "weights.safetensors").exists():
            from safetensors.torch import load_model

            load_model(net, str(folder / "weights.safetensors"))
        sample = next(iter(self.data.calibration()))
        inputs = tuple(torch.from_numpy(np.asarray(value)[None]) for value in sample.inputs.values())
        path = folder / "plain.onnx"
        torch.onnx.export(net, inputs, str(path), input_names=list(sample.inputs), dynamo=True, external_data=False)
        return path

    def frames(self, split: str) -> Iterator[dict[str, Any]]:
        """Yield the feeds of a split, a batch of one each."""
        for sample in getattr(self.data, split)():
            yield {name: np.asarray(value)[None] for name, value in sample.inputs.items()}

    def score(self, path: Path) -> str:
        """Return the project's metric of a file in ONNX Runtime on validation."""
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        outputs = [session.run(None, feed)[0][0] for feed in self.frames("validation")]
        targets = [sample.target for sample in self.data.validation()]
        if self.project.metric is not None and self.project.metric.name == "mae":
            return f"MAE {np.mean([np.abs(o - t).mean() for o, t in zip(outputs, targets, strict=True)]):.3f}"
        hits = np.mean([int(o.argmax()) == t for o, t in zip(outputs, targets, strict=True)])
        return f"{100 * hits:.1f} %"

    def onnxruntime(self) -> str:
        """``quantize_static`` with its defaults."""
        from onnxruntime import quantization

        frames = self.frames("calibration")

        class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
            def get_next(self) -> dict[str, Any] | None:
                return next(frames, None)

        target = self.folder / "ort.onnx"
        quantization.quantize_static(str(self.model), str(target), Reader())
        return self.score(target)

    def nncf(self) -> str:
        """``nncf.quantize`` with its defaults."""
        import nncf
        import onnx

        quantised = nncf.quantize(onnx.load(str(self.model)), nncf.Dataset(list(self.frames("calibration"))))
        target = self.folder / "nncf.onnx"
        onnx.save(quantised, str(target))
        return self.score(target)


def tried(call: Callable[[], str]) -> str:
    """Return what a call gives, or how it failed."""
    try:
        return call()
    except Exception as error:  # noqa: BLE001  how a peer fails is the result
        return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:120]}"


def run_case(case: Case, scratch: Path) -> dict[str, Any]:
    """Return the row of one case."""
    print(case.name, file=sys.stderr, flush=True)
    folder = scratch / case.name
    shutil.copytree(CASES / case.name, folder)
    for maker in MAKERS:
        if (folder / maker).exists():
            subprocess.run([sys.executable, maker], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    try:
        found = build(folder, case.recipes or ("none",))
        said = ""
    except EdgebuildError as error:
        found, said = [], error.message
    except Exception as error:  # noqa: BLE001  a traceback is a result, and a wrong one
        found, said = [], f"traceback: {type(error).__name__}: {error}"
    others = {"onnxruntime": "–", "NNCF": "–"}
    if not case.recipes:
        peers = Peers(folder)
        others = {
            "onnxruntime": _short(tried(peers.onnxruntime), folder),
            "NNCF": _short(tried(peers.nncf), folder),
        }
    return {
        "case": case.name,
        "right": case.right,
        "edgebuild": said or "; ".join(_words(each) for each in found if each.recipe or not case.recipes),
        "holds": case.holds(found),
        **others,
        "candidates": [vars(each) for each in found],
    }


def _short(text: str, scratch: Path) -> str:
    """Name no folder of this run, and quote no more of a hostile name than anybody reads."""
    return re.sub(r"(.)\1{20,}", r"\1\1\1…", text.replace(f"{scratch}/", ""))[:160]


def _words(found: Found) -> str:
    who = found.recipe + " " if found.recipe else ""
    who += found.kind if found.kind != "int8" else f"int8 ({found.quantiser})"
    value = "" if found.value is None else f" {found.value:.3f}"
    sentence = f": {found.sentence[:200]}" if found.outcome == "failed" else ""
    return f"{who} on {found.backend}{value} {found.outcome}{sentence}"


def run_hostile(path: Path, scratch: Path) -> dict[str, Any]:
    """Give one hostile file to the command that would meet it; right is one sentence and a documented exit code."""
    folder = Path(tempfile.mkdtemp(dir=scratch))
    if path.suffix == ".onnx":
        shutil.copy(path, folder / "model.onnx")
        command = ["init", "model.onnx"]
    elif path.suffix == ".toml":
        shutil.copy(path, folder / "edgebuild.toml")
        command = ["plan"]
    else:
        _npz_project(path, folder)
        command = ["build", "--target", "this-machine", "--time", "1m"]
    done = subprocess.run(
        [sys.executable, "-m", "edgebuild", *command], cwd=folder, capture_output=True, text=True, errors="replace"
    )
    lines = done.stderr.splitlines()
    first = next((at for at, line in enumerate(lines) if line.startswith("edgebuild: ")), 0)
    said = " ".join(line.strip() for line in lines[first : first + 2] if "how to fix it" not in line)
    traceback = "Traceback" in done.stderr
    return {
        "file": path.name,
        "command": "edgebuild " + " ".join(command),
        "exit": done.returncode,
        "said": _short(said.removeprefix("edgebuild: "), folder),
        "holds": not traceback and done.returncode in (0, 2),
    }


def _npz_project(path: Path, folder: Path) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.ones((4, 2), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
        [weight],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "model.onnx"
    )
    for split in ("data", "validation", "test"):
        shutil.copy(path, folder / f"{split}.npz")
    (folder / "edgebuild.toml").write_text(NPZ_PROJECT, encoding="utf-8")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def page(rows: Sequence[dict[str, Any]], files: Sequence[dict[str, Any]]) -> str:
    """The two tables."""
    return "\n".join(
        [
            f"{sum(row['holds'] for row in rows)} of {len(rows)} cases and {sum(row['holds'] for row in files)} of "
            f"{len(files)} hostile files end as is right. Values are the project's metric on validation (300 to 1,000 "
            "samples); the test sets stayed sealed. The other quantisers got the same file, their defaults, and ONNX "
            "Runtime.",
            "",
            "| case | right | edgebuild | holds | onnxruntime's quantiser | NNCF |",
            "|---|---|---|---|---|---|",
            *[
                f"| [{row['case']}](../../benchmarks/cases/{row['case']}/README.md) | {_cell(row['right'])} | "
                f"{_cell(row['edgebuild'])} | {'yes' if row['holds'] else '**no**'} | {_cell(row['onnxruntime'])} | "
                f"{_cell(row['NNCF'])} |"
                for row in rows
            ],
            "",
            "Hostile files: right is one sentence and a documented exit code.",
            "",
            "| file | command | exit | said | holds |",
            "|---|---|---|---|---|",
            *[
                f"| {row['file']} | `{row['command']}` | {row['exit']} | {_cell(row['said'])} | "
                f"{'yes' if row['holds'] else '**no**'} |"
                for row in files
            ],
        ]
    )


def main() -> None:
    """Run the cases and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=[case.name for case in ACCURACY])
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as scratch:
        chosen = [case for case in ACCURACY if not arguments.cases or case.name in arguments.cases]
        rows = [run_case(case, Path(scratch)) for case in chosen]
        files = (
            [] if arguments.cases else [run_hostile(p, Path(scratch)) for p in sorted((CASES / "hostile").iterdir())]
        )
    text = page(rows, files)
    if arguments.cases:
        print(text)
    else:
        command = "python benchmarks/foreign_models.py"
        print(
            write_results(
                "foreign-models", "Other people's models and files", command, text, {"rows": rows, "files": files}
            )
        )
    sys.exit(0 if all(row["holds"] for row in [*rows, *files]) else 1)


if __name__ == "__main__":
    main()
