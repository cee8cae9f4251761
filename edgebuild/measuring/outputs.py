"""The outputs that a device sends back: what was asked for, and in its files what its answer says of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgebuild.core.chunks import chunks
from edgebuild.devices.runner.chain import END
from edgebuild.devices.runner.feeding import tensor_file
from edgebuild.errors import DeviceError, ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from edgebuild.core.artifact import Artifact, TensorSpec


def require_asked(answer: Mapping[str, Any], artifact: Artifact, frames: int, who: str) -> None:
    """Raise where an evaluation's answer isn't one to what was asked, before anything of it is fetched.

    ``DeviceError`` for other frames, outputs or exits; ``ModelError`` for an output whose shape or kind of number is
    not the contract's: then the model computes something else there.
    """
    specs = artifact.contract.outputs
    if answer["frames"] != frames or answer["batch"] != artifact.contract.batch:
        raise _nonsense(who, f"{answer['frames']} frames for {frames}")
    if [output["file"] for output in answer["outputs"]] != [tensor_file(spec.name) for spec in specs]:
        raise _nonsense(who, "other outputs than the artifact has")
    ends = [stage.exit.name for stage in artifact.stages if stage.exit is not None] + [END] if artifact.stages else []
    exits = answer.get("exits", [])
    if [name for name, _ in exits] != ends or (ends and sum(count for _, count in exits) != frames):
        raise _nonsense(who, "other exits than the artifact has, or not one for each frame")
    for output, spec in zip(answer["outputs"], specs, strict=True):
        if not _fits(output["shape"][1:], spec, artifact.contract.batch):
            raise ModelError(
                f"Output {spec.name!r} comes out of the runtime with frames of shape {output['shape'][1:]}, "
                f"and the model says {list(spec.shape)}.",
                hint="Does the model state the shape of its outputs rightly?",
            )
        if ("float" in output["dtype"]) != ("float" in spec.dtype):
            raise ModelError(f"Output {spec.name!r} comes out of the runtime as {output['dtype']}, not {spec.dtype}.")


def require_outputs(folder: Path, answer: Mapping[str, Any], who: str) -> None:
    """Raise ``DeviceError`` for a fetched file that isn't the plain array that its answer says it is."""
    import numpy as np

    for output in answer["outputs"]:
        path = folder / output["file"]
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except Exception as error:  # numpy parses the header as Python: anything may come out of it
            raise _nonsense(who, f"a file for {path.name} that is no array") from error
        said = (output["dtype"], output["shape"])
        if not isinstance(array, np.ndarray) or (array.dtype.name, list(array.shape)) != said:
            raise _nonsense(who, f"an array for {path.name} that is not {said[0]} of shape {said[1]}")
        if not array.dtype.isnative or not array.flags.c_contiguous:
            raise _nonsense(who, f"an array for {path.name} in another order than asked for")
        if _non_finite(array) != output["non_finite"]:
            raise _nonsense(who, f"{output['non_finite']} values of {path.name} that aren't finite, which aren't there")


def _non_finite(array: Any) -> int:
    """Count NaN and infinities, a part at a time: outputs may be larger than memory."""
    import numpy as np

    if array.dtype.kind != "f":
        return 0
    flat = array.reshape(-1)
    return sum(int(np.count_nonzero(~np.isfinite(flat[part]))) for part in chunks(flat))


def _fits(frame: Sequence[int], spec: TensorSpec, batch: int) -> bool:
    """Whether a frame has the contract's shape; without a batch axis (possible at batch 1) it is the whole output.

    Where custom operators hide the rank, the contract has no sizes, and any fits.
    """
    if not spec.shape:
        return True
    wanted = [spec.shape[1:], *([spec.shape] if batch == 1 else [])]
    return any(
        len(shape) == len(frame)
        and all(not isinstance(want, int) or want == size for want, size in zip(shape, frame, strict=True))
        for shape in wanted
    )


def _nonsense(who: str, what: str) -> DeviceError:
    return DeviceError(
        f"{who} answers what makes no sense: {what}.",
        hint="Nothing of it was kept. Try again; if it happens again, the device or its runner is damaged.",
    )
