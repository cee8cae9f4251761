"""Golden vectors: inputs, what an artifact answered to them on the device, and how far another answer may be off."""

from __future__ import annotations

from pydantic import Field

from edgebuild.core.values import Value

#: Next to a build's record, and in a release: golden vectors with a data folder and an outputs folder.
GOLDEN, MANIFEST, INPUTS, OUTPUTS = "golden", "golden.json", "inputs", "outputs"
#: The frozen model in fp32, for any runtime that reads ONNX.
FALLBACK, FALLBACK_MODEL = "fallback", "model.onnx"


class GoldenOutput(Value):
    """One output: an answer may be off by ``atol`` + ``rtol`` times the largest value of its frame."""

    name: str
    file: str
    rtol: float = Field(ge=0)
    atol: float = Field(ge=0)


class Golden(Value):
    """What lies as ``golden.json`` next to the inputs and the expected outputs."""

    schema_version: int = Field(default=1, ge=1, le=1)
    frames: int = Field(ge=1)
    outputs: tuple[GoldenOutput, ...]
