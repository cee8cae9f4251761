"""The cross-check's steps: a sample, the comparison with the unoptimised graph, the walk through the layers."""

from __future__ import annotations

import json
import math
import shutil
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from edgebuild.core.artifact import Contract, Setting, TensorSpec
from edgebuild.core.artifact_files import MANIFEST, read_artifact, write_manifest
from edgebuild.core.measurement import Layer
from edgebuild.core.steps import RunsOn, Step
from edgebuild.crosscheck.conclusion import agreeing, gap_in_steps, share_of_reach
from edgebuild.crosscheck.graph import DRAWS, Loop, Steps, Walk, change_of, nudges, session, with_state
from edgebuild.devices.client import client_of
from edgebuild.errors import ModelError
from edgebuild.execution.disk import copy_file
from edgebuild.models import qdq
from edgebuild.models.onnx_files import load_onnx
from edgebuild.models.onnx_graphs import save

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from edgebuild.core.steps import StepContext

#: Reading the layers back takes about fifty inferences.
LAYERS_LIMIT_S = 1800.0
#: What the layers of one call may take: boards have little memory, and links are slow.
SHOWN_BYTES = 128 << 20


class TakeFrames(Step):
    """Copies frames of a data folder: ``rows`` of it, ``lengths`` of which make one sample each."""

    rows: tuple[int, ...]
    lengths: tuple[int, ...]
    kind: ClassVar[str] = "take-frames"
    version: ClassVar[int] = 1
    runs_on: ClassVar[RunsOn] = RunsOn.HOST
    tools: ClassVar[tuple[str, ...]] = ("numpy",)

    def run(self, inputs: Mapping[str, Path], out_dir: Path, ctx: StepContext) -> None:
        """See ``Step``."""
        from edgebuild.models.dataset import Dataset
        from edgebuild.models.subset import take_frames

        ctx.check()
        take_frames(Dataset.open(inputs["data"]), self.rows, self.lengths, out_dir)


class CompareWithGraph(Step):
    """Compares an artifact's outputs on a sample with those of its Q/DQ graph in onnxruntime, nothing optimised.

    Inputs: ``model`` (folder with the Q/DQ ``model.onnx``), ``sample`` (data folder), ``outputs`` (the artifact's, in
    which ``rows`` are the sample's frames), ``library`` (optional). Writes ``crosscheck.json`` and ``worst.json``, the
    frames of the sample with the largest gaps first. A recurrent state is the artifact's own at every step, on both
    sides: the comparison is of one inference each, and gaps don't add up over a sequence.
    """

    contract: Contract
    sample: str
    rows: tuple[int, ...]
    kind: ClassVar[str] = "cross-check"
    version: ClassVar[int] = 2
    runs_on: ClassVar[RunsOn] = RunsOn.HOST_KERNELS
    tools: ClassVar[tuple[str, ...]] = ("numpy", "onnx", "onnxruntime")

    def run(self, inputs: Mapping[str, Path], out_dir: Path, ctx: StepContext) -> None:
        """See ``Step``."""
        from edgebuild.models.outputs import read_outputs

        graph = qdq.QdqGraph(load_onnx(inputs["model"] / "model.onnx"))
        found = {name: array[list(self.rows)] for name, array in read_outputs(inputs["outputs"]).items()}
        loop = Loop(inputs["sample"], self.contract, found)
        steps = Steps(graph, loop.outputs, inputs.get("library"), ctx.seed)
        seen: dict[str, list[NDArray[Any]]] = {name: [] for name in loop.outputs}
        step: dict[str, list[NDArray[Any]]] = {name: [] for name in loop.outputs}
        run = session(qdq.with_codes(graph, steps.last), inputs.get("library"))
        with ctx.progress.task("Cross-checking with the unoptimised graph", total=loop.frames) as task:
            for call, feeds in loop.calls():
                ctx.check()
                values = run(feeds)
                for name, value in steps.of(values, feeds).items():
                    step[name].append(loop.kept(call, value))
                    seen[name].append(loop.kept(call, values[name]))
                task.advance(len(call.keep))
        expected = {name: np.concatenate(parts) for name, parts in seen.items()}
        gaps = {
            name: gap_in_steps(expected[name], np.asarray(found[name]), np.concatenate(step[name]))
            for name in loop.outputs
        }
        worst = max(gaps, key=lambda name: float(gaps[name].max(initial=0.0)))
        result = agreeing(self.sample, loop.frames, worst, float(gaps[worst].max(initial=0.0)))
        share = float((gaps[worst] > 1).mean())
        (out_dir / "crosscheck.json").write_text(result.model_copy(update={"share": share}).to_json())
        per_frame = np.stack([gap.reshape(len(gap), -1).max(axis=1, initial=0.0) for gap in gaps.values()]).max(axis=0)
        (out_dir / "worst.json").write_text(json.dumps(np.argsort(-per_frame, kind="stable").tolist()))


class ReachOfRounding(Step):
    """How far rounding alone reaches: every quantised tensor rounded up or down by chance, all over the sample.

    Inputs as for the comparison. Writes ``reach.json``: the largest gap of the artifact as a multiple of that.
    """

    contract: Contract
    rows: tuple[int, ...]
    kind: ClassVar[str] = "rounding-reach"
    version: ClassVar[int] = 1
    runs_on: ClassVar[RunsOn] = RunsOn.HOST_KERNELS
    tools: ClassVar[tuple[str, ...]] = ("numpy", "onnx", "onnxruntime")

    def run(self, inputs: Mapping[str, Path], out_dir: Path, ctx: StepContext) -> None:
        """See ``Step``."""
        from edgebuild.models.outputs import read_outputs

        graph = qdq.QdqGraph(load_onnx(inputs["model"] / "model.onnx"))
        found = {name: array[list(self.rows)] for name, array in read_outputs(inputs["outputs"]).items()}
        loop = Loop(inputs["sample"], self.contract, found)
        codes = list(graph.quantised)
        plain = session(qdq.with_codes(graph, codes), inputs.get("library"))
        nudged = session(qdq.with_nudges(graph, codes), inputs.get("library"))
        random = np.random.default_rng(ctx.seed)
        seen: dict[str, list[NDArray[Any]]] = {name: [] for name in loop.outputs}
        reach: dict[str, NDArray[Any]] = {}
        with ctx.progress.task("Finding how far rounding reaches", total=loop.frames) as task:
            for call, feeds in loop.calls():
                values = plain(feeds)
                for name in loop.outputs:
                    seen[name].append(loop.kept(call, values[name]))
                for _ in range(DRAWS):
                    ctx.check()
                    moved = nudged({**feeds, **nudges(graph, values, random)})
                    for name in loop.outputs:
                        change = loop.kept(call, change_of(values[name], moved[name])).max(axis=0, initial=0.0)
                        reach[name] = np.maximum(reach.get(name, 0.0), change)
                task.advance(len(call.keep))
        shares = [
            share_of_reach(np.concatenate(seen[name]), np.asarray(found[name]), reach[name]) for name in loop.outputs
        ]
        (out_dir / "reach.json").write_text(json.dumps({"reach": max(shares)}))


class ShowLayers(Step):
    """Writes the model with what its quantised tensors stand for as further outputs, and ``contract.json`` for it."""

    contract: Contract
    kind: ClassVar[str] = "show-layers"
    version: ClassVar[int] = 2
    runs_on: ClassVar[RunsOn] = RunsOn.HOST
    tools: ClassVar[tuple[str, ...]] = ("onnx",)

    def run(self, inputs: Mapping[str, Path], out_dir: Path, ctx: StepContext) -> None:
        """See ``Step``."""
        ctx.check()
        graph = qdq.QdqGraph(load_onnx(inputs["model"] / "model.onnx"))
        shapes = qdq.shapes_of(graph.model)
        batch = self.contract.batch
        # What the runner writes has the batch on its first axis, or is one frame.
        shown = {
            name: shapes[name]
            for name in graph.quantised
            if name in shapes and name not in graph.seen and (batch == 1 or shapes[name][:1] == (batch,))
        }
        size = 4 * sum(math.prod(shape) for shape in shown.values())
        if size > SHOWN_BYTES:
            raise ModelError(f"its layers take {size / 1e6:.0f} MB a call, too much to fetch from a small device")
        save(qdq.with_shown(graph, shown), out_dir / "model.onnx")
        specs = tuple(TensorSpec(name=graph.shown[name], shape=shape, dtype="float32") for name, shape in shown.items())
        contract = with_state(self.contract)
        contract = contract.model_copy(update={"outputs": (*contract.outputs, *specs)})
        (out_dir / "contract.json").write_text(contract.to_json())


class WalkLayers(Step):
    """Recomputes every layer from what the artifact's own layers gave it, and compares codes.

    Inputs: ``model``, ``sample``, ``library`` as for the comparison, ``outputs``: those of the model with its layers
    shown, ``own``: the artifact's, in which ``rows`` are the sample's frames. Writes ``layers.json``: how many were
    checked, the first that is off by more than one step, and whether the layers, all right, make up what the artifact
    computes. As inputs are equal, no layer is blamed for another's fault.
    """

    contract: Contract
    rows: tuple[int, ...]
    kind: ClassVar[str] = "walk-layers"
    version: ClassVar[int] = 3
    runs_on: ClassVar[RunsOn] = RunsOn.HOST_KERNELS
    tools: ClassVar[tuple[str, ...]] = ("numpy", "onnx", "onnxruntime")

    def run(self, inputs: Mapping[str, Path], out_dir: Path, ctx: StepContext) -> None:
        """See ``Step``."""
        from edgebuild.models.outputs import read_outputs

        graph = qdq.QdqGraph(load_onnx(inputs["model"] / "model.onnx"))
        found = read_outputs(inputs["outputs"])
        walk = Walk(graph, Loop(inputs["sample"], self.contract, found), found, inputs.get("library"), ctx)
        fault = walk.first_fault()
        own = {name: np.asarray(array)[list(self.rows)] for name, array in read_outputs(inputs["own"]).items()}
        result = {
            "layers": len(walk.shown),
            "fault": None if fault is None else fault.model_dump(mode="json"),
            "composes": fault is None and walk.composes(own),
        }
        (out_dir / "layers.json").write_text(json.dumps(result, sort_keys=True))


class ShowState(Step):
    """An artifact whose contract counts the states that a call leaves among its outputs; the files are the same."""

    kind: ClassVar[str] = "show-state"
    version: ClassVar[int] = 2
    runs_on: ClassVar[RunsOn] = RunsOn.HOST
    tools: ClassVar[tuple[str, ...]] = ()

    def run(self, inputs: Mapping[str, Path], out_dir: Path, ctx: StepContext) -> None:
        """See ``Step``."""
        ctx.check()
        source = inputs["artifact"]
        artifact = read_artifact(source)
        shutil.copytree(source, out_dir, copy_function=copy_file, dirs_exist_ok=True)
        shown = artifact.model_copy(update={"contract": with_state(artifact.contract)})
        (out_dir / MANIFEST).unlink()
        write_manifest(out_dir, shown)


class ReadLayers(Step):
    """Asks the runtime on the device what it computes each layer of an artifact in. Writes ``layers.json``."""

    settings: tuple[tuple[str, Setting], ...] = ()
    kind: ClassVar[str] = "read-layers"
    version: ClassVar[int] = 1
    runs_on: ClassVar[RunsOn] = RunsOn.DEVICE
    tools: ClassVar[tuple[str, ...]] = ()

    def run(self, inputs: Mapping[str, Path], out_dir: Path, ctx: StepContext) -> None:
        """See ``Step``."""
        artifact, client = read_artifact(inputs["artifact"]), client_of(ctx)
        answer = client.call(
            "layers",
            {
                "backend": artifact.backend,
                "artifact": client.put_folder(inputs["artifact"]),
                "settings": dict(self.settings or artifact.settings),
                "inputs": client.put_folder(inputs["data"]),
            },
            time_limit_s=LAYERS_LIMIT_S,
            check=ctx.check,
        )
        layers = [Layer.model_validate(layer).model_dump(mode="json") for layer in answer["layers"]]
        (out_dir / "layers.json").write_text(json.dumps({"layers": layers}, sort_keys=True))
