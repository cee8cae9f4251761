"""What planning is pure over: everything it may look at, and nothing that knows a target by name."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from edgebuild.core.artifact import Fp16Meaning, Int8Scheme, Setting
from edgebuild.core.values import Value


class ProfileInput(Value):
    """One profile after profile, target and probe were put together. ``refused`` says why it can't be used here."""

    name: str
    backend: str
    precisions: tuple[Literal["fp32", "fp16", "int8"], ...]
    fp16: Fp16Meaning | None = None
    computes_fp16: bool = False
    schemes: tuple[Int8Scheme, ...] = ()
    quantisers: tuple[str, ...] = ()
    settings: tuple[tuple[tuple[str, Setting], ...], ...] = ()
    refused: str | None = None


class PlanInputs(Value):
    """Project, model and device facts, and the unit costs that estimates are made from (seconds)."""

    target: str
    profiles: tuple[ProfileInput, ...]
    objective: Literal["latency", "throughput", "size", "memory"]
    budget: str
    quantisable_ops: int = Field(ge=0)
    missing_quantisers: dict[str, str] = Field(default_factory=dict)
    time_s: float | None = None
    max_finalists: int = 4
    prepare_s: float = 0.0
    quantise_s: float = 0.0
    compile_s: float = 0.0
    evaluate_s: float = 0.0
    evaluate_test_s: float = 0.0
    screen_launch_s: float = 0.0
    certify_launch_s: float = 0.0
    certify_launches: int = 10
    notes: tuple[str, ...] = ()
