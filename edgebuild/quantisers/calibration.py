"""Calibration frames for the third-party quantisers: the same frames, in the same order, that ours sees."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from edgebuild.core.artifact import Contract
    from edgebuild.core.steps import StepContext
    from edgebuild.quantisers.own.samples import Frames


def all_frames(inputs: Mapping[str, Path], contract: Contract, *, samples: int, ctx: StepContext) -> tuple[Frames, ...]:
    """Return the frames that ``Quantise`` takes for the same arguments, both halves."""
    from edgebuild.models.host_session import HostSession
    from edgebuild.quantisers.own.samples import choose_frames

    session = HostSession(inputs["model"] / "model.onnx", library=inputs.get("library"))
    return choose_frames(inputs["calibration"], contract, samples=samples, seed=ctx.seed, call=session, check=ctx.check)


def feeds(halves: tuple[Frames, ...], ctx: StepContext) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield what the model is fed, stopping when the user does."""
    for half in halves:
        for fed in half:
            ctx.check()
            yield fed


def require_quantised(path: Path, who: str) -> None:
    """Raise ``ModelError`` if a quantiser wrote a file in which nothing is in 8 bits."""
    import onnx

    from edgebuild.errors import ModelError

    model = onnx.load(str(path), load_external_data=False)
    if not any(node.op_type == "DequantizeLinear" for node in model.graph.node):
        raise ModelError(
            f"{who} found nothing to quantise in the model.", hint="Leave it in fp32 or fp16, or shorten keep_float."
        )
