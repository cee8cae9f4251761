"""What planning is pure over: everything it may look at, and nothing that knows a target by name."""

from __future__ import annotations

from pydantic import Field

from edgebuild.catalogue.resolve import ResolvedTarget
from edgebuild.core.objective import ObjectiveName
from edgebuild.core.values import Value
from edgebuild.planning.recipes import ModelTraits, Recipe


class UnitCosts(Value):
    """What one piece of work is expected to take here, in seconds: estimates, never evidence.

    ``time_layer_s`` is for one layer of the model against its replacement, ``quantise_s`` by quantiser, of which
    ``calibrate_s`` for each of the ``samples`` that it calibrates with, ``evaluate_s`` for one candidate on validation
    with its verdict, ``session_s`` for what every session measures beside its arms, ``finalist_s`` for what is measured
    of a finalist beside its latency. A certify session makes at least ``certify_least`` launches of an arm,
    ``certify_launches`` until its first look, and about ``certify_most`` where there is time. The int8 models of the
    candidates ``ready`` are in the store.
    """

    prepare_s: float = 0.0
    compress_s: float = 0.0
    time_layer_s: float = 0.0
    train_sample_s: float = 0.0
    quantise_s: dict[str, float] = Field(default_factory=dict)
    calibrate_s: dict[str, float] = Field(default_factory=dict)
    samples: int = 0
    compile_s: float = 0.0
    evaluate_s: float = 0.0
    evaluate_test_s: float = 0.0
    reference_test_s: float = 0.0
    crosscheck_s: float = 0.0
    screen_launch_s: float = 0.0
    screen_launches: int = 3
    certify_launch_s: float = 0.0
    certify_least: int = 10
    certify_launches: int = 10
    certify_most: int = 10
    certify_sessions: int = 1
    session_s: float = 0.0
    finalist_s: float = 0.0
    report_s: float = 0.0
    ready: tuple[str, ...] = ()


class PlanInputs(Value):
    """Project, model and device facts.

    ``missing`` maps a backend, quantiser or distribution that isn't installed to how to get it. ``backend_refusals``
    maps a backend to the reason why it can't take this model, ``precision_refusals`` a profile with a precision
    (``CandidateSpec.id``) to the reason why its backend can't build that precision for this device. ``size_limited``
    says that the file's size has a limit, ``recipes_named`` that the recipes were asked for by name: they are tried, or
    it is an error that they can't be. Of ``weight_bytes`` in the model, ``dense_bytes`` are those of matrix products,
    LSTMs and tables; None where that isn't known.
    """

    target: ResolvedTarget
    objective: ObjectiveName
    budget: str
    quantisable_ops: int = Field(ge=0)
    missing: dict[str, str] = Field(default_factory=dict)
    backend_refusals: dict[str, str] = Field(default_factory=dict)
    precision_refusals: dict[str, str] = Field(default_factory=dict)
    size_limited: bool = False
    dense_bytes: int | None = None
    weight_bytes: int | None = None
    time_s: float | None = None
    max_finalists: int = 4
    costs: UnitCosts = UnitCosts()
    recipes: tuple[Recipe, ...] = ()
    recipes_named: bool = False
    ground: ModelTraits = ModelTraits()
    notes: tuple[str, ...] = ()
