"""What is too large is refused before it is measured, as long as something that fits may be chosen."""

from __future__ import annotations

from typing import Any, cast

from edgebuild.building.candidates import within_size
from edgebuild.building.evaluation import Evaluation
from edgebuild.core.artifact import Artifact, Contract, FileEntry, Precision
from edgebuild.core.verdict import Outcome, Verdict
from edgebuild.planning.plan import PlannedCandidate


def _built(name: str, size_bytes: int, outcome: Outcome = Outcome.ACCEPTED) -> Evaluation:
    file = FileEntry(path="model.onnx", size_bytes=size_bytes, sha256="0" * 64)
    contract = Contract(inputs=(), outputs=())
    artifact = Artifact(
        backend="onnxruntime",
        entry="model.onnx",
        files=(file,),
        contract=contract,
        settings=(),
        precision=Precision(kind="fp32"),
    )
    planned = PlannedCandidate(
        profile=name, backend="onnxruntime", precision=Precision(kind="fp32"), settings=((),), raced=True
    )
    compiled = cast("Any", None)
    return Evaluation(planned=planned, artifact=artifact, compiled=compiled, verdict=Verdict(outcome=outcome))


def within(built: list[Evaluation], limit_mb: float | None) -> list[Evaluation]:
    return [each for each in within_size(built, limit_mb) if isinstance(each, Evaluation)]


def test_what_misses_the_size_is_refused_with_its_reason() -> None:
    small, large = within([_built("small", 900_000), _built("large", 1_100_000)], 1.0)
    assert small.eligible
    assert not large.eligible
    assert large.verdict is not None
    assert large.verdict.reasons == ("file size 1.1 MB, beyond the limit of 1 MB",)


def test_where_nothing_fits_all_are_measured() -> None:
    found = within([_built("a", 2_000_000), _built("b", 1_100_000)], 1.0)
    assert [each.eligible for each in found] == [True, True]


def test_a_small_one_that_is_refused_refuses_nobody_else() -> None:
    found = within([_built("a", 2_000_000), _built("b", 500_000, Outcome.REFUSED)], 1.0)
    assert [each.eligible for each in found] == [True, False]


def test_without_a_limit_nothing_changes() -> None:
    built = [_built("a", 2_000_000)]
    assert within_size(built, None) == tuple(built)
