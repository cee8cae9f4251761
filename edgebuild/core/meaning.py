"""What the numbers of a model mean to who calls it: as its project says, since no file of the model does."""

from __future__ import annotations

from pydantic import Field

from edgebuild.core.values import Value


class InputMeaning(Value):
    """How an input is made of raw values: ``(raw * scale - mean) / std``, one number or one for each channel.

    ``layout`` names the axes by a letter each, such as ``NCHW``.
    """

    name: str
    layout: str | None = None
    scale: float = 1.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


class OutputMeaning(Value):
    """What an output's classes are called, in their order."""

    name: str
    labels: tuple[str, ...] = ()


class Meaning(Value):
    """The inputs and outputs that a project says something of."""

    inputs: tuple[InputMeaning, ...] = Field(default=())
    outputs: tuple[OutputMeaning, ...] = Field(default=())
